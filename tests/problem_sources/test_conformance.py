"""The conformance suite for problem sources: ours pass it, and it finds each way to break the contract."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coral_core import problem_sources as sources
from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError, CoralError, ProblemError
from coral_core.problem_sources import find_source, load_problems
from coral_core.problem_sources.source_conformance import complaints
from coral_core.problems.problem import Case, Problem, ProblemSet

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


class Entry:
    """A plug-in's entry point."""

    value = "their.module:load"

    def __init__(self, load: Any, broken: BaseException | None = None) -> None:
        self.loads, self.broken = load, broken

    def load(self) -> Any:
        if self.broken is not None:
            raise self.broken
        return self.loads


@pytest.mark.parametrize("error", [ImportError("no"), SystemExit(0), KeyError("x")])
@pytest.mark.parametrize("when", ["import", "call"])
def test_a_plugin_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, error: BaseException, when: str) -> None:
    """Else a command would call it a bug of ours, or end with the plug-in's exit status."""

    def load(config: ProblemsConfig) -> ProblemSet:
        raise error

    entry = Entry(load, error if when == "import" else None)
    monkeypatch.setattr(sources, "plugin_sources", lambda: {"mine": entry})
    with pytest.raises(CoralError, match=r"problems.source: mine: its plug-in their.module:load") as raised:
        load_problems(ProblemsConfig(source="mine"))
    assert isinstance(raised.value, ConfigError if when == "import" else ProblemError)


def test_a_plugin_that_gives_something_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "plugin_sources", lambda: {"mine": Entry(lambda config: [GOOD])})
    with pytest.raises(ProblemError, match="gave no ProblemSet but a list"):
        load_problems(ProblemsConfig(source="mine"))
    monkeypatch.setattr(sources, "plugin_sources", lambda: {"mine": Entry(source(GOOD))})
    assert load_problems(ProblemsConfig(source="mine")).fitness == (GOOD,)
