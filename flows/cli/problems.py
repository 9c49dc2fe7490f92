"""`coral problems check|fetch|leak-check`: whether problems can be used to measure with."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from coral_core.config import RunConfig, load_config
from coral_core.errors import ConfigError, CoralError
from coral_core.problem_sources.quixbugs_table import PINNED, URL
from coral_core.problems.problem import Problem, ProblemSet
from flows.cli.config import AsJson, Overrides, configured
from flows.cli.markup import marked

CLONE = Path("data/QuixBugs")
GIT_SECONDS = 300


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
        source: builtin, quixbugs, jsonl, package or the name of a plug-in.
        root: What the source reads (problems.path).
        config: A configuration for the other keys and the limits.
    """
    overrides = [*(set_ or []), f"problems.source={source}"]
    if root is not None:
        overrides.append(f"problems.path={json.dumps(str(root))}")
    settings = configured(config, overrides)
    started = time.perf_counter()
    rows = list(_judged(settings))
    seconds = time.perf_counter() - started
    unfit = [row for row in rows if _refused(row)]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _print(rows, seconds)
    if unfit:
        names = ", ".join(row["problem"] for row in unfit[:8]) + (" …" if len(unfit) > 8 else "")
        raise UnfitError(
            f"{len(unfit)} of {len(rows)} problems of {source} are unfit: {names}",
            remedy="The reference must score 1.0 on bugfix and the buggy version less; correct or remove them.",
        )


def _judged(settings: RunConfig) -> Iterator[dict[str, Any]]:
    """One row per problem, in the order of their names."""
    from coral_core.judge.judge import Judge
    from coral_core.problem_sources import find_source
    from coral_core.scoring.objectives import bugfix

    problems = find_source(settings.problems.source)(settings.problems)
    with Judge.configured(settings.scoring.judge) as judge:
        for split, problem in _once(problems):
            started = time.perf_counter()
            reference, buggy = judge.judge_batch([(problem, problem.reference), (problem, problem.buggy)])
            yield {
                "problem": problem.problem_id,
                "reference": {"bugfix": bugfix(reference), "cases": _tally(reference.cases)},
                "buggy": None if problem.retention else {"bugfix": bugfix(buggy), "cases": _tally(buggy.cases)},
                "seconds": round(time.perf_counter() - started, 3),
                "split": split,
                "bug_class": problem.bug_class,
                "difficulty": problem.difficulty,
                "cases": len(problem.cases),
                "slow": sum(case.slow for case in problem.cases),
                "excluded": list(problem.excluded),
            }


def _once(problems: ProblemSet) -> list[tuple[str, Problem]]:
    """Every problem with its split; correct functions that are the reference of a bug are left out."""
    everything = [(split, p) for split in ("fitness", "monitor", "held_out") for p in getattr(problems, split)]
    references = {(p.reference, p.cases[0].model_dump_json()) for _, p in everything if not p.retention}
    kept = [
        (split, p)
        for split, p in everything
        if not (p.retention and (p.reference, p.cases[0].model_dump_json()) in references)
    ]
    return sorted(kept, key=lambda item: item[1].problem_id)


def _tally(cases: Iterable[str]) -> dict[str, int]:
    """Number of cases by outcome, whatever the exception."""
    return dict(Counter(case.split(":")[0] for case in cases))


def _refused(row: dict[str, Any]) -> bool:
    return row["reference"]["bugfix"] < 1.0 or (row["buggy"] is not None and row["buggy"]["bugfix"] >= 1.0)


def _print(rows: list[dict[str, Any]], seconds: float) -> None:
    out = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("problem", "split", "bug class", "right", "buggy", "passes", "s"):
        words = name in ("problem", "split", "bug class")
        table.add_column(name, justify="left" if words else "right", no_wrap=True)
    for row in rows:
        buggy = row["buggy"]
        table.add_row(
            marked(row["problem"].partition("/")[2]),
            row["split"],
            marked(row["bug_class"]),
            f"{row['reference']['bugfix']:.2f}",
            "-" if buggy is None else f"{buggy['bugfix']:.2f}",
            "-" if buggy is None else f"{buggy['cases'].get('pass', 0)}/{row['cases']}",
            f"{row['seconds']:.2f}",
            style="red" if _refused(row) else "",
        )
    out.print(table)
    for row in rows:
        notes = [f"{row['slow']} slow, under limits of their own"] if row["slow"] else []
        notes += [f"without {text}" for text in row["excluded"]]
        if notes:
            out.print(f"[dim]{marked(row['problem'].partition('/')[2])}: {marked('; '.join(notes))}[/dim]")
    bugs = [row for row in rows if row["buggy"] is not None]
    right = sum(row["reference"]["bugfix"] >= 1.0 for row in rows)
    below = sum(row["buggy"]["bugfix"] < 1.0 for row in bugs)
    out.print(
        f"right (bugfix of the reference): {right} of {len(rows)} at 1.0; buggy: {below} of {len(bugs)} below 1.0; "
        f"{seconds:.1f} s in all"
    )


def fetch(source: str, /, *, revision: str = PINNED, into: Path = CLONE, url: str = URL) -> None:
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
    print(f"QuixBugs {commit} in {into}. Next: coral problems check quixbugs --root {into}")
    if commit != PINNED:
        print(f"note: split, slow and excluded cases are those of {PINNED}; check before you measure")


def _git(folder: Path, *arguments: str) -> str:
    """Output of a git command. Raises `ConfigError` with git's last line."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        raise ConfigError(f"{folder}: git is not installed, and fetching needs it", remedy="Install git.") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{folder}: git {arguments[0]} took longer than {GIT_SECONDS} s", remedy="Try again later."
        ) from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(
            f"{folder}: git {' '.join(arguments)} failed: {reason}",
            remedy="Check network and revision, or name a mirror or a clone on disk with --url; a clone that you have "
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
        listed = [leak.model_dump(mode="json") for leak in found]
        print(json.dumps({"leaks": listed, "refused": len(refused), "accepted": accepted, "sizes": sizes}, indent=1))
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
