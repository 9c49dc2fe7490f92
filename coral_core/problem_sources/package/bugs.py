"""Breaks functions and keeps the bugs that the judge finds by a recorded case.

The judge runs each reference first: a function that it cannot run (files, threads, too much memory) is refused here,
before an evolution starts.
"""

import os
import random
from collections.abc import Mapping, Sequence

from pydantic import Field

from coral_core.digest import seed_from
from coral_core.frozen import Frozen
from coral_core.judge.judge import Judge, Limits
from coral_core.judge.sandbox.zygote_pool import BASE_LAYERS
from coral_core.problem_sources.package.cases import Cased
from coral_core.problem_sources.package.discovery import Found
from coral_core.problems.mutation import Mutation, mutation_classes, mutators
from coral_core.problems.normal_form import normal_form
from coral_core.problems.problem import BugClass, Problem

TRIED = 8
"""Mutations of a function that are tried per bug class."""
MOST = 32
"""Bugs kept per function, classes in turn."""
LIMITS = Limits()
"""The judge's defaults; a configuration that allows less may refuse a reference when it runs."""


class Bug(Frozen):
    """A mutation, by its place among `mutators` of the function, that some case detects."""

    place: int = Field(ge=0)
    bug_class: BugClass
    failing: float = Field(gt=0, le=1, description="Share of the cases that do not pass.")


def find_bugs(functions: Sequence[tuple[Found, Cased]]) -> tuple[dict[str, tuple[Bug, ...]], dict[str, str]]:
    """Bugs by function, and why the other functions were refused.

    Args:
        functions: Functions with their recorded cases.

    Raises:
        JudgeError: the sandbox failed, whatever the functions are.
    """
    problems = {found.key: _problem(found, cased) for found, cased in functions}
    bugs: dict[str, tuple[Bug, ...]] = {}
    refused: dict[str, str] = {}
    # the code is the user's own and was called under an audit hook before: a missing layer is no risk here
    with Judge(LIMITS, workers=min(4, os.cpu_count() or 1), allow_missing_layers=BASE_LAYERS) as judge:
        references = judge.judge_batch([(problem, problem.reference) for problem in problems.values()])
        for key, verdict in zip(problems, references, strict=True):
            if not verdict.passed:
                wrong = next(number for number, case in enumerate(verdict.cases) if case != "pass")
                detail = f"case {wrong}: {verdict.cases[wrong]}" + (f", {verdict.message}" if verdict.message else "")
                refused[key] = f"the judge's own run of it does not give what the tests saw ({detail})"
        tried: list[tuple[Found, int, Mutation]] = []
        for found, _ in functions:
            if found.key not in refused:
                try:
                    tried += [(found, place, mutation) for place, mutation in _tried(found)]
                except (RecursionError, ValueError, SyntaxError, MemoryError) as error:
                    refused[found.key] = f"no bug can be made in it ({type(error).__name__}: {error})"[:300]
        verdicts = judge.judge_batch([(problems[found.key], found.whole(m.source)) for found, _, m in tried])
    for (found, place, mutation), verdict in zip(tried, verdicts, strict=True):
        failing = sum(case != "pass" for case in verdict.cases) / len(verdict.cases)
        if failing:
            known = bugs.get(found.key, ())
            bugs[found.key] = (*known, Bug(place=place, bug_class=mutation.bug_class, failing=failing))
    for found, _ in functions:
        if found.key not in bugs and found.key not in refused:
            refused[found.key] = "none of its cases detects any bug that could be made in it"
    return {key: _in_turn(found) for key, found in bugs.items()}, refused


def _problem(found: Found, cased: Cased) -> Problem:
    return Problem(
        problem_id=f"package/{found.key}",
        entry_point=found.name,
        bug_class="none",
        buggy=found.source,
        reference=found.source,
        cases=cased.cases,
    )


def _tried(found: Found) -> list[tuple[int, Mutation]]:
    """Distinct mutations of the function, `TRIED` per class, drawn by the function's own seed."""
    makers: dict[BugClass, list[int]] = {}
    every = mutators(found.function)
    for place, bug_class in enumerate(mutation_classes(found.function)):
        makers.setdefault(bug_class, []).append(place)
    rng = random.Random(seed_from("package-bugs", normal_form(found.source)))
    chosen: list[tuple[int, Mutation]] = []
    seen = {found.function}
    for candidates in makers.values():
        rng.shuffle(candidates)
        made = 0
        for place in candidates:
            mutation = every[place]()
            if mutation is None or mutation.source in seen:
                continue
            seen.add(mutation.source)
            chosen.append((place, mutation))
            made += 1
            if made == TRIED:
                break
    return chosen


def _in_turn(bugs: Sequence[Bug]) -> tuple[Bug, ...]:
    """`MOST` of `bugs`, one of each class in turn."""
    by_class: Mapping[str, list[Bug]] = {bug.bug_class: [] for bug in bugs}
    for bug in bugs:
        by_class[bug.bug_class].append(bug)
    turns = [[row[turn] for row in by_class.values() if turn < len(row)] for turn in range(len(bugs))]
    return tuple(bug for row in turns for bug in row)[:MOST]
