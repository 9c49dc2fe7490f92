"""Bugs from history: fixes found per 1,000 commits of the clones in a directory, and their verdicts under the judge.

    make git-bugs REPOS=DIR [COMMITS=500]

Each folder of DIR that is a git repository is walked (`coral problems history`), newest commit first; nothing is cloned. Then
every problem found is judged anew: its reference has to score 1.0 on bugfix, the text before the fix less. Results of
commits are cached, so an interrupted run goes on.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.record import write
from coral_core.config.tree import HistoryConfig, ProblemsConfig
from coral_core.errors import ConfigError, CoralError
from coral_core.judge.judge import Judge
from coral_core.problem_sources.history.repository import git_directory
from coral_core.problem_sources.history.walk import History, day, walk
from coral_core.problems.problem import Problem
from coral_core.scoring.objectives import bugfix


def repositories(folder: Path) -> list[Path]:
    """Clones and bare repositories in a folder, one level or two below it.

    Raises:
        SystemExit: there is none.
    """
    found: list[Path] = []
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        try:
            git_directory(path)
        except (ConfigError, OSError):
            continue
        if path.name != ".git" and not any(known in path.parents for known in found):
            found.append(path)
    if not found:
        raise SystemExit(f"{folder}: no git repository in it. Clone some there first.")
    return found


def problems_of(history: History) -> list[Problem]:
    """The fixes of a walk as problems."""
    return [
        Problem(
            problem_id=f"git/{outcome.commit[:12]}/{fix.function.definition.key}",
            entry_point=fix.function.definition.entry_point,
            buggy=fix.function.bugs[0].source,
            reference=fix.function.definition.source,
            cases=fix.function.cases,
        )
        for outcome in history.outcomes
        for fix in outcome.fixes
    ]


def measure(path: Path, limits: HistoryConfig, name: str) -> dict[str, Any]:
    """Walk one repository and judge its problems."""
    started = time.perf_counter()
    shown = 0.0

    def progress(done: int, total: int, found: int) -> None:
        nonlocal shown
        if done == total or time.perf_counter() - shown > 10:
            shown = time.perf_counter()
            print(f"{name}: {done} of {total} commits, {found} problems", file=sys.stderr, flush=True)

    history = walk(ProblemsConfig(source="git", path=str(path), history=limits), progress)
    seconds = time.perf_counter() - started
    problems = problems_of(history)
    with Judge() as judge:
        requests = [(problem, text) for problem in problems for text in (problem.reference, problem.buggy)]
        scores = [bugfix(verdict) for verdict in judge.judge_batch(requests)]
    dates = [outcome.author_time for outcome in history.outcomes if outcome.author_time >= 0]
    commits = len(history.outcomes)
    return {
        "repository": name,
        "revision": history.revision,
        "commits": commits,
        "dates": [day(min(dates)), day(max(dates))] if dates else [],
        "problems": len(problems),
        "fixing_commits": sum(bool(outcome.fixes) for outcome in history.outcomes),
        "per_1000_commits": round(1000 * len(problems) / max(1, commits), 1),
        "reference_1": sum(score >= 1.0 for score in scores[::2]),
        "buggy_below": sum(score < 1.0 for score in scores[1::2]),
        "reasons": history.reasons,
        "functions_refused": dict(
            Counter(text.partition(": ")[2][:80] for each in history.outcomes for text in each.refused).most_common(10)
        ),
        "seconds": round(seconds, 1),
        "found": [
            {"commit": outcome.commit[:12], "date": day(outcome.author_time), "function": fix.function.definition.key}
            for outcome in history.outcomes
            for fix in outcome.fixes
        ],
    }


def main() -> None:
    """Measure each repository of a directory and write ``benchmarks/results/git_bugs.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="directory with clones or bare repositories")
    parser.add_argument("--commits", type=int, default=500, help="commits per repository at most, newest first")
    parser.add_argument("--seconds", type=float, default=120, help="limit of the test runs of one commit")
    parser.add_argument("--workers", type=int, default=0, help="commits at a time; 0: one per core")
    parser.add_argument("--only", nargs="*", default=[], help="repositories whose path contains one of these words")
    given = parser.parse_args()
    limits = HistoryConfig(max_commits=given.commits, seconds=given.seconds, workers=given.workers)
    rows = []
    for path in repositories(given.folder):
        name = "/".join(path.relative_to(given.folder).parts)
        if given.only and not any(word in name for word in given.only):
            continue
        try:
            rows.append(measure(path, limits, name))
        except CoralError as error:
            rows.append({"repository": name, "error": str(error)})
        print({key: rows[-1].get(key) for key in ("repository", "commits", "problems", "per_1000_commits", "error")})
    measured = [row for row in rows if "error" not in row]
    total = {
        key: sum(row[key] for row in measured)
        for key in ("commits", "problems", "fixing_commits", "reference_1", "buggy_below")
    }
    total["per_1000_commits"] = round(1000 * total["problems"] / max(1, total["commits"]), 1)
    write("git_bugs", {"limits": limits.model_dump(mode="json"), "total": total, "repositories": rows})


if __name__ == "__main__":
    main()
