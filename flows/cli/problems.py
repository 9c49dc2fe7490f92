"""`coral problems check|fetch|leak-check`: checks that problems are fit for measuring, and downloads benchmarks."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coral_core.config import RunConfig, load_config
from coral_core.errors import ConfigError, CoralError
from coral_core.problem_sources.quixbugs_table import PINNED, URL
from coral_core.problems.problem import Problem, ProblemSet
from flows.cli.case_text import call_text, expected_text, found_text, shortened
from flows.cli.config import configured
from flows.cli.markup import echo, print_json, table, words
from flows.cli.places import AsJson, Overrides

if TYPE_CHECKING:
    from coral_core.judge.judge import Judge, Verdict

CLONE = Path("data/QuixBugs")
GIT_SECONDS = 300
SHOWN = 3
"""Cases that are shown of an unfit problem."""
LONGEST_SHOWN = 200
"""Characters of a call, or of an outcome, that are shown."""


class UnfitError(CoralError):
    """A problem whose reference fails its cases, or whose buggy version passes them."""


def check(
    source: str,
    /,
    *,
    root: Path | None = None,
    config: Path | None = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Judge reference and buggy version of every problem of SOURCE; exits with 1 when one is unfit.

    A problem is fit when its reference scores 1.0 on bugfix and its buggy version less.
    Functions that must stay right have no buggy version; those that are the reference of
    another problem are not judged twice.

    Args:
        source: builtin, quixbugs, jsonl, package, git or the name of a plug-in.
        root: File or folder that the source reads (problems.path).
        config: A configuration for the other keys and the limits.
    """
    from coral_core.problem_sources import find_problems

    overrides = [*(set_ or []), f"problems.source={source}"]
    if root is not None:
        overrides.append(f"problems.path={json.dumps(str(root))}")
    settings = configured(config, overrides)
    started = time.perf_counter()
    problems = find_problems(settings.problems)
    rows = list(_judged(settings, problems))
    seconds = time.perf_counter() - started
    unfit = [row for row in rows if _refused(row)]
    if as_json:
        print_json(rows)
    else:
        _print(rows, seconds)
        echo(*(words(f"note: {note}", "dim") for note in problems.notes))
    if unfit:
        names = ", ".join(row["problem"] for row in unfit[:8]) + (" …" if len(unfit) > 8 else "")
        raise UnfitError(
            f"{len(unfit)} of {len(rows)} problems of {source} are unfit: {names}",
            remedy="The reference must score 1.0 on bugfix and the buggy version less; correct or remove them.",
        )


def _failures(judge: "Judge", problem: Problem, reference: "Verdict", buggy: "Verdict") -> list[dict[str, Any]]:
    """Why a problem is unfit: cases that its reference fails, or that its buggy version passes; `SHOWN` of them."""
    wrong = [number for number, outcome in enumerate(reference.cases) if outcome != "pass"]
    side = "reference" if wrong else "buggy"
    verdict, text = (reference, problem.reference) if wrong else (buggy, problem.buggy)
    result, records = judge.observe(problem, text)
    rows = []
    for number in (wrong or range(len(problem.cases)))[:SHOWN]:
        case = problem.cases[number]
        record = records[number] if number < len(records) else None
        found = found_text(case, record, verdict.cases[number])
        if record is None and (message := verdict.message or result.message):
            found = f"{found} ({message})"
        rows.append(
            {
                "side": side,
                "case": number,
                "call": shortened(f"{problem.entry_point}{call_text(case)}", LONGEST_SHOWN),
                "expected": shortened(expected_text(case), LONGEST_SHOWN),
                "found": shortened(found, LONGEST_SHOWN),
                "outcome": verdict.cases[number],
            }
        )
    return rows


def _judged(settings: RunConfig, problems: ProblemSet) -> Iterator[dict[str, Any]]:
    """One row per problem, in the order of their names."""
    from coral_core.judge.judge import Judge
    from coral_core.scoring.objectives import bugfix

    with Judge.configured(settings.scoring.judge) as judge:
        for split, problem in _once(problems):
            started = time.perf_counter()
            reference, buggy = judge.judge_batch([(problem, problem.reference), (problem, problem.buggy)])
            row = {
                "problem": problem.problem_id,
                "reference": {"bugfix": bugfix(reference), "cases": _tally(reference.cases)},
                "buggy": None if problem.retention else {"bugfix": bugfix(buggy), "cases": _tally(buggy.cases)},
                "seconds": round(time.perf_counter() - started, 3),
                "split": split,
                "origin": problem.source.partition("/")[2] or None,
                "bug_class": problem.bug_class,
                "difficulty": problem.difficulty,
                "cases": len(problem.cases),
                "slow": sum(case.slow for case in problem.cases),
                "excluded": list(problem.excluded),
                "failures": [],
            }
            yield row | ({"failures": _failures(judge, problem, reference, buggy)} if _refused(row) else {})


def _once(problems: ProblemSet) -> list[tuple[str, Problem]]:
    """All problems with their splits, sorted by id; correct functions that are the reference of a bug are left out."""
    everything = [(split, p) for split in ("fitness", "monitor", "held_out") for p in getattr(problems, split)]
    references = {(p.reference, p.cases[0].model_dump_json()) for _, p in everything if not p.retention}
    kept = [
        (split, p)
        for split, p in everything
        if not (p.retention and (p.reference, p.cases[0].model_dump_json()) in references)
    ]
    return sorted(kept, key=lambda item: item[1].problem_id)


def _tally(cases: Iterable[str]) -> dict[str, int]:
    """Number of cases by outcome; exceptions of all types count as one outcome."""
    return dict(Counter(case.split(":")[0] for case in cases))


def _refused(row: dict[str, Any]) -> bool:
    return row["reference"]["bugfix"] < 1.0 or (row["buggy"] is not None and row["buggy"]["bugfix"] >= 1.0)


def _print(rows: list[dict[str, Any]], seconds: float) -> None:
    columns = ("<problem", "<split", "<bug class", "right", "buggy", "passes", "s")
    echo(table(columns, map(_cells, rows)))
    for row in rows:
        notes = [f"{row['slow']} slow, under limits of their own"] if row["slow"] else []
        if notes := [*notes, *(f"without {text}" for text in row["excluded"])]:
            echo(words(f"{row['problem'].partition('/')[2]}: {'; '.join(notes)}", "dim"))
    for row in rows:
        for each in row["failures"]:
            side = "reference" if each["side"] == "reference" else "buggy version, which passes"
            echo(
                words(f"{row['problem'].partition('/')[2]}, case {each['case']} by its {side}: {each['call']}", "red"),
                words(f"  expected  {each['expected']}"),
                words(f"  came      {each['found']}"),
            )
    if origins := Counter(f"{row['split']}: {row['origin']}" for row in rows if row["origin"]):
        echo(words(", ".join(f"{count} {origin}" for origin, count in sorted(origins.items())), "dim"))
    bugs = [row for row in rows if row["buggy"] is not None]
    right = sum(row["reference"]["bugfix"] >= 1.0 for row in rows)
    below = sum(row["buggy"]["bugfix"] < 1.0 for row in bugs)
    echo(
        f"right (bugfix of the reference): {right} of {len(rows)} at 1.0; buggy: {below} of {len(bugs)} below 1.0; "
        f"{seconds:.1f} s in all"
    )


def _cells(row: dict[str, Any]) -> list[object]:
    buggy, colour = row["buggy"], "red" if _refused(row) else ""
    return [
        words(row["problem"].partition("/")[2], colour),
        row["split"],
        row["bug_class"],
        words(f"{row['reference']['bugfix']:.2f}", colour),
        None if buggy is None else words(f"{buggy['bugfix']:.2f}", colour),
        None if buggy is None else f"{buggy['cases'].get('pass', 0)}/{row['cases']}",
        f"{row['seconds']:.2f}",
    ]


def fetch(
    source: str,
    /,
    *,
    revision: str = PINNED,
    into: Path = CLONE,
    url: str = URL,
    as_json: AsJson = False,
) -> None:
    """Fetch a public benchmark; run it again to move to another revision.

    Args:
        source: quixbugs.
        revision: Commit, tag or branch.
        into: Directory that receives the clone.
        url: Where to clone from: a mirror, or a repository on disk.
    """
    from coral_core.problem_sources.quixbugs import missing

    if source != "quixbugs":
        raise ConfigError(f"problems fetch {source}: cannot be fetched", remedy="Known: quixbugs.")
    if into.exists() and not (into / ".git").exists() and (not into.is_dir() or any(into.iterdir())):
        raise ConfigError(
            f"{into}: exists and is not a clone", remedy="Choose another directory with --into, or remove it."
        )
    into.mkdir(parents=True, exist_ok=True)
    if not (into / ".git").exists():
        _git(into, "init", "--quiet")
    _git(into, "fetch", "--quiet", "--depth", "1", url, revision)
    _git(into, "checkout", "--quiet", "--force", "--detach", "FETCH_HEAD")
    for complaint in missing(str(into)):
        raise ConfigError(complaint)
    commit = _git(into, "rev-parse", "HEAD")
    if as_json:
        print_json({"schema_version": 1, "source": source, "path": str(into), "commit": commit, "pinned": PINNED})
        return
    print(f"QuixBugs {commit} in {into}. Next: coral problems check quixbugs --root {into}")
    if commit != PINNED:
        print(f"note: split, slow and excluded cases are those of {PINNED}; check before you measure")


def _git(folder: Path, *arguments: str) -> str:
    """Output of a git command. Raises `ConfigError` with git's last line."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
        problem = (done.stderr.strip().splitlines() or ["no reason given"])[-1] if done.returncode else ""
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        raise ConfigError(
            f"{folder}: git {' '.join(arguments)} failed: {problem}",
            remedy="Check git, network and revision, or name a mirror or a clone on disk with --url; a clone that you have "
            "already is used with --root or problems.path.",
        )
    return done.stdout.strip()


def leak_check(config: Path, /, *, set_: Overrides = None, as_json: AsJson = False) -> None:
    """List functions that cross splits and benchmark answers in the training data; exits with 1 when a run is refused.

    Args:
        config: The configuration.
    """
    from coral_core.problem_sources import load_problems
    from coral_core.problem_sources.leak_guard import leaks

    settings = load_config(config, set_ or []).problems
    problems = load_problems(settings)
    alike_on_purpose = settings.source == "builtin" and settings.training.source in ("auto", "builtin")
    found = leaks(problems, near=not alike_on_purpose)
    refused = [leak for leak in found if leak.kind != "near-duplicate" or problems.benchmark]
    accepted = {settings.source, *filter(None, [problems.answers_of])} <= set(settings.accept_leaks)
    sizes = {"training": len(problems.pairs)} | {n: len(problems.split(n)) for n in ("fitness", "monitor", "held_out")}
    if as_json:
        print_json({"schema_version": 1, "leaks": found, "refused": len(refused), "accepted": accepted, "sizes": sizes})
    else:
        print(f"{settings.source}: {', '.join(f'{count} {name}' for name, count in sizes.items())}")
        for leak in found:
            print(f"  {'leak' if leak in refused else 'note'}  {leak}")
        if alike_on_purpose:
            print("near-duplicates not searched: built-in problems are split by family, variant and bug class")
        state = "none" if not found else f"{len(refused)} leaks, {len(found) - len(refused)} notes"
        print(state + (", accepted by problems.accept_leaks" if refused and accepted else ""))
    if refused and not accepted:
        raise SystemExit(1)
