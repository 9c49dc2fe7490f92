"""Runs tests on a reference and records the calls that they make. Executed in the judge's sandbox, never imported by the
product.

The text of this file is run as a "patch": the reference and the code around it have been executed in the same module
before, so every name here begins with coral. `coral_step` is the entry point: with a request (a dict) it runs the units
of the tests and returns a summary; with a number it returns a part of the recorded calls, which are JSON lines.
`coral_values` is lent by the judge (`problems.values`).

A unit is a piece of code, a test function, or a method of a test class. Calls of a unit that fails are dropped, like
those of tests that are marked to be skipped or to fail. Of pytest there is what assert-style tests use: approx, raises,
param and marks.
"""

import functools as coral_functools
import itertools as coral_itertools
import json as coral_json
import math as coral_math
import random as coral_random
import sys as coral_sys
import types as coral_types
from typing import Any as CoralAny

CORAL_PART = 80_000
CORAL_PARTS = 8
"""Characters of a part of the records, and parts at most; of more calls every second one is dropped, the last one stays."""
CORAL_CALLS = 4_000
CORAL_ITEMS = 5_000
"""Items of a value, and of a generator, at most."""
coral_values: CoralAny


class CoralLeftOutError(Exception):
    """A test that counts for nothing."""


class CoralRecorder:
    """Records calls of one function; calls that the function makes of itself are part of the outer call."""

    def __init__(self, function: CoralAny, classes: CoralAny) -> None:
        self.function = function
        self.classes = classes
        self.inside = False
        self.calls: list[dict[str, CoralAny]] = []
        self.state: dict[str, CoralAny] = {}

        @coral_functools.wraps(function)
        def call(*arguments: CoralAny, **keywords: CoralAny) -> CoralAny:
            return self.made(arguments, keywords)

        self.call = call

    def mode(self, absolute: CoralAny = None, relative: CoralAny = None, refused: str = "", needs: str = "") -> None:
        """Says what the statement that follows asks of the values: tolerances, or why they are no value cases."""
        plain = [number if isinstance(number, (int, float)) else None for number in (absolute, relative)]
        self.state = {"absolute": plain[0], "relative": plain[1], "refused": refused, "needs": needs}

    def made(self, arguments: CoralAny, keywords: CoralAny) -> CoralAny:
        """Make one call, and record it."""
        if self.inside or len(self.calls) >= CORAL_CALLS:
            return self.function(*arguments, **keywords)
        names = sorted(keywords)
        given = [*arguments, *(keywords[name] for name in names)]
        record: dict[str, CoralAny] = dict(self.state)
        self.calls.append(record)
        encoded = self.encoded(given, record, "an argument")
        record["arguments"] = encoded[: len(arguments)]
        record["keywords"] = dict(zip(names, encoded[len(arguments) :]))  # noqa: B905 (as many)
        self.inside = True
        drained = False
        try:
            value = self.function(*arguments, **keywords)
            if hasattr(type(value), "__next__"):
                value, drained = list(coral_itertools.islice(value, CORAL_ITEMS + 1)), True
        except BaseException as error:
            record["exception"] = type(error).__name__
            record["mutated"] = self.encoded(given, record, "an argument")
            raise
        finally:
            self.inside = False
        record["value"] = (self.encoded([value], record, "the result") or [None])[0]
        record["mutated"] = self.encoded(given, record, "an argument")
        return iter(value) if drained else value

    def encoded(self, items: CoralAny, record: dict[str, CoralAny], which: str) -> list[CoralAny]:
        """`items` in the value language; otherwise an empty list, and the reason in the record."""
        try:
            label = self.classes.label
            return [coral_values.encode(item, CORAL_ITEMS, label=label) for item in items]  # noqa: F821 (lent)
        except Exception as error:
            record["refused"] = f"{which} is outside the value language: {error}"[:200]
            return []


class CoralApprox:
    """Stands for pytest.approx; the tolerance of the cases is read from the text of the test."""

    def __init__(self, expected: CoralAny, rel: CoralAny = None, abs: CoralAny = None, nan_ok: bool = False) -> None:
        self.expected = expected
        self.relative = 1e-6 if rel is None and abs is None else rel or 0.0
        self.absolute = 1e-12 if abs is None else abs

    def __eq__(self, other: object) -> bool:
        return self.close(self.expected, other)

    def __hash__(self) -> int:
        return 0

    def close(self, one: CoralAny, two: CoralAny) -> bool:
        """Are all numbers of two values close?"""
        if isinstance(one, dict):
            return isinstance(two, dict) and one.keys() == two.keys() and all(self.close(one[k], two[k]) for k in one)
        if isinstance(one, (list, tuple)):
            return len(one) == len(two) and all(map(self.close, one, two))
        if isinstance(one, (int, float)) and isinstance(two, (int, float)) and not isinstance(one, bool):
            return one == two or coral_math.isclose(one, two, rel_tol=self.relative, abs_tol=self.absolute)
        return bool(one == two)


class CoralRaises:
    """Stands for pytest.raises."""

    def __init__(self, expected: CoralAny, *rest: CoralAny, match: CoralAny = None) -> None:
        self.expected = expected
        self.value: CoralAny = None
        if rest:
            with self:
                rest[0](*rest[1:])

    def __enter__(self) -> "CoralRaises":
        return self

    def __exit__(self, kind: CoralAny, error: CoralAny, trace: CoralAny) -> bool:
        if kind is None:
            raise AssertionError(f"no {self.expected} was raised")
        self.value = error
        return issubclass(kind, self.expected)


class CoralParam:
    """Stands for pytest.param."""

    def __init__(self, *values: CoralAny, marks: CoralAny = (), id: CoralAny = None) -> None:
        self.values = values
        self.marks = marks if isinstance(marks, (list, tuple)) else [marks]


class CoralMark:
    """Stands for a mark of pytest, with or without arguments."""

    def __init__(self, name: str, arguments: CoralAny = None) -> None:
        self.name, self.arguments = name, arguments

    def __call__(self, *arguments: CoralAny, **keywords: CoralAny) -> CoralAny:
        if len(arguments) == 1 and not keywords and self.name != "parametrize" and callable(arguments[0]):
            return self.marked(arguments[0])
        return (
            CoralMark(self.name, (arguments, keywords)).marked
            if self.name == "parametrize"
            else self.with_arguments(arguments, keywords)
        )

    def with_arguments(self, arguments: CoralAny, keywords: CoralAny) -> "CoralMark":
        return CoralMark(self.name, (arguments, keywords))

    def marked(self, target: CoralAny) -> CoralAny:
        target.coral_marks = [*getattr(target, "coral_marks", ()), self]
        return target


class CoralMarks:
    """Stands for pytest.mark."""

    def __getattr__(self, name: str) -> CoralMark:
        return CoralMark(name)


def coral_pytest() -> CoralAny:
    """The module that tests import as pytest."""

    def left_out(reason: str = "", **rest: CoralAny) -> None:
        raise CoralLeftOutError(f"it is left out: {reason}")

    def failed(reason: str = "", **rest: CoralAny) -> None:
        raise AssertionError(reason)

    def missing(name: str) -> CoralAny:
        raise AttributeError(f"pytest.{name} is not there in the sandbox")

    module = coral_types.ModuleType("pytest")
    module.__dict__.update(
        approx=CoralApprox, raises=CoralRaises, param=CoralParam, mark=CoralMarks(), skip=left_out, xfail=left_out,
        fail=failed, __getattr__=missing,
    )  # fmt: skip
    return module


CORAL_NOTHING = ("skip", "skipif", "xfail")


def coral_rows(function: CoralAny) -> list[dict[str, CoralAny]]:
    """The arguments of each run of a test function. Raises `CoralLeftOutError` when it counts for nothing or needs fixtures."""
    marks = getattr(function, "coral_marks", ())
    if any(mark.name in CORAL_NOTHING for mark in marks) or hasattr(function, "__unittest_expecting_failure__"):
        raise CoralLeftOutError("it is marked to be skipped or to fail")
    rows: list[dict[str, CoralAny]] = [{}]
    for mark in marks:
        if mark.name != "parametrize":
            continue
        positional, named = mark.arguments
        names = positional[0] if positional else named["argnames"]
        values = positional[1] if len(positional) > 1 else named["argvalues"]
        names = [part.strip() for part in names.split(",")] if isinstance(names, str) else list(names)
        several = []
        for value in values:
            if isinstance(value, CoralParam):
                if any(getattr(each, "name", "") in CORAL_NOTHING for each in value.marks):
                    continue
                value = value.values if len(names) > 1 else value.values[0]
            several.append(dict(zip(names, value if len(names) > 1 else [value])))  # noqa: B905 (pytest checks it)
        rows = [{**one, **other} for one in rows for other in several]
    code = getattr(function, "__code__", None)
    if code is not None:
        needed = code.co_varnames[: code.co_argcount - len(function.__defaults__ or ())]
        absent = [name for name in needed if name != "self" and (not rows or name not in rows[0])]
        if absent and rows:
            raise CoralLeftOutError(f"it needs the fixture {absent[0]}")
    return rows


def coral_unit(space: dict[str, CoralAny], kind: str, name: str, code: str, recorder: CoralRecorder) -> str:
    """Run one unit; keep its calls if it passes.

    Returns:
        Why it fails, or counts for nothing; "" when it passes.
    """
    recorder.mode()
    first = len(recorder.calls)
    try:
        if kind == "code":
            exec(compile(code, "<tests>", "exec", dont_inherit=True), space)
            return ""
        outer, _, inner = name.rpartition(".")
        holder = space[outer] if outer else None
        function = getattr(holder, inner) if outer else space[inner]
        for row in coral_rows(function):
            first = len(recorder.calls)
            recorder.mode()
            if holder is None:
                function(**row)
                continue
            test = holder(inner) if hasattr(holder, "assertEqual") else holder()
            for before in ("setUp", "setup_method"):
                if hasattr(test, before):
                    getattr(test, before)()
            getattr(test, inner)(**row)
    except BaseException as error:
        del recorder.calls[first:]
        kind_of_error = type(error).__name__
        left_out = kind_of_error in ("CoralLeftOutError", "SkipTest")
        return f"{'' if left_out else kind_of_error + ': '}{error}"[:200] or kind_of_error
    return ""


coral_lines: list[str] = []


def coral_step(request: CoralAny) -> CoralAny:
    """Run the tests of a request, or return a part of what was recorded.

    Args:
        request: ``entry_point`` and ``units`` (kind, name, code); or the number of a part.

    Returns:
        ``failures`` (unit and reason), ``parts`` and ``calls``; or the text of the part.
    """
    if isinstance(request, int):
        return "\n".join(coral_lines)[request * CORAL_PART : (request + 1) * CORAL_PART]
    space = globals()
    coral_random.seed(0)
    coral_sys.modules["pytest"] = coral_pytest()
    classes = coral_values.Classes(space)  # noqa: F821 (lent)
    recorder = CoralRecorder(space[request["entry_point"]], classes)
    space |= {"coral_recorder": recorder, request["entry_point"]: recorder.call, "candidate": recorder.call}
    failures = []
    for kind, name, code in request["units"]:
        if reason := coral_unit(space, kind, name, code, recorder):
            failures.append([name, reason])
    calls = recorder.calls
    coral_lines[:] = [coral_json.dumps(call) for call in calls]
    while sum(map(len, coral_lines)) + len(coral_lines) > CORAL_PART * CORAL_PARTS and len(coral_lines) > 1:
        coral_lines[:] = coral_lines[::2] if len(coral_lines) % 2 else [*coral_lines[:-1:2], coral_lines[-1]]
    parts = -(-(sum(map(len, coral_lines)) + len(coral_lines)) // CORAL_PART)
    return {"failures": failures, "parts": parts, "calls": len(calls)}
