"""The runner for functions of our own making: nothing hangs, nothing grows, nothing depends on the caller."""

import sys
from types import FrameType
from typing import Any

import pytest

from coral_core.problems.trusted import Outcome, run


def outcome(source: str, *arguments: Any) -> Outcome:
    return run(source, "f", [arguments])[0]


@pytest.mark.parametrize(
    "body",
    [
        "    while True:\n        pass",
        "    while True:\n        x = x * x + 2",
        "    s = 'ab'\n    while True:\n        s = s + s",
        "    a = [1]\n    for v in a:\n        a.append(v)",
        "    return f(x)",
        "    try:\n        return f(x)\n    except Exception:\n        return f(x)",
    ],
    ids=repr,
)
def test_what_never_ends_is_out_of_budget(body: str) -> None:
    assert outcome(f"def f(x):\n{body}", 3) == ("budget", None)


def test_values_and_exceptions() -> None:
    assert outcome("def f(x):\n    return (x, [x])", 3) == ("value", ["t", [3, ["l", [3]]]])
    assert outcome("def f(x):\n    return x[0]", []) == ("exception", "IndexError")
    assert outcome("def f(x):\n    return f", 1) == ("exception", "ValueOutside")


def test_a_call_cannot_change_the_inputs_of_the_next() -> None:
    shared = [1, 2]
    run("def f(x):\n    x.clear()\n    return 0", "f", [(shared,)])
    assert shared == [1, 2]


def test_the_depth_of_the_caller_changes_nothing() -> None:
    source = "def f(n):\n    return 0 if n == 0 else f(n - 1)"

    def from_depth(levels: int, n: int) -> Outcome:
        return outcome(source, n) if levels == 0 else from_depth(levels - 1, n)

    for n in (150, 250):
        assert from_depth(0, n) == from_depth(600, n)


def test_a_tracer_that_was_there_stays() -> None:
    def tracer(frame: FrameType, event: str, argument: Any) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        outcome("def f(x):\n    return x", 1)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
