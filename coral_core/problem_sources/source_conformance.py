"""Checks that a problem source keeps its contract; for authors of plug-ins.

In a test of the plug-in's own:

    from coral_core.problem_sources.source_conformance import complaints
    assert complaints(load, ProblemsConfig(source="mine", path="…")) == []

`coral problems check NAME` judges the same problems from the shell.
"""

import ast
from collections import Counter
from collections.abc import Callable, Iterator

from coral_core.config.tree import ProblemsConfig
from coral_core.judge.judge import Judge
from coral_core.problems.normal_form import check_split
from coral_core.problems.problem import Problem, ProblemSet
from coral_core.problems.values import ValueOutside
from coral_core.scoring.objectives import bugfix
from coral_core.syntax import parse


def complaints(load: Callable[[ProblemsConfig], ProblemSet], config: ProblemsConfig) -> list[str]:
    """Every way in which a source breaks its contract, each naming the problem; empty when it conforms.

    The contract: the same set on each call; a set that survives JSON; unique ids; a `buggy` and a `reference` that parse and
    define the entry point, equal exactly for retention problems; cases inside the value language; no function in two splits;
    and, in the judge's sandbox with default limits, references that pass all of their cases and buggy versions that do not.

    Args:
        load: The source.
        config: The configuration that it is called with.
    """
    problems = load(config)
    if not isinstance(problems, ProblemSet):
        return [f"load returned {type(problems).__name__}, not a ProblemSet"]
    found = list(_of_the_set(problems))
    if load(config) != problems:
        found.append("a second load gave another set: draw from config.data_seed only, and sort what you list")
    everything = _all(problems)
    broken = [(problem, list(_of_one(problem))) for problem in everything]
    found += [complaint for _, several in broken for complaint in several]
    sound = [problem for problem, several in broken if not several]
    if len(sound) == len(everything):  # a normal form needs code that parses
        found += [f"in two splits in equal normal form: {first}, {second}" for first, second in check_split(problems)]
    with Judge() as judge:
        return found + list(_of_verdicts(sound, judge))


def _all(problems: ProblemSet) -> tuple[Problem, ...]:
    return (*problems.fitness, *problems.monitor, *problems.held_out)


def _of_the_set(problems: ProblemSet) -> Iterator[str]:
    if not problems.fitness:
        yield "no fitness problems: a search would have nothing to optimise"
    if ProblemSet.model_validate_json(problems.model_dump_json()) != problems:
        yield "the set does not survive JSON: use encoded values only (coral_core.problems.values)"
    for name, count in Counter(problem.problem_id for problem in _all(problems)).items():
        if count > 1:
            yield f"{name}: {count} problems have this id"


def _of_one(problem: Problem) -> Iterator[str]:
    for side in ("buggy", "reference"):
        text = getattr(problem, side)
        try:
            tree = parse(text)
        except (SyntaxError, ValueError) as error:
            yield f"{problem.problem_id}: {side} is not Python: {error}"
            continue
        if not any(isinstance(node, ast.FunctionDef) and node.name == problem.entry_point for node in tree.body):
            yield f"{problem.problem_id}: {side} does not define {problem.entry_point}"
    if (problem.buggy == problem.reference) != problem.retention:
        yield f"{problem.problem_id}: buggy and reference are equal exactly when bug_class is none"
    for number, case in enumerate(problem.cases):
        try:
            case.check()
        except (ValueOutside, RecursionError) as error:
            yield f"{problem.problem_id}: case {number} is outside the value language: {error}"


def _of_verdicts(problems: list[Problem], judge: Judge) -> Iterator[str]:
    requests = [(problem, text) for problem in problems for text in (problem.reference, problem.buggy)]
    verdicts = judge.judge_batch(requests)
    for problem, right, wrong in zip(problems, verdicts[::2], verdicts[1::2], strict=True):
        if bugfix(right) < 1.0:
            case = next(n for n, outcome in enumerate(right.cases) if outcome != "pass")
            yield f"{problem.problem_id}: the reference does not pass case {case}: {right.cases[case]}"
        if not problem.retention and bugfix(wrong) >= 1.0:
            yield f"{problem.problem_id}: the buggy version passes every case, so the bug would never be seen"
