"""Mutates functions and keeps the mutants that the judge detects by a recorded case.

The judge runs each reference first: a function that it cannot run (files, threads, too much memory) is refused here,
before an evolution starts.
"""

import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, zip_longest
from typing import TypeVar

from coral_core.digest import seed_from
from coral_core.errors import JudgeError, ProblemError
from coral_core.judge.judge import Judge, PatchLimits, Verdict
from coral_core.judge.sandbox.zygote_pool import BASE_LAYERS
from coral_core.problem_sources.package.cases import Bug, UsableFunction
from coral_core.problem_sources.package.discovery import SourceFunction
from coral_core.problems.mutation import Mutation, mutators
from coral_core.problems.normal_form import normal_form
from coral_core.problems.problem import BugClass, Problem
from coral_core.syntax import UNPARSABLE

TRIED, FEWEST_TRIED = 8, 3
"""Mutations of a function that are tried per bug class, and the fewest of them where there are many functions."""
ENOUGH = 800
"""Mutations per bug class that are shared among all functions; each tries at least `FEWEST_TRIED`."""
LONG = 40_000
"""Characters of a text of which one mutation is tried per class: the judge compiles all of it each time, and few models have room."""
MOST = 32
"""Bugs kept per function, classes in turn."""
PROGRESS_SECONDS = 5.0
"""Between two lines of progress."""
LIMITS = PatchLimits()
"""The judge's defaults; a configuration that allows less may refuse a reference when it runs."""

Item = TypeVar("Item")

NO_BUG = "none of its cases detects any bug that could be made in it"


def find_bugs(
    functions: Sequence[UsableFunction], progress: Callable[[str], None] | None = None
) -> list[UsableFunction | SourceFunction]:
    """Each function with its bugs, or refused, in the same order.

    Args:
        functions: Functions with their recorded cases.
        progress: Is called with a line of text now and then.

    Raises:
        JudgeError: the sandbox failed, whatever the functions are.
    """
    problems = [_problem(item) for item in functions]
    # a missing layer is acceptable: this is the user's own code, and it has already run under an audit hook
    with Judge(LIMITS, workers=min(4, os.cpu_count() or 1), allow_missing_layers=BASE_LAYERS) as judge:
        references = _verdicts(judge, problems)
        tried = max(FEWEST_TRIED, min(TRIED, ENOUGH // max(1, len(functions))))
        candidates = [
            _candidates(item.definition, verdict, 1 if len(item.definition.source) > LONG else tried)
            for item, verdict in zip(functions, references, strict=True)
        ]
        outcomes: list[list[Verdict]] = []
        told = time.monotonic()
        for number, (problem, outcome) in enumerate(zip(problems, candidates, strict=True)):
            if progress and (number == 0 or time.monotonic() - told > PROGRESS_SECONDS):
                progress(f"making bugs: {number} of {len(problems)} functions are done")
                told = time.monotonic()
            mutations = [] if isinstance(outcome, SourceFunction) else outcome
            outcomes.append(judge.judge_batch([(problem, mutation.source) for mutation in mutations]))
    results: list[UsableFunction | SourceFunction] = []
    for item, outcome, verdicts in zip(functions, candidates, outcomes, strict=True):
        if isinstance(outcome, SourceFunction):
            results.append(outcome)
            continue
        by_class: dict[BugClass, list[Bug]] = {mutation.bug_class: [] for mutation in outcome}
        for mutation, verdict in zip(outcome, verdicts, strict=True):
            if failing := sum(case != "pass" for case in verdict.cases) / len(verdict.cases):
                bug = Bug(bug_class=mutation.bug_class, source=mutation.source, failing=failing)
                by_class[mutation.bug_class].append(bug)
        bugs = tuple(in_turn(by_class.values())[:MOST])
        results.append(item.model_copy(update={"bugs": bugs}) if bugs else item.definition.refused(NO_BUG))
    return results


def _verdicts(judge: Judge, problems: Sequence[Problem]) -> list[Verdict | str]:
    """The verdict on each reference; the reason where the judge cannot give one. Raises `JudgeError` where it gives none at all."""
    try:
        return list(judge.judge_batch([(problem, problem.reference) for problem in problems]))
    except (JudgeError, ProblemError):  # of one of them: the others are judged without it
        found: list[Verdict | str] = []
        for problem in problems:
            try:
                found.append(judge.judge(problem, problem.reference))
            except (JudgeError, ProblemError) as error:
                found.append(str(error).splitlines()[0])
        if not any(isinstance(item, Verdict) for item in found):
            raise
        return found


def in_turn(rows: Iterable[Sequence[Item]]) -> list[Item]:
    """The first item of each row, then the second of each, and so on.

    >>> in_turn(["ab", "c", "def"])
    ['a', 'c', 'd', 'b', 'e', 'f']
    """
    return [item for column in zip_longest(*rows) for item in column if item is not None]


def _problem(item: UsableFunction) -> Problem:
    return Problem(
        problem_id=f"package/{item.definition.key}",
        entry_point=item.definition.entry_point or item.definition.name,
        bug_class="none",
        buggy=item.definition.source,
        reference=item.definition.source,
        cases=item.cases,
    )


def _candidates(function: SourceFunction, reference: Verdict | str, tried: int) -> list[Mutation] | SourceFunction:
    """At most `tried` distinct mutations of the function per class, drawn by its own seed; or the function, refused."""
    if isinstance(reference, str):
        return function.refused(f"the judge cannot run it: {reference}")
    if set(reference.cases) == {"not-run"}:
        return function.refused(f"the judge cannot execute what it needs of its module: {reference.message}")
    if not reference.passed:
        wrong = next(number for number, case in enumerate(reference.cases) if case != "pass")
        detail = f"case {wrong}: {reference.cases[wrong]}" + (f", {reference.message}" if reference.message else "")
        return function.refused(f"the judge's own run of it does not give what the tests saw ({detail})")
    try:
        makers: dict[BugClass, list[Callable[[], str | None]]] = {}
        for bug_class, mutate in mutators(function.text):
            makers.setdefault(bug_class, []).append(mutate)
        rng = random.Random(seed_from("package-bugs", normal_form(function.source)))
        chosen: list[Mutation] = []
        seen = {function.text}
        for bug_class, of_class in makers.items():
            rng.shuffle(of_class)
            new = (text for mutate in of_class if (text := mutate()) is not None and text not in seen)
            for text in islice(new, tried):
                seen.add(text)
                chosen.append(Mutation(bug_class, function.whole(text)))
    except UNPARSABLE as error:
        return function.refused(f"no bug can be made in it ({type(error).__name__}: {error})")
    return chosen
