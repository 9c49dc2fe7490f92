"""`coral problems history|show`: the fixes in a repository's history, and one problem with where it comes from."""

import difflib
import sys
from pathlib import Path
from typing import Any

from coral_core.errors import ConfigError
from coral_core.problem_sources.history.fix import CommitOutcome
from coral_core.problem_sources.history.history_problems import provenance
from coral_core.problem_sources.history.walk import History, day, walk
from coral_core.problems.problem import Problem, ProblemSet
from flows.cli.config import configured
from flows.cli.markup import echo, listing, print_json, table, words
from flows.cli.places import AsJson, Overrides


def history(
    path: Path,
    /,
    *,
    why: str | None = None,
    config: Path | None = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Find the commits of a repository that fix functions and whose tests show it; count why the others give no problem.

    Runs the tests of each commit, before and after. Results are cached by commit, so it may be ended and started again;
    `coral evolve` with `problems.source: git` uses them.

    Args:
        path: A clone or a bare repository.
        why: Beginning of a commit's hash: show all that is known of it.
        config: A configuration for the keys below problems.history.
    """
    overrides = ["problems.source=git", *(set_ or [])]
    settings = configured(config, overrides).problems.model_copy(update={"path": str(path)})
    found = walk(settings, _show_progress if sys.stderr.isatty() else None)
    outcomes = found.outcomes if why is None else [_named(found, why)]
    if as_json:
        rows = [facts(outcome) for outcome in outcomes]
        print_json({"schema_version": 1, "revision": found.revision, "reasons": found.reasons, "commits": rows})
    elif why is not None:
        echo(*(words(line) for line in _details(outcomes[0])))
    else:
        print_history(found)


def facts(outcome: CommitOutcome) -> dict[str, Any]:
    """What is known of a commit, as JSON data, without texts of code."""
    return {
        "commit": outcome.commit,
        "author_date": day(outcome.author_time) if outcome.author_time >= 0 else None,
        "message": outcome.message,
        "reason": outcome.reason,
        "detail": outcome.detail,
        "failing_before": list(outcome.failing),
        "problems": [
            {
                "function": fix.function.definition.key,
                "cases": len(fix.function.cases),
                "recorded": min(fix.function.recorded, len(fix.function.cases)),
                "failing": fix.function.bugs[0].failing,
            }
            for fix in outcome.fixes
        ],
        "refused": list(outcome.refused),
        "left_out": list(outcome.left_out),
    }


def _show_progress(done: int, total: int, problems: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r{done} of {total} commits, {problems} problems", end=end, file=sys.stderr, flush=True)


def _named(found: History, beginning: str) -> CommitOutcome:
    fitting = [outcome for outcome in found.outcomes if outcome.commit.startswith(beginning)]
    if len(fitting) != 1:
        raise ConfigError(
            f"--why {beginning}: {len(fitting)} of the {len(found.outcomes)} commits begin so",
            remedy="Give more of the hash, or walk further: --set problems.history.max_commits=N",
        )
    return fitting[0]


def print_history(found: History) -> None:
    """Print the fixes of a walk, and how many commits give no problem for which reason."""
    rows = [
        (
            outcome.commit[:12],
            day(outcome.author_time),
            fix.function.definition.key,
            len(fix.function.cases),
            f"{fix.function.bugs[0].failing:.2f}",
            outcome.subject[:60],
        )
        for outcome in found.outcomes
        for fix in outcome.fixes
    ]
    if rows:
        echo(table(("<commit", "<date", "<function", "cases", "failing before", "<message"), rows))
    total = len(found.outcomes)
    echo(f"{found.problems} problems in {total} commits ({1000 * found.problems / max(1, total):.0f} per 1,000)")
    echo(*(words(f"  {count} commits: {reason}") for reason, count in found.reasons.items()))


def _details(outcome: CommitOutcome) -> list[str]:
    date = day(outcome.author_time) if outcome.author_time >= 0 else "no readable date"
    lines = [f"{outcome.commit}  {date}", *(f"    {line}" for line in outcome.message.splitlines())]
    if outcome.reason:
        lines.append(f"gives no problem: {outcome.reason}" + (f" ({outcome.detail})" if outcome.detail else ""))
    lines += [f"fails before, passes after: {name}" for name in outcome.failing]
    lines += [
        f"problem: {fix.function.definition.key}, {len(fix.function.cases)} cases, {fix.function.bugs[0].failing:.0%} fail before"
        for fix in outcome.fixes
    ]
    lines += [f"no problem: {text}" for text in outcome.refused]
    lines += [f"not copied: {text}" for text in outcome.left_out]
    return lines


def show(
    problem: str,
    /,
    *,
    config: Path,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show a problem: what differs between buggy and right, its cases, and the commit that it comes from.

    The commit (source git) is known where the history was walked; it is never shown to a model.

    Args:
        problem: Id of the problem, or the end of it.
        config: The configuration whose problems it is one of.
    """
    from coral_core.problem_sources import load_problems

    settings = configured(config, set_ or []).problems
    problems = load_problems(settings)
    split, found = _find(problems, problem)
    commit = provenance(found.problem_id, settings.python)
    if as_json:
        data = {"schema_version": 1, "split": split, **found.model_dump(mode="json")}
        print_json(data | {"commit": facts(commit) if commit else None})
        return
    echo(words(found.problem_id, "bold"))
    echo(words(f"{split}, {found.source}, {found.bug_class}, {found.difficulty}, {len(found.cases)} cases"))
    echo(*(words(line) for line in (_details(commit) if commit else ())))
    buggy, right = (f"{text}\n".splitlines(keepends=True) for text in (found.buggy, found.reference))
    changed = "".join(difflib.unified_diff(buggy, right, "buggy", "right"))
    echo(listing(changed, "diff") if changed else listing(found.reference, "python"))


def _find(problems: ProblemSet, name: str) -> tuple[str, Problem]:
    everything = [(split, p) for split in ("fitness", "monitor", "held_out") for p in getattr(problems, split)]
    fitting = [(split, p) for split, p in everything if p.problem_id == name] or [
        (split, p) for split, p in everything if p.problem_id.endswith(name)
    ]
    if len(fitting) != 1:
        raise ConfigError(
            f"{name}: {len(fitting)} of the {len(everything)} problems have this id or end so",
            remedy="coral problems check lists the ids.",
        )
    return fitting[0]
