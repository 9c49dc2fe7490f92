"""What a text does on its own must be what a test saw: functions for which the two can differ without an error."""

from collections.abc import Iterator

import pytest

from coral_core.problem_sources.package.cache import Recording, recording_of
from coral_core.problem_sources.package.cases import UsableFunction, shown_case

MODULE = """
from __future__ import annotations
from collections import Counter, OrderedDict, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Flag
from functools import wraps
import warnings

RATE = 3
class Missing: pass
MISSING = Missing()

@dataclass
class Item:
    name: str
    price: int

class Access(Flag):
    READ = 1
    WRITE = 2
    RUN = 4

def cheapest(items):
    return min(item.price for item in items)

def shares(counts, names):
    total = sum(counts.values()) or 1
    for name in names:
        yield 100 * counts[name] // total

def neighbours(graph, node):
    return (other * 2 for other in graph[node])

def marked(value, number):
    if value is MISSING:
        yield number * 11
    yield number

def scaled(values):
    for value in values:
        yield value * RATE

def halves(values):
    for value in values:
        if value < 0:
            raise ValueError(value)
        yield value // 2

def evens(values):
    for value in values:
        yield value if value % 2 == 0 else None

class Field:
    def __init__(self, name, kind):
        self.name, self.kind = name, kind

    def parse(self, text):
        if text.isdigit():
            return int(text) + len(self.name)
        return getattr(self, "bad_" + self.kind)(text)

    def bad_strict(self, text):
        raise ValueError(text)

def checked(text):
    if not text:
        raise KeyError(text)
    return text * 2

def rounded(function):
    @wraps(function)
    def wrapper(*args):
        return round(function(*args))
    return wrapper

@rounded
def mean(tree):
    parts = [mean(part) if isinstance(part, list) else part for part in tree]
    return sum(parts) / max(1, len(parts))

SEEN = set()
def once(number):
    if number in SEEN:
        return None
    SEEN.add(number)
    return number * 2

@contextmanager
def changed(settings, key, value):
    old = settings.get(key)
    settings[key] = value
    yield old
    settings[key] = old

class Recent:
    def __init__(self, size):
        self.size, self.data = size, OrderedDict()

    def get(self, key):
        if key not in self.data:
            return None
        self.data.move_to_end(key)
        return self.data[key]

class Graph:
    def __init__(self):
        self.next = defaultdict(list)

    def add(self, one, two):
        self.next[one].append(two)
        return len(self.next[one])

class Box:
    def __init__(self, values):
        self.__values = list(values)

    def merge(self, __other):
        return self.__values + [each for each in __other]

    class Inner:
        class Deep:
            def times(self, number):
                return 3 * number

def may(access, wanted, times):
    return times * bool(access & Access[wanted])

def local_hour(text, hours):
    return datetime.fromisoformat(text).astimezone(timezone(timedelta(hours=hours)))

def old(number):
    warnings.warn("old", DeprecationWarning, stacklevel=2)
    return number + 1
"""

TESTS = """
from collections import Counter, defaultdict
import pytest
from pk import m
from pk.build import steps

R = pytest.mark.parametrize("n", range(1, 9))

@R
def test_right(n):
    assert m.cheapest([m.Item("a", n), m.Item("b", 5)]) == min(n, 5)
    assert list(m.shares(Counter("aab" * n), "abz")) == [66, 33, 0]
    graph = defaultdict(list, {n: [n, 1]})
    assert list(m.neighbours(graph, n)) == [2 * n, 2] and list(m.neighbours(graph, 99)) == []
    assert list(m.halves([2 * n, n])) == [n, n // 2]
    with pytest.raises(ValueError):
        list(m.halves([n, -n]))
    assert next(m.evens([2 * n, n])) == 2 * n
    assert m.checked("a" * n) == "a" * 2 * n
    with pytest.raises(KeyError):
        m.checked("")
    recent = m.Recent(2)
    recent.data.update({n: 1, n + 1: 2, n + 2: 3})
    assert recent.get(n) == 1 and list(recent.data)[-1] == n and recent.get(99) is None
    there = m.Graph()
    assert there.add(n, 1) == 1 and there.add(n, 2) == 2
    assert m.Box([n]).merge([1, 2]) == [n, 1, 2]
    assert m.Box.Inner.Deep().times(n) == 3 * n
    access = m.Access.READ | (m.Access.WRITE if n % 2 else m.Access.RUN)
    assert m.may(access, "READ", n) == n and m.may(access, "WRITE", n) == n * (n % 2)
    assert m.local_hour(f"2026-01-01T0{n}:00:00+00:00", n).hour == 2 * n
    assert steps.step(n) == n + 1
    with pytest.warns(DeprecationWarning):
        assert m.old(n) == n + 1

@R
def test_state(n, monkeypatch):
    assert list(m.marked(m.MISSING, n)) == [11 * n, n]
    field = m.Field("n" * n, "strict")
    assert field.parse("7") == 7 + n
    with pytest.raises(ValueError):
        field.parse("x")
    assert m.mean([n, [n, n + 1]]) == round((n + round(n + 0.5)) / 2)
    assert m.once(n) == 2 * n and m.once(n) is None
    settings = {}
    with m.changed(settings, "a", n):
        assert settings["a"] == n
    monkeypatch.setattr(m, "RATE", 10)
    assert list(m.scaled([n])) == [10 * n]
"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    root = tmp_path_factory.mktemp("truth")
    files = {
        "pk/__init__.py": "", "pk/m.py": MODULE, "pk/build/__init__.py": "", "pk/build/steps.py": "def step(n):\n    return n + 1\n",
        "tests/test_m.py": TESTS, "runs/last/run.json": "{}", "runs/last/history.jsonl": "", "runs/last/own.py": "def of_a_run(): pass",
    }  # fmt: skip
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CORAL_HOME", str(tmp_path_factory.mktemp("home")))
        yield recording_of(str(root))


def usable(recording: Recording, name: str) -> UsableFunction:
    reasons = {item.name: item.reason for item in recording.refused}
    assert name not in reasons, reasons[name]
    return next(item for item in recording.usable if item.definition.name == name)


def reason(recording: Recording, name: str) -> str:
    return next(item.reason for item in recording.refused if item.name == name)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("cheapest", "gives 1"),
        ("shares", "gives [66, 33, 0]"),
        ("neighbours", "gives []"),
        ("halves", "raises ValueError"),
        ("evens", "None"),
        ("checked", "raises KeyError"),
        ("Recent.get", "gives 1"),
        ("Graph.add", "gives 2"),
        ("Box.merge", "gives [1, 1, 2]"),
        ("Box.Inner.Deep.times", "gives 9"),
        ("may", "gives 0"),
        ("local_hour", "2026-01-01T02:00:00+01:00"),
        ("step", "gives 2"),
        ("old", "gives 2"),
    ],
)
def test_what_the_tests_saw_is_what_the_cases_expect(recording: Recording, name: str, case: str) -> None:
    found = usable(recording, name)
    texts = [f"{shown_case(each)} {each.value}" for each in found.cases]
    assert found.recorded >= 8 and not found.differing, found.difference
    assert any(case in text for text in texts), texts


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("marked", "acts differently on its own than in its package"),
        ("scaled", "before or elsewhere it gave [10]"),
        ("Field.parse", "acts differently on its own than in its package"),
        ("mean", "acts differently on its own than in its package"),
        ("once", "it depends on state or chance: (1) gives 2; before or elsewhere it gives None"),
        ("changed", "a context manager"),
    ],
)
def test_what_differs_is_refused_with_its_reason(recording: Recording, name: str, why: str) -> None:
    assert why in reason(recording, name)


def test_runs_in_the_project_are_no_part_of_it(recording: Recording) -> None:
    names = {item.name for item in recording.refused} | {item.definition.name for item in recording.usable}
    assert "of_a_run" not in names and "step" in names
