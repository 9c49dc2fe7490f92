"""From a row's material to lines of a `jsonl` file: cases, bugs, and splits that keep functions that are alike together."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from coral_core.digest import digest, seed_from
from coral_core.judge.judge import Judge, Verdict
from coral_core.problem_sources.importers.material import (
    Material,
    RefusedRowError,
    StandAlone,
    foreign_imports,
    stand_alone,
)
from coral_core.problem_sources.importers.recorded_cases import cases_of
from coral_core.problems.mutation import mutators
from coral_core.problems.normal_form import near_duplicates, normal_form
from coral_core.problems.problem import BugClass, Case, Difficulty, Problem, difficulty_of
from coral_core.problems.values import ValueOutside, decode
from coral_core.scoring.objectives import bugfix
from coral_core.syntax import UNPARSABLE

TRIED = 8
"""Mutations of a function that are tried per bug class, as in `package`."""
SHARES = {"fitness": 0.4, "monitor": 0.2, "held_out": 0.4}
"""Share of the problems of each split, as in the committed split of QuixBugs."""

Line = dict[str, Any]


@dataclass(frozen=True)
class MadeProblem:
    """A problem of a row, before it has a split."""

    name: str
    entry_point: str
    setup: str
    buggy: str
    reference: str
    bug_class: BugClass
    difficulty: Difficulty
    cases: tuple[Case, ...]
    mutant: bool
    """The bug is a mutant of the reference, not the row's own."""

    def line(self, split: str) -> Line:
        """The line of type `problem`."""
        fields: Line = {"type": "problem", "id": self.name, "split": split, "entry_point": self.entry_point}
        if self.setup:
            fields["setup"] = self.setup
        fields |= {"buggy": self.buggy, "reference": self.reference, "bug_class": self.bug_class}
        fields |= {"difficulty": self.difficulty, "family": self.name.partition("#")[0]}
        return fields | {
            "variant": "mutant" if self.mutant else "own",
            "cases": [_case_line(case) for case in self.cases],
        }


def problems_of(recording: Sequence[Judge], judge: Judge, material: Material, bugs: int) -> list[MadeProblem]:
    """The problems that a row gives: one with its own bug, or up to `bugs` with mutants of its reference.

    Args:
        recording: Two judges for `recorded_cases.cases_of`.
        judge: Judges reference and bugs under the default limits, as `coral problems check` does.
        material: The row.
        bugs: Mutants at most.

    Raises:
        RefusedRowError: it gives none.
        JudgeError: the sandbox failed.
    """
    alone = stand_alone(material.program, material.entry_point, "its reference")
    if foreign := foreign_imports(alone.setup):
        raise RefusedRowError("needs modules that the sandbox lacks", ", ".join(foreign)[:200])
    buggy = None
    if material.buggy is not None:
        buggy = stand_alone(material.buggy, material.entry_point, "its buggy version")
        if buggy.setup != alone.setup:
            raise RefusedRowError("the bug is also around the function", material.entry_point)
        if normal_form(buggy.function) == normal_form(alone.function):
            raise RefusedRowError("buggy and reference are equal", "but for comments, names and layout")
    alone, cases = cases_of(recording, material)
    base = _problem(material, alone, cases, alone.function, "none")
    [verdict] = judge.judge_batch([(base, alone.function)])
    if bugfix(verdict) < 1.0:
        raise RefusedRowError("the judge does not accept its reference", _first_failure(verdict))
    if buggy is not None:
        problem = _problem(material, alone, cases, buggy.function, material.bug_class)
        [verdict] = judge.judge_batch([(problem, buggy.function)])
        if bugfix(verdict) >= 1.0 or verdict.passed:
            raise RefusedRowError("no case detects its bug", f"{len(cases)} cases")
        return [_made(material.name, material, alone, cases, buggy.function, material.bug_class, verdict, False)]
    found = _mutants(judge, base, alone, bugs)
    if not found:
        raise RefusedRowError("no bug found", "no case detects any mutant of its reference")
    names = [material.name] if len(found) == 1 else [f"{material.name}#{number}" for number in range(len(found))]
    return [
        _made(name, material, alone, cases, source, bug_class, verdict, True)
        for name, (bug_class, source, verdict) in zip(names, found, strict=True)
    ]


def _made(
    name: str, material: Material, alone: StandAlone, cases: tuple[Case, ...], buggy: str, bug_class: BugClass,
    verdict: Verdict, mutant: bool,
) -> MadeProblem:  # fmt: skip
    failing = sum(case != "pass" for case in verdict.cases) / len(verdict.cases)
    return MadeProblem(
        name, material.entry_point, alone.setup, buggy, alone.function, bug_class, difficulty_of(failing), cases, mutant
    )


def _problem(
    material: Material, alone: StandAlone, cases: tuple[Case, ...], buggy: str, bug_class: BugClass
) -> Problem:
    return Problem(
        problem_id=material.name,
        entry_point=material.entry_point,
        bug_class=bug_class,
        buggy=buggy,
        reference=alone.function,
        setup=alone.setup,
        cases=cases,
    )


def _first_failure(verdict: Verdict) -> str:
    number = next((n for n, case in enumerate(verdict.cases) if case != "pass"), 0)
    return f"case {number}: {verdict.cases[number]} {verdict.message}".strip()[:200]


def _mutants(judge: Judge, problem: Problem, alone: StandAlone, bugs: int) -> list[tuple[BugClass, str, Verdict]]:
    """Up to `bugs` mutants that a case detects, bug classes in turn in an order that the function decides."""
    rng = random.Random(seed_from("imported-bugs", normal_form(alone.function)))
    makers: dict[BugClass, list[Callable[[], str | None]]] = {}
    try:
        for bug_class, mutate in mutators(alone.function):
            makers.setdefault(bug_class, []).append(mutate)
        waiting: dict[BugClass, list[str]] = {}
        seen = {alone.function}
        for bug_class in sorted(makers):
            rng.shuffle(makers[bug_class])
            texts: list[str] = []
            for text in islice((t for mutate in makers[bug_class] if (t := mutate()) is not None), TRIED):
                if text not in seen:
                    seen.add(text)
                    texts.append(text)
            waiting[bug_class] = texts
    except UNPARSABLE as error:
        raise RefusedRowError("no bug found", f"it cannot be mutated ({type(error).__name__})") from None
    order = rng.sample(sorted(waiting), len(waiting))
    found: list[tuple[BugClass, str, Verdict]] = []
    while len(found) < bugs and any(waiting.values()):
        turn = [(bug_class, waiting[bug_class].pop(0)) for bug_class in order if waiting[bug_class]]
        verdicts = judge.judge_batch([(problem, text) for _, text in turn])
        for (bug_class, text), verdict in zip(turn, verdicts, strict=True):
            if not verdict.passed and len(found) < bugs:
                found.append((bug_class, text, verdict))
    return found


def with_splits(problems: Sequence[MadeProblem], split: str = "auto") -> list[Line]:
    """The lines of problems, each in a split; functions that are equal or nearly so share one.

    Args:
        problems: In the order of the file.
        split: fitness, monitor or held_out for all of them; auto: `SHARES`, by the digest of the functions.
    """
    if split != "auto":
        return [problem.line(split) for problem in problems]
    groups = _groups(problems)
    order = sorted(groups, key=lambda group: digest(min(normal_form(problems[place].reference) for place in group)))
    order.sort(key=len, reverse=True)
    chosen: dict[int, str] = {}
    lacking = {name: share * len(problems) for name, share in SHARES.items()}
    for group in order:
        name = max(lacking, key=lambda each: lacking[each])
        lacking[name] -= len(group)
        chosen |= dict.fromkeys(group, name)
    return [problem.line(chosen[place]) for place, problem in enumerate(problems)]


def _groups(problems: Sequence[MadeProblem]) -> list[list[int]]:
    """Places of problems whose functions are alike."""
    owner = list(range(len(problems)))

    def top(place: int) -> int:
        while owner[place] != place:
            place = owner[place]
        return place

    texts = [problem.reference for problem in problems]
    by_form: dict[str, int] = {}
    for place, problem in enumerate(problems):
        for text in (problem.reference, problem.buggy):
            owner[top(place)] = top(by_form.setdefault(normal_form(text), place))
    distinct = list(dict.fromkeys(texts))
    places = [texts.index(text) for text in distinct]
    for one, two, _ in near_duplicates(distinct, distinct):
        owner[top(places[one])] = top(places[two])
    groups: dict[int, list[int]] = {}
    for place in range(len(problems)):
        groups.setdefault(top(place), []).append(place)
    return list(groups.values())


def _case_line(case: Case) -> Line:
    """A case as the layout `jsonl` writes it: plain JSON where its values have a plain form, else in the value language."""
    fields: Line = {"arguments": list(case.arguments)}
    names = sorted(case.keywords)
    if names:
        fields["keywords"] = {name: case.keywords[name] for name in names}
    fields |= {"value": case.value} if case.exception is None else {"exception": case.exception}
    if case.mutated is not None:
        fields["mutated"] = list(case.mutated[: len(case.arguments)])
        if names:
            fields["mutated_keywords"] = dict(zip(names, case.mutated[len(case.arguments) :], strict=True))
    try:
        plain = {key: _plain_fields(key, item) for key, item in fields.items()}
    except (ValueOutside, TypeError):
        plain = fields | {"encoded": True}
    for key in ("tolerance", "relative_tolerance"):
        if (number := getattr(case, key)) is not None:
            plain[key] = number
    return plain | ({"slow": True} if case.slow else {})


def _plain_fields(key: str, item: Any) -> Any:
    if key == "exception":
        return item
    if key in ("arguments", "mutated"):
        return [_plain(decode(each)) for each in item]
    if key in ("keywords", "mutated_keywords"):
        return {name: _plain(decode(each)) for name, each in item.items()}
    return _plain(decode(item))


def _plain(value: Any) -> Any:
    """`value` where JSON reads it back as it is. Raises `TypeError` for others."""
    kind = type(value)
    if value is None or kind is bool or kind is str or (kind is int and value.bit_length() < 64):
        return value
    if kind is float and value - value == 0:
        return value
    if kind is list:
        return [_plain(each) for each in value]
    if kind is dict and all(type(key) is str for key in value):
        return {key: _plain(each) for key, each in value.items()}
    raise TypeError(f"{kind.__name__} has no plain form")
