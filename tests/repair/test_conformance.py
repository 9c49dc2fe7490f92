"""The conformance suite for problem sources: ours pass it, and it finds each way to break the contract."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coral_core.config.tree import ProblemsConfig
from coral_core.repair.conformance import complaints
from coral_core.repair.problem import Case, Problem, ProblemSet
from coral_core.repair.sources import find_source

LIKE = str(Path(__file__).parent / "quixbugs_like")
GOOD = Problem(
    problem_id="mine/one",
    source="mine",
    family="one",
    variant="",
    entry_point="f",
    bug_class="arithmetic",
    buggy="def f(a):\n    return a - 1",
    reference="def f(a):\n    return a + 1",
    cases=(Case(arguments=(1,), value=2), Case(arguments=(5,), value=6)),
)


def source(*fitness: Problem, **splits: Any) -> Callable[[ProblemsConfig], ProblemSet]:
    given = ProblemSet(source="mine", pairs=(), fitness=fitness, **({"monitor": (), "held_out": ()} | splits))
    return lambda config: given


def changed(**update: Any) -> Problem:
    return GOOD.model_copy(update=update)


@pytest.mark.parametrize(
    "config",
    [
        ProblemsConfig(fitness=6, retention=2, monitor=2, held_out=4, pairs=12),
        ProblemsConfig(source="quixbugs", path=LIKE),
    ],
    ids=["builtin", "quixbugs"],
)
def test_our_own_sources_conform(config: ProblemsConfig) -> None:
    assert complaints(find_source(config.source), config) == []


def test_a_good_source_conforms() -> None:
    assert complaints(source(GOOD), ProblemsConfig()) == []


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (source(), "no fitness problems"),
        (source(GOOD, GOOD), "2 problems have this id"),
        (source(GOOD, held_out=(changed(problem_id="mine/two"),)), "in two splits"),
        (source(changed(buggy="def f(:")), "buggy is not Python"),
        (source(changed(entry_point="g")), "does not define g"),
        (source(changed(bug_class="none")), "equal exactly when bug_class is none"),
        (source(changed(cases=(Case(arguments=(["?", 1],), value=2),))), "outside the value language"),
        (source(changed(cases=(Case(arguments=(1,), value=3),))), "the reference does not pass case 0"),
        (source(changed(buggy="def f(a):\n    return 1 + a")), "the buggy version passes every case"),
    ],
)
def test_each_breach_is_found(load: Callable[[ProblemsConfig], ProblemSet], words: str) -> None:
    found = complaints(load, ProblemsConfig())
    assert any(words in complaint for complaint in found), found


def test_a_set_that_changes_between_loads_is_found() -> None:
    turns = iter((source(GOOD), source(changed(problem_id="mine/two"))))
    assert any("a second load" in text for text in complaints(lambda config: next(turns)(config), ProblemsConfig()))


def test_something_else_than_a_set_is_found() -> None:
    load: Any = lambda config: [GOOD]  # noqa: E731
    assert complaints(load, ProblemsConfig()) == ["load returned list, not a ProblemSet"]
