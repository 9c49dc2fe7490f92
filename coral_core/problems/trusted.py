"""Runs functions that this package made, and mutants of them, while problems are generated.

Not a sandbox: it runs only code that this package wrote. A line budget and a size check on every line keep a mutant from
running forever or growing without limit. `coral_core.judge` runs patches instead.
"""

import copy
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from coral_core.problems.values import ValueOutside, encode

LINES = 1_500
LARGEST_INT_BITS = 512
LONGEST = 2_000
DEEPEST = 200
"""Frames of a call. Far below Python's own limit, which leaves more or less room depending on who calls."""


class OutOfBudget(BaseException):
    """The call ran too long or grew too large; a BaseException so that code under test cannot catch it."""


Outcome = tuple[str, Any]
"""("value", encoded), ("exception", class name) or ("budget", None)."""


def run(
    source: str, entry_point: str, arguments: Sequence[Sequence[Any]], stop_at: Sequence[Outcome] = ()
) -> list[Outcome]:
    r"""The outcome of each call.

    Args:
        source: Defines the function.
        entry_point: Name of the function.
        arguments: Positional arguments of each call; they are copied before it.
        stop_at: Expected outcomes; stop after two that differ, or after one that ran out of budget. Empty: run all calls.

    Example:
        >>> run("def half(n):\n    return 10 // n", "half", [[5], [0]])
        [('value', 2), ('exception', 'ZeroDivisionError')]
    """
    space: dict[str, Any] = {}
    exec(compile(source, "<generated>", "exec"), space)
    function = space[entry_point]
    outcomes: list[Outcome] = []
    differences = 0
    for number, case in enumerate(arguments):
        outcomes.append(_call(function, copy.deepcopy(list(case))))
        if stop_at and outcomes[-1] != stop_at[number]:
            differences += 1
            if outcomes[-1][0] == "budget" or differences >= 2:
                break
    return outcomes


def _call(function: Any, arguments: list[Any]) -> Outcome:
    left = LINES
    depth = 0
    before = sys.gettrace()

    def check(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left, depth
        if event == "call":
            depth += 1
            if depth > DEEPEST:
                raise OutOfBudget
        elif event == "return":
            depth -= 1
        elif event == "line":
            left -= 1
            if left < 0:
                raise OutOfBudget
            for value in frame.f_locals.values():
                if type(value) is int:
                    if value.bit_length() > LARGEST_INT_BITS:
                        raise OutOfBudget
                elif type(value) in (list, str) and len(value) > LONGEST:
                    raise OutOfBudget
        return check

    sys.settrace(check)
    try:
        value = function(*arguments)
    except OutOfBudget:
        return "budget", None
    except Exception as error:
        return "exception", type(error).__name__
    finally:
        sys.settrace(before)
    try:
        return "value", encode(value, budget=4_000, depth=8)
    except ValueOutside:
        return "exception", "ValueOutside"
