"""Parts of the examination of a commit that need no repository."""

from typing import Any

import pytest

from coral_core.errors import JudgeError
from coral_core.problem_sources.history.changed_functions import is_stub
from coral_core.problem_sources.history.fix import Candidate, _Examination, _failing_before, _telling_first
from coral_core.problem_sources.package.discovery import Refused, SourceFunction
from coral_core.problem_sources.package.recording import Call, Calls


def function(name: str, text: str = "", needs: tuple[str, ...] = ()) -> SourceFunction:
    plain = name.rpartition(".")[2]
    text = text or f"def {plain}(a):\n    return a"
    return SourceFunction(file="m.py", name=name, line=1, text=text, needs=needs, entry_point=plain)


def candidate(name: str, changed: bool, *needs: str) -> Candidate:
    return Candidate(function(name, needs=needs), function(name, needs=needs), changed)


def examined(monkeypatch: pytest.MonkeyPatch, candidates: list[Candidate], errors: dict[str, Exception]) -> Any:
    """Names of the functions that were fixed, and the refused ones."""

    def fix(self: Any, candidate: Candidate, *others: Any) -> Any:
        if candidate.after.name in errors:
            raise errors[candidate.after.name]
        return candidate.after.name

    def bare(self: Any) -> None:
        self._end = float("inf")

    monkeypatch.setattr(_Examination, "_fix", fix)
    monkeypatch.setattr(_Examination, "__init__", bare)
    made: Any = _Examination
    return made()._fixes(candidates, None, None, None)


def test_each_changed_function_counts_and_callers_take_the_place_of_those_that_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    candidates = [
        candidate("helper", True),
        candidate("both", True, "m.py:helper"),
        candidate("caller", False, "m.py:helper"),
        candidate("Box.put", True, "m.py:Box"),
        candidate("Box.get", True, "m.py:Box"),
        candidate("boxes", False, "m.py:Box"),
        candidate("bad", True),
        candidate("of_bad", False, "m.py:bad"),
    ]
    fixes, refused = examined(monkeypatch, candidates, {"bad": Refused("why")})
    assert fixes == ["helper", "both", "Box.put", "Box.get", "of_bad"]
    assert refused == ["m.py:bad: why"]


def test_one_function_does_not_end_the_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Examination, "_refuse_a_broken_judge", lambda self, error: None)
    candidates = [candidate(name, True) for name in ("odd", "unjudged", "good")]
    fixes, refused = examined(monkeypatch, candidates, {"odd": ValueError("x"), "unjudged": JudgeError("no")})
    assert fixes == ["good"]
    assert refused == [
        "m.py:odd: cannot be made into a problem (ValueError: x)",
        "m.py:unjudged: cannot be judged (no)",
    ]


def test_a_broken_judge_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, error: JudgeError) -> None:
        raise error

    monkeypatch.setattr(_Examination, "_refuse_a_broken_judge", broken)
    with pytest.raises(JudgeError):
        examined(monkeypatch, [candidate("f", True)], {"f": JudgeError("no sandbox")})


def calls(tests: dict[str, str]) -> Calls:
    return Calls(calls={}, refused={}, passed=1, failed=(), tests=tests)


@pytest.mark.parametrize(
    ("before", "after", "failing"),
    [
        ({"t.py::a": "failed"}, {"t.py::a": "passed"}, ["t.py::a"]),
        ({"t.py::a": "left out"}, {"t.py::a": "passed"}, ["t.py::a"]),
        ({"t.py::a": "failed"}, {"t.py::a": "failed"}, []),
        ({"t.py::a": "failed"}, {"t.py::a": "xfail"}, []),
        ({"t.py::a": "skipped"}, {"t.py::a": "passed"}, []),
        ({"t.py": "failed"}, {"t.py::a": "passed"}, ["t.py"]),
        ({"t.py": "failed"}, {"u.py::a": "passed"}, []),
        ({"t.py": "failed"}, {"t.py": "failed", "t.py::a": "passed"}, []),
    ],
)
def test_a_test_has_to_fail_before_and_pass_after(
    before: dict[str, str], after: dict[str, str], failing: list[str]
) -> None:
    assert _failing_before(calls(before), calls(after)) == failing


def test_calls_that_tell_the_versions_apart_are_kept_first() -> None:
    right = function("f", "def f(a):\n    return a if a < 100 else 0")
    wrong = function("f", "def f(a):\n    return a")

    def kept(numbers: range) -> list[int]:
        return [call.arguments[0] for call in _telling_first(wrong, right, [Call(arguments=(n,)) for n in numbers])]

    rare = kept(range(101))
    assert len(rare) == 16 and rare[-1] == 100 and rare == sorted(rare)
    many = kept(range(60, 160))
    assert sum(number >= 100 for number in many) == 8 and sum(number < 100 for number in many) == 8
    with pytest.raises(Refused, match="tells the versions apart"):
        _telling_first(right, right, [Call(arguments=(n,)) for n in range(101)])


@pytest.mark.parametrize(
    ("body", "stub"),
    [
        ("pass", True),
        ("...", True),
        ("'''Words.'''", True),
        ("raise NotImplementedError('later')", True),
        ("return None", True),
        ("return 0", True),
        ("return a", False),
        ("raise ValueError", False),
    ],
)
def test_a_function_that_does_nothing_yet_is_no_bug(body: str, stub: bool) -> None:
    assert is_stub(f"def f(a):\n    {body}") is stub


def test_calls_with_a_parameter_that_is_new_show_no_bug() -> None:
    wrong = function("f", "def f(a):\n    return a")
    right = function("f", "def f(a, b=0):\n    return a + b if a < 5 else -a")
    given = [Call(arguments=(n,), keywords={"b": 1}) for n in range(8)]
    with pytest.raises(Refused, match="only calls with parameters that it did not have"):
        _telling_first(wrong, right, given)
    with pytest.raises(Refused, match="only calls with parameters that it did not have"):
        _telling_first(wrong, right, [*given, Call(arguments=(1,))])
    chosen = _telling_first(wrong, right, [*given, *(Call(arguments=(n,)) for n in range(8))])
    assert [call.arguments for call in chosen] == [(n,) for n in range(8)]
    assert all(not call.keywords for call in chosen)
