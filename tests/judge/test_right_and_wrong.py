"""Small functions over all kinds of values: a right patch passes, a wrong one does not, and what is done to arguments counts.

The cases are made as the source `package` makes them: the reference is called twice, alone.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import pytest

from coral_core.judge.judge import Judge
from coral_core.problem_sources.package.cases import _repeated, replay
from coral_core.problem_sources.package.discovery import SourceFunction
from coral_core.problems.problem import Case, Problem
from coral_core.problems.values import Classes, encode, is_mutable

PRELUDE = """\
import math
from collections import namedtuple
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePosixPath

Pair = namedtuple("Pair", "left right")


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass
class Point:
    x: float
    y: object = None


class Account:
    __slots__ = ("__dict__", "balance")

    def __init__(self, balance):
        self.balance = balance
        self.log = []

    def pay(self, amount):
        self.balance -= amount
        self.log.append(amount)


class Savings(Account):
    pass
"""
SPACE: dict[str, Any] = {"__name__": "prelude"}
exec(compile(PRELUDE, "<prelude>", "exec"), SPACE)
Pair, Colour, Point, Account, Savings = (SPACE[name] for name in ("Pair", "Colour", "Point", "Account", "Savings"))
CLASSES = Classes(SPACE)


@dataclass(frozen=True)
class Row:
    """A function by its body; `calls` are lists of arguments."""

    parameters: str
    reference: str
    right: str
    wrong: str
    calls: list[list[Any]]

    def source(self, body: str) -> str:
        return f"{PRELUDE}\n\n\ndef f({self.parameters}):\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n"


XS: list[list[Any]] = [[[3, 1, 2]], [[]], [[5, 5]], [[-1, 0]]]
FS: list[list[Any]] = [[[0.1, 0.2, 0.3]], [[1.8e12, 7.5]], [[]], [[-2.5]]]
TEXTS: list[list[Any]] = [["f x"], ["l"], [""], ["t 1 s"]]

ROWS: dict[str, Row] = {
    # numbers
    "int": Row("a, b", "return a + b", "return b + a", "return a - b", [[1, 2], [0, 5], [2**70, 1]]),
    "int for float": Row("a", "return a // 2", "return (a - a % 2) // 2", "return a / 2", [[3], [10**17 + 3], [9]]),
    "big int": Row("a", "return a ** 40", "return pow(a, 40)", "return a ** 40 + 1", [[10], [3], [-7]]),
    "bool": Row("a", "return a > 0", "return not a <= 0", "return int(a > 0)", [[1], [-1]]),
    "none": Row("a", "return None if a else 1", "return 1 if not a else None", "return False if a else 1", [[1], [0]]),
    "float": Row("a", "return a / 3", "return a * (1 / 3)", "return a / 3 + 1e-6", [[1], [7], [0.1]]),
    "small float": Row("a", "return a * 1e-9", "return a / 1e9", "return a * 1.01e-9", [[1], [7], [9]]),
    "large float": Row("a", "return a * 1e15", "return a * 10 ** 15 * 1.0", "return a * 1.0001e15", [[1], [7], [9]]),
    "sum of floats": Row("xs", "return sum(xs)", "return sum(reversed(xs))", "return sum(xs) * 1.000001 + 1e-5", FS),
    "exact sum": Row("xs", "return sum(xs)", "return math.fsum(xs)", "return len(xs) - 0.5", FS),
    "nan": Row("a", "return math.nan if a else 1.0", "return a * math.inf - math.inf if a else 1", "return 0.0 if a else 1.0", [[1], [2]]),
    "inf": Row("a", "return math.inf * a", "return a / 5e-324", "return 1.7e308 * a", [[1.0], [-1.0]]),
    "negative zero": Row("a", "return -0.0 * a", "return 0.0 * a", "return -a", [[1.0], [2.0]]),
    "count beside a large float": Row(
        "xs", "return 1.8e12 + sum(xs), len(xs)", "return sum(xs) + 1.8e12, len(list(xs))", "return 1.8e12 + sum(xs), len(xs) + 2", FS
    ),
    "float that is whole": Row("a", "return a / 1", "return float(a)", "return a + 1", [[1], [2]]),
    "rounded": Row("a", "return round(a, 2)", "return round(a * 100) / 100", "return round(a, 1)", [[1.234], [2.468]]),
    "divmod": Row("a, b", "return divmod(a, b)", "return [a // b, a % b]", "return a // b, b % a", [[7, 2], [9, 4]]),
    # text and bytes
    "text": Row("s", "return s.upper()", "return ''.join(c.upper() for c in s)", "return s.title() + ' '", TEXTS),
    "words": Row("s", "return s.split(' ')", "return tuple(s.split(' '))", "return s.split() + ['']", TEXTS),
    "tag and body": Row("s", "return [s[:1], s[1:]]", "return (s[:1], s[1:])", "return [s[1:], s[:1]] + [s]", TEXTS),
    "letters": Row("s", "return list(s)", "return [c for c in s]", "return s", TEXTS),
    "bytes": Row("s", "return s.encode()", "return bytes(s, 'utf-8')", "return s", TEXTS),
    "bytes in a list": Row("s", "return [s.encode(), b'\\x00']", "return (s.encode(), bytes(1))", "return [s.encode(), b'']", TEXTS),
    "unicode": Row("s", "return s + '\\u2028\\u00e9'", "return s + chr(0x2028) + chr(233)", "return s + '\\u2028e'", TEXTS),
    "length of text": Row("s", "return len(s)", "return sum(1 for _ in s)", "return str(len(s))", TEXTS),
    "text of a number": Row("a", "return str(a)", "return f'{a}'", "return a", [[1], [2], [3.5]]),
    # lists and tuples
    "sorted": Row("xs", "return sorted(xs)", "return tuple(sorted(xs))", "return sorted(xs, reverse=True) + [0]", XS),
    "pairs": Row("xs", "return [(x, x * x) for x in xs]", "return [[x, x ** 2] for x in xs]", "return [(x, x + x) for x in xs] + [()]", XS),
    "nested": Row("xs", "return [[x] for x in xs]", "return [(x,) for x in xs]", "return [x for x in xs] + [1]", XS),
    "empty": Row("xs", "return xs[:0]", "return ()", "return [[]]", XS),
    "list or dict": Row("xs", "return []", "return list()", "return {}", XS),
    "list or set": Row("xs", "return list(xs[:1])", "return tuple(xs[:1])", "return set(xs[:1])", XS),
    "floats in a list": Row("xs", "return [x / 3 for x in xs] + [1]", "return [x * (1 / 3) for x in xs] + [1]", "return [x / 3 for x in xs] + [2]", FS),
    "order of a list": Row("xs", "return [0] + xs", "return [0, *xs]", "return xs + [0, 1]", XS),
    # sets
    "set": Row("xs", "return set(xs)", "return frozenset(xs)", "return sorted(set(xs))", XS),
    "set of text": Row("s", "return set(s.split())", "return {w for w in s.split()}", "return set(s.split()) | {'q'}", TEXTS),
    "set of tags": Row("s", "return {('f', s), ('l', s), ('n', 0)}", "return {('n', 0), ('l', s), ('f', s)}", "return {('f', s), ('l', s), ('n', 1)}", TEXTS),
    "set of floats": Row("xs", "return {x / 3 for x in xs} | {9}", "return {x * (1 / 3) for x in xs} | {9}", "return {x / 3 for x in xs} | {9.001}", FS),
    "set of points": Row(
        "xs", "return {(sum([0.1] * n), n % 2) for n in range(len(xs) + 9)}", "return {(0.1 * n, n % 2) for n in range(len(xs) + 9)}",
        "return {(0.1 * n, (n + 1) % 2) for n in range(len(xs) + 9)}", FS,
    ),
    "set of sets": Row("xs", "return {frozenset([x, x + 1]) for x in xs}", "return {frozenset([x + 1, x]) for x in xs}", "return {frozenset([x]) for x in xs} | {0}", XS),
    "truth in a set": Row("xs", "return {len(xs) >= 0}", "return frozenset([True])", "return {1}", XS),
    # dictionaries
    "dict": Row("xs", "return {x: x * x for x in xs}", "return dict((x, x * x) for x in reversed(xs))", "return {x: x for x in xs} | {9: 9}", XS),
    "counter": Row("s", "from collections import Counter\nreturn Counter(s)", "return {c: s.count(c) for c in reversed(s)}", "return {c: 2 for c in s + 'q'}", TEXTS),
    "default dict": Row(
        "xs", "from collections import defaultdict\nd = defaultdict(list)\nfor x in xs:\n    d[x % 2].append(x)\nreturn d",
        "return {r: [x for x in xs if x % 2 == r] for r in (1, 0) if any(x % 2 == r for x in xs)}", "return {0: xs, 5: xs}", XS,
    ),
    "ordered dict": Row("xs", "from collections import OrderedDict\nreturn OrderedDict((x, 1) for x in xs)", "return {x: 1 for x in xs}", "return {x: True for x in xs} | {None: 1}", XS),
    "tags as keys": Row("s", "return {('t', 1): s, ('l', 1): 2}", "return {('l', 1): 2, ('t', 1): s}", "return {('l', 1): s, ('t', 1): 2, 0: 0}", TEXTS),
    "float keys": Row("xs", "return {x / 3: 1 for x in xs} | {5: 2}", "return {5: 2} | {x * (1 / 3): 1 for x in xs}", "return {x / 3: 1 for x in xs} | {5: 3}", FS),
    "none as a key": Row("a", "return {None: a, False: 1}", "return {False: 1, None: a}", "return {None: a, 0: 1}", [[1], [2]]),
    "dict of dicts": Row("a", "return {'f': {'l': {'t': a}}}", "return dict(f=dict(l=dict(t=a)))", "return {'f': {'l': {'t': [a]}}}", [[1], ["x"]]),
    "keys or items": Row("xs", "return list({x: 1 for x in xs})", "return tuple(dict.fromkeys(xs))", "return {x: 1 for x in xs} or {1: 1}", XS),
    # generators
    "generator": Row("xs", "for x in xs:\n    yield x + 1", "return [x + 1 for x in xs]", "for x in xs:\n    yield x\nyield 0", XS),
    "map": Row("xs", "return map(str, xs)", "return (str(x) for x in xs)", "return list(map(str, xs)) + ['']", XS),
    "generator that raises": Row("xs", "for x in xs:\n    if x < 0:\n        raise ValueError\n    yield x", "if any(x < 0 for x in xs):\n    raise ValueError\nreturn xs[:]", "return [x for x in xs if x >= 0] + [0]", XS),
    # exceptions
    "exception": Row("a", "return 10 // a", "if a == 0:\n    raise ZeroDivisionError\nreturn 10 // a", "if a == 0:\n    raise ValueError\nreturn 11 // a + 1", [[0], [2], [5]]),
    "exception or value": Row("s", "return int(s)", "return int(s, 10)", "return int(s or 0) + 1 if s.isdigit() else 0", [["5"], [""], ["x"], ["12"]]),
    "own exception": Row("a", "class Odd(Exception): pass\nif a:\n    raise Odd\nreturn a", "Odd = type('Odd', (ValueError,), {})\nif a:\n    raise Odd\nreturn a", "if a:\n    raise Exception\nreturn a + 1", [[0], [1]]),
    "exit": Row("a", "if a:\n    raise SystemExit(a)\nreturn 5", "import sys\nif a:\n    sys.exit(a)\nreturn 5", "return a", [[0], [1]]),
    # what happens to arguments
    "in place": Row("xs", "xs.sort()", "xs[:] = sorted(xs)", "return None if xs else xs", [[[3, 1]], [[2, 1, 0]]]),
    "append": Row("xs", "xs.append(len(xs))\nreturn xs", "xs += [len(xs)]\nreturn xs", "return xs + [len(xs)]", XS),
    "left alone": Row("xs", "return sorted(xs)", "return sorted(xs[:])", "xs.sort()\nreturn xs", [[[3, 1]], [[2, 1, 0]]]),
    "set in place": Row("xs", "xs.add(9)\nreturn len(xs)", "xs |= {9}\nreturn len(xs)", "return len(xs | {9})", [[{1, 2}], [{3}]]),
    "dict in place": Row("d, k", "return d.pop(k, None)", "v = d.get(k)\nd.pop(k, 0)\nreturn v", "return d.get(k)", [[{"a": 1, "b": 2}, "a"], [{"c": 1}, "c"]]),
    "deep in place": Row("t", "t[0].append(1)", "t[0].insert(len(t[0]), 1)", "return None", [[([],)], [([2], 3)]]),
    "before an exception": Row("xs", "raise ValueError(len(xs))", "if xs is not None:\n    raise ValueError", "xs.clear()\nraise ValueError", [[[1]], [[1, 2]]]),
    "changed, then raised": Row("xs", "xs.pop()\nraise KeyError", "del xs[-1]\nraise KeyError('x')", "raise KeyError", [[[1]], [[1, 2]]]),
    "floats in place": Row("xs", "for i in range(len(xs)):\n    xs[i] /= 3", "xs[:] = [x * (1 / 3) for x in xs]", "xs[:] = [x / 3.0001 for x in xs]", [[[0.1, 1e9]], [[7.0]]]),
    # values of the standard library
    "decimal": Row("a", "return a / 3", "return a / Decimal(3)", "return a / 4", [[Decimal("1.50")], [Decimal(7)]]),
    "decimal as written": Row("a", "return a * 2", "return (a + a).quantize(Decimal('1.000'))", "return float(a * 2)", [[Decimal("1.50")], [Decimal(7)]]),
    "fraction": Row("a, b", "return Fraction(a, b)", "return Fraction(2 * a, 2 * b)", "return a / b", [[1, 2], [6, 4]]),
    "date": Row("d", "return d + timedelta(days=30)", "return date.fromordinal(d.toordinal() + 30)", "return d.replace(day=1)", [[date(2024, 1, 31)], [date(2023, 2, 2)]]),
    "moment": Row(
        "t", "return t.astimezone(timezone.utc)", "return t.astimezone(timezone(timedelta(0)))", "return t.astimezone(timezone(timedelta(hours=5)))",
        [[datetime(2024, 1, 1, tzinfo=UTC)], [datetime(2024, 5, 5, 3, tzinfo=timezone(timedelta(hours=2)))]],
    ),
    "duration": Row("a", "return timedelta(seconds=a)", "return timedelta(milliseconds=1000 * a)", "return timedelta(minutes=a + 1)", [[1], [90_000]]),
    "path": Row("p", "return p.parent / 'x'", "return p.with_name('x')", "return str(p.parent / 'x')", [[PurePosixPath("/a/b")], [PurePosixPath("c/d.e")]]),
    "range": Row("n", "return range(0, n, 2)", "return range(0, n + n % 2, 2)", "return list(range(0, n, 2))", [[5], [0], [8]]),
    "class": Row("a", "return type(a)", "return int if isinstance(a, int) else str", "return 'int'", [[1], ["x"]]),
    "callable": Row("f, xs", "return [f(x) for x in xs]", "return list(map(f, xs))", "return [f(x) for x in xs[1:]]", [[abs, [-1, 2]], [str, [3]]]),
    # instances
    "dataclass": Row("p", "return Point(p.y, p.x)", "q = Point(p.x)\nq.x, q.y = p.y, p.x\nreturn q", "return (p.y, p.x)", [[Point(1, 2)], [Point(0.5, [3])]]),
    "float of an instance": Row("p", "return Point(p.x / 3)", "return Point(p.x * (1 / 3), None)", "return Point(p.x / 3.001)", [[Point(1.0)], [Point(7.5)]]),
    "instance in place": Row("a, n", "a.pay(n)", "a.balance = a.balance - n\na.log += [n]", "a.balance -= n", [[Account(5), 3], [Account(0), 1]]),
    "instance left alone": Row("p", "return p.x + 1", "q = Point(p.x + 1)\nreturn q.x", "p.x += 1\nreturn p.x", [[Point(1)], [Point(4)]]),
    "class of an instance": Row("n", "return Savings(n)", "s = Savings(0)\ns.balance = n\nreturn s", "return Account(n)", [[1], [2]]),
    "attribute more": Row("n", "return Account(n)", "return Account(n + 0)", "a = Account(n)\na.name = 'x'\nreturn a", [[1], [2]]),
    "instances in a dict": Row("xs", "return {x: Point(x) for x in xs}", "return {x: Point(x) for x in reversed(xs)}", "return {x: Point(-x - 1) for x in xs + [9]}", XS),
    "named tuple": Row("p", "return p._replace(left=p.right)", "return Pair(p.right, p.right)", "return (p.right, p.right)", [[Pair(1, 2)], [Pair("a", [])]]),
    "named tuples in a set": Row("n", "return {Pair(n, 1), Pair(1, n)}", "return {Pair(1, n), Pair(n, 1)}", "return {Pair(n, 1)}", [[2], [3]]),
    "enum": Row("c", "return Colour.BLUE if c is Colour.RED else Colour.RED", "return Colour(3 - c.value)", "return c", [[Colour.RED], [Colour.BLUE]]),
    "enum or value": Row("n", "return Colour(n)", "return [Colour.RED, Colour.BLUE][n - 1]", "return n", [[1], [2]]),
    "enum as a key": Row("n", "return {Colour.RED: n}", "return dict([(Colour.RED, n)])", "return {Colour.BLUE: n}", [[1], [2]]),
}  # fmt: skip


def problem(name: str, row: Row) -> Problem:
    source = row.source(row.reference)
    found = SourceFunction(file="own.py", name="f", line=1, text=source)
    arguments = [[encode(argument, label=CLASSES.label) for argument in call] for call in row.calls]
    records = zip(arguments, replay(found, arguments, 1), replay(found, arguments, 2), strict=True)
    cases = [_repeated((given, {}), first, second) for given, first, second in records]
    assert all(isinstance(case, Case) for case in cases), (name, cases)
    return Problem(
        problem_id=f"test/{name}",
        source="test",
        family=name,
        variant="0",
        entry_point="f",
        bug_class="none",
        buggy=source,
        reference=source,
        cases=tuple(case for case in cases if isinstance(case, Case)),
    )


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(workers=2) as made:
        yield made


@pytest.fixture(scope="module")
def problems() -> dict[str, Problem]:
    return {name: problem(name, row) for name, row in ROWS.items()}


def test_right_patches_pass_and_wrong_ones_do_not(judge: Judge, problems: dict[str, Problem]) -> None:
    patches = [
        (problems[name], row.source(body))
        for name, row in ROWS.items()
        for body in (row.reference, row.right, row.wrong)
    ]
    verdicts = judge.judge_batch(patches)
    right = {
        name: (one.cases, two.cases, two.message)
        for name, one, two in zip(ROWS, verdicts[::3], verdicts[1::3], strict=True)
        if not (one.passed and two.passed)
    }
    assert right == {}
    wrong = {name: found.cases for name, found in zip(ROWS, verdicts[2::3], strict=True) if "pass" in found.cases}
    mixed = {"none", "words", "exception or value", "generator that raises", "text of a number", "dict", "counter"}
    assert {name for name in wrong if all(case == "pass" for case in wrong[name])} == set()
    assert set(wrong) - mixed == set(), {name: wrong[name] for name in set(wrong) - mixed}
    assert len(ROWS) >= 60


TOUCH = """

_right = f


def _touch(value):
    if isinstance(value, list):
        value.append("touched")
    elif isinstance(value, set):
        value.add("touched")
    elif isinstance(value, dict):
        value["touched"] = 1
    elif isinstance(value, tuple):
        for part in value:
            _touch(part)
    elif not isinstance(value, (type, enum.Enum)) and type(value).__module__ == __name__:
        value.__dict__["touched"] = 1


def f(*arguments):
    try:
        found = _right(*arguments)
        return list(found) if hasattr(found, "__next__") else found
    finally:
        for argument in arguments:
            _touch(argument)
"""
"""Does what the function above does, and changes each argument that can be changed."""


def test_patches_that_change_their_arguments_are_wrong(judge: Judge, problems: dict[str, Problem]) -> None:
    """A case fails exactly if an argument of it could be changed: the in-place patch returns the right value in every row."""
    everything = list(problems.values())
    verdicts = judge.judge_batch([(each, f"import enum\n{each.reference}{TOUCH}") for each in everything])
    wrong = {
        each.family: verdict.cases
        for each, verdict in zip(everything, verdicts, strict=True)
        if [outcome == "pass" for outcome in verdict.cases]
        != [not any(map(is_mutable, case.given())) for case in each.cases]
    }
    assert wrong == {}
    assert sum(outcome != "pass" for verdict in verdicts for outcome in verdict.cases) > 100
