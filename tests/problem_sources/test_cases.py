"""From recorded calls to cases: how many, of large arguments fewer, and calls that act differently outside their package."""

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from coral_core.problem_sources.package import cases
from coral_core.problem_sources.package.cases import CASES, CHARACTERS, FEWEST, FEWEST_LARGE, UsableFunction, cases_of
from coral_core.problem_sources.package.discovery import Refused, SourceFunction
from coral_core.problem_sources.package.recording import Call
from coral_core.problems.values import decode, encode


def function(text: str) -> SourceFunction:
    return SourceFunction(file="own.py", name="f", line=1, entry_point="f", text=text)


def call(*arguments: Any, value: Any) -> Call:
    encoded = [encode(each) for each in arguments]
    return Call(arguments=tuple(encoded), outcome={"value": encode(value), "mutated": encoded})


def spread(made: UsableFunction) -> set[Any]:
    return {decode(case.arguments[-1]) for case in made.cases}


def test_of_many_calls_the_extremes_are_kept_and_none_is_made() -> None:
    made = cases_of(function("def f(a):\n    return a // 3"), [call(n, value=n // 3) for n in range(90)])
    assert len(made.cases) == made.recorded == CASES and {0, 89} <= spread(made)


def test_few_calls_are_filled_up_with_calls_near_them() -> None:
    made = cases_of(function("def f(a):\n    return a // 3"), [call(n, value=n // 3) for n in (0, 7, 30)])
    assert made.recorded == 3 and len(made.cases) == CASES


def test_calls_are_made_too_where_most_recorded_ones_take_too_long() -> None:
    text = "def f(a):\n    for _ in range(a * 20_000):\n        pass\n    return a"
    made = cases_of(function(text), [call(n, value=n) for n in (0, -1, -2, *range(1, 60))])
    assert made.recorded == 3 and len(made.cases) >= FEWEST


@pytest.mark.parametrize(("rows", "most"), [(50, CASES), (600, CASES - 1), (3_500, FEWEST_LARGE)])
def test_of_large_arguments_there_are_fewer(rows: int, most: int) -> None:
    table = [10**17 + row for row in range(rows)]
    calls = [call(table, n, value=n // 3) for n in range(50)]
    made = cases_of(function("def f(table, a):\n    return a // 3"), calls)
    assert FEWEST_LARGE <= len(made.cases) <= most and (most != CASES or len(made.cases) == CASES)
    written = sum(len(json.dumps(case.arguments)) for case in made.cases)
    assert len(made.cases) == FEWEST_LARGE or written <= 1.01 * CHARACTERS
    assert {0, 49} <= spread(made)


def test_calls_that_a_test_made_in_another_state_are_no_cases() -> None:
    """humanize: one test of many activates another language."""
    text = "def f(a):\n    return f'{a} Bytes'"
    calls = [call(n, value=f"{n} Bytes") for n in range(12)] + [call(n, value=f"{n} octets") for n in (42, 43, 44)]
    made = cases_of(function(text), calls)
    assert made.differing == 3 and "42 octets" in made.difference
    assert not {42, 43, 44} & spread(made) and {0, 11} <= spread(made)


def test_a_function_that_needs_what_its_package_sets_up_is_refused() -> None:
    calls = [call(n, value=n) for n in range(12)] + [call(n, value=n + 1) for n in range(20, 25)]
    with pytest.raises(Refused, match="acts differently on its own than in its package"):
        cases_of(function("def f(a):\n    return a"), calls)


TABLE = """
TABLE = []


def f(a):
    if not TABLE:
        for n in range({lines}):
            TABLE.append(n)
    return TABLE[-1] + a
"""


@pytest.mark.parametrize(("lines", "usable"), [(8_000, True), (80_000, False)])
def test_a_call_that_takes_long_does_not_spoil_those_after_it(lines: int, usable: bool) -> None:
    """isodate: the first call fills a table of regular expressions. Cut off, it would leave half of it."""
    calls = [call(n, value=n + lines - 1) for n in range(20)]
    if usable:
        assert len(cases_of(function(TABLE.format(lines=lines)), calls).cases) == CASES
    else:
        with pytest.raises(Refused, match="every recorded call executes more than"):
            cases_of(function(TABLE.format(lines=lines)), calls)


@pytest.mark.parametrize(
    ("limit", "wait", "reason"),
    [("SECONDS", "", "more than 0 s of CPU time"), ("WAITING", "LOCK.acquire()", "did not end within 3 s")],
)
def test_calls_are_limited_by_cpu_time_and_may_not_wait_for_ever(
    limit: str, wait: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By wall clock, a busy machine would refuse a function, and the refusal would be kept with the recording."""
    monkeypatch.setattr(cases, limit, {"SECONDS": 0, "WAITING": 3}[limit])
    lock = "import threading\nLOCK = threading.Lock()\nLOCK.acquire()\n\n\n"
    text = f"{lock}def f(a):\n    {wait or 'pass'}\n    return a"
    with pytest.raises(Refused, match=reason):
        cases_of(function(text), [call(n, value=n) for n in range(20)])


def test_a_made_call_that_touches_the_outside_does_not_spoil_recorded_ones() -> None:
    text = "def f(a):\n    if a < 0:\n        open('/etc/passwd')\n    return a // 3"
    made = cases_of(function(text), [call(n, value=n // 3) for n in range(8)])
    assert made.recorded == 8


@pytest.mark.parametrize(
    "value", [Decimal("1.5"), Fraction(1, 3), date(2026, 1, 1), datetime(2026, 1, 1, 5), timedelta(2)]
)
def test_calls_are_made_near_amounts_and_dates(value: Any) -> None:
    made = cases_of(function("def f(a):\n    return a"), [call(value, value=value)])
    assert len(made.cases) >= FEWEST
