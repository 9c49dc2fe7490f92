"""Comparison works on values: properties over the whole value language, and hostile answers."""

import json
import math
import random
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from coral_core.judge import oracle
from coral_core.judge.judge import Judge
from coral_core.judge.oracle import agrees
from coral_core.problems.problem import Case, Problem
from coral_core.problems.values import DEPTH, ValueOutside, decode, encode, has_floats, is_mutable
from tests.judge.value_language import ABSOLUTE, RELATIVE, TAGS, VALUES, changed, moved, same, same_kind, shuffled

SEEDS = st.integers(0, 2**32)
TOLERANCES = st.sampled_from([(None, None), (ABSOLUTE, RELATIVE)])
MANY = settings(max_examples=600, deadline=None)


def equal(one: Any, two: Any, tolerance: float | None = None, relative: float | None = None) -> bool:
    return same(encode(one), json.loads(json.dumps(encode(two))), tolerance, relative)


def case(value: Any, **more: Any) -> Case:
    return Case(arguments=(), value=encode(value), **more)


@MANY
@given(VALUES, SEEDS, TOLERANCES)
@example({("t", 1): 1, ("l", 1): 2}, 1, (None, None))
@example({("t", 1), ("l", 1), ("f", "x"), ("n", 0)}, 2, (None, None))
def test_order_and_kind_of_containers_never_matter(value: Any, seed: int, tolerances: Any) -> None:
    rng = random.Random(seed)
    found = shuffled(encode(same_kind(value, rng)), rng)
    assert same(encode(value), found, tolerances[0], tolerances[1])
    assert same(found, encode(value), tolerances[0], tolerances[1])


@MANY
@given(VALUES, SEEDS)
@example({0.1, 0.1 + 5e-13, ("f", 0.1)}, 0)
@example({(0.3, 1.0), (0.3, 2.0), (0.3, 3.0)}, 3)
def test_floats_moved_within_the_tolerance_never_matter(value: Any, seed: int) -> None:
    rng = random.Random(seed)
    try:
        found = shuffled(encode(moved(value, rng)), rng)
    except ValueError:
        assume(False)
    assert same(encode(value), found, ABSOLUTE, RELATIVE)


@MANY
@given(VALUES, SEEDS, TOLERANCES)
@example((1.8e12, 7), 0, (ABSOLUTE, RELATIVE))
def test_any_other_change_always_matters(value: Any, seed: int, tolerances: Any) -> None:
    rng = random.Random(seed)
    other = shuffled(encode(changed(value, rng)), rng)
    assert not same(encode(value), other, tolerances[0], tolerances[1])
    assert not same(other, encode(value), tolerances[0], tolerances[1])


@MANY
@given(VALUES)
def test_round_trip(value: Any) -> None:
    text = json.dumps(encode(value))
    found = decode(json.loads(text))
    assert type(found) is type(value)
    assert same(encode(value), encode(found)) and repr(_plain(found)) == repr(_plain(value))


def _plain(value: Any) -> Any:
    """`value` in a form whose repr tells all but order of sets and kind of mapping."""
    if isinstance(value, dict):
        return [(_plain(key), _plain(item)) for key, item in value.items()]
    if isinstance(value, (set, frozenset)):
        return [type(value).__name__, sorted((_plain(item) for item in value), key=repr)]
    if isinstance(value, (list, tuple)):
        return type(value)([_plain(item) for item in value])
    return value


@pytest.mark.parametrize(
    ("one", "two", "agree"),
    [
        ((1.8e12, 7), (1.8e12, 9), False),
        ((1.8e12, 7), (1.8e12 + 1000, 7), True),
        ((1.8e12, 7.0), (1.8e12, 7.00001), False),
        (7, 7.0000000001, False),
        (7, 7.0, True),
        (7.0, 7, True),
        (50000000000000001, 5e16, False),
        (2**53 + 1, float(2**53), False),
        (0.1 + 0.2, 0.3, True),
        (1.0, 1.0 + 2e-9, False),
        (0.0, 1e-13, True),
        (0.0, -0.0, True),
        (True, 1.0, False),
        (1, True, False),
        (math.inf, 1.7e308, False),
        (1.7e308, math.inf, False),
        (1.5, 10**400, False),
        (math.nan, 0.0, False),
        (math.nan, None, False),
        ({0.1 + 0.2: "a"}, {0.3: "a"}, True),
        ({0.1 + 0.2: "a", 1: "b"}, {1: "b", 0.3: "a"}, True),
        ({0.1 + 0.2: "a"}, {0.3: "b"}, False),
        ({0.3, 5}, {5, 0.1 + 0.2}, True),
        ({0.3, 5}, {5.0000000001, 0.3}, False),
        ({math.nan, 1.0}, {1.0, math.nan}, True),
        ({math.nan: 1, 2.0: 2}, {2.0: 2, math.nan: 1}, True),
        ({(0.3, "b"), (0.1 + 0.2, "a")}, {(0.3, "a"), (0.1 + 0.2, "b")}, True),
        ({frozenset({0.3, 1}), frozenset({0.3, 2})}, {frozenset({0.1 + 0.2, 2}), frozenset({0.3, 1})}, True),
        ({True: 1}, {1: 1}, False),
        ([{"f", "x"}], [["f", "x"]], False),
        (["f", "x"], ("f", "x"), True),
        ([["f", "0.1"]], [0.1], False),
        ({("n", 0): 1}, {("n", 0): 1}, True),
    ],
)
def test_rules(one: Any, two: Any, agree: bool) -> None:
    assert equal(one, two, ABSOLUTE, RELATIVE) is agree
    assert agrees(case(one, tolerance=ABSOLUTE, relative_tolerance=RELATIVE), {"value": encode(two)}) is agree


def test_a_pairing_is_found_where_the_order_of_values_is_misleading() -> None:
    """Each member fits several others, and only one assignment works out."""
    expected = {(1.0, 10.0), (1.2, 10.4), (1.4, 10.0)}
    assert equal(expected, {(1.3, 10.05), (1.1, 10.3), (1.25, 10.0)}, 0.3)
    assert not equal(expected, {(1.25, 10.05), (1.25, 10.04), (1.25, 10.0)}, 0.2)
    points = {(x, y) for x in range(0, 40, 2) for y in range(0, 40, 2)}
    rng = random.Random(0)
    near = {(x + rng.uniform(-0.4, 0.4), y + rng.uniform(-0.4, 0.4)) for x, y in points}
    assert equal({(float(x), float(y)) for x, y in points}, near, 0.5)
    assert not equal({(float(x), float(y)) for x, y in points}, {(x + 1.0, y) for x, y in near}, 0.5)


def test_sums_in_another_order_are_the_same_grid() -> None:
    grid = {(i * 0.1, j * 0.1) for i in range(40) for j in range(40)}
    added = list(accumulate([0.0, *[0.1] * 39]))  # plain additions: `sum` compensates for rounding since Python 3.12
    sums = {(x, y) for x in added for y in added}
    assert grid != sums and equal(grid, sums, ABSOLUTE, RELATIVE)


def test_large_sets_and_deep_values_are_compared() -> None:
    floats = {i * 0.1 for i in range(10_000)}
    assert equal(floats, {x + 1e-13 for x in floats}, ABSOLUTE, RELATIVE)
    assert equal({i: x for i, x in enumerate(floats)}, dict(reversed(list(enumerate(floats)))))
    deep: Any = 0.5
    for _ in range(DEPTH - 1):
        deep = frozenset([deep, 1.5])
    assert equal(deep, deep, ABSOLUTE, RELATIVE)
    nested: Any = 1
    for _ in range(DEPTH):
        nested = {"f": nested}
    assert equal(nested, nested) and decode(encode(nested)) == nested
    with pytest.raises(ValueOutside, match="levels deep"):
        encode([nested])


def test_a_search_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that all fit each other, where the last one has no partner: counted, not timed."""
    expected = [["t", [["f", repr(i / 1000)], ["f", repr((i * 7919 % 1000) / 1000)]]] for i in range(1000)]
    found = [["t", [["f", repr(i / 1000)], ["f", repr((i * 4421 % 997) / 1000)]]] for i in range(999)]
    found.append(["t", [["f", "0.9"], ["f", "2.5"]]])
    counted = 0
    real = oracle._Comparison.same

    def counting(self: Any, one: Any, two: Any) -> bool:
        nonlocal counted
        counted += 1
        return real(self, one, two)

    monkeypatch.setattr(oracle._Comparison, "same", counting)
    assert not same(["s", expected], ["s", found], 2.0)
    assert counted < 3 * oracle.MOST_TRIES


HOSTILE: dict[str, Any] = {
    "an int of a million digits": ["i", "9" * 10**6],
    "signs": ["i", "--5"],
    "digits of another script": ["i", "\u0661\u0662"],
    "a float of a million digits": ["f", "9" * 10**6],
    "a float with an underscore": ["f", "1_0"],
    "a float with a blank": ["f", " 1.5"],
    "a float of a list": ["f", ["1.5"]],
    "base64 of nothing": ["b", "*"],
    "base64 of a number": ["b", 5],
    "a lone surrogate": "\ud800",
    "no tag": [1, 2],
    "tag and no body": ["l"],
    "too many bodies": ["l", [], []],
    "a body that is text": ["l", "ab"],
    "a body that is a dict": ["s", {"a": 1}],
    "an unknown tag": ["q", 1],
    "a tag of a million characters": ["q" * 10**6, 1],
    "pairs that are none": ["d", [[1]]],
    "a list as a key": ["d", [[["l", []], 1]]],
    "a set in a set": ["s", [["s", []]]],
    "a dict in a tuple in a set": ["s", [["t", [["d", []]]]]],
    "a node of nothing": ["n", -1],
    "a node of truth": ["n", True],
    "a node beyond counting": ["n", 2**70],
    "an object": {"a": 1},
    "a bare float": 1.5,
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(TAGS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(st.sampled_from(TAGS), inner).map(list)
        | st.tuples(st.sampled_from("ltszd"), st.lists(inner, max_size=3)).map(list)
        | st.tuples(st.just("d"), st.lists(st.tuples(inner, inner).map(list), max_size=3)).map(list)
        | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=10,
)


@MANY
@given(JSON, VALUES, st.lists(JSON, max_size=3), TOLERANCES)
def test_any_answer_at_all_is_compared_without_an_error(
    junk: Any, value: Any, rows: list[Any], tolerances: tuple[float | None, float | None]
) -> None:
    """What is in the language equals itself, and nothing else is equal to anything."""
    wanted = case(value, tolerance=tolerances[0], relative_tolerance=tolerances[1], mutated=())
    for record in (
        {"value": junk},
        {"value": junk, "nodes": rows, "mutated": rows},
        {"exception": junk, "value": junk},
    ):
        assert agrees(wanted, record) in (True, False)
    try:
        found = decode(junk)
    except ValueOutside as error:
        assert "two equal" in str(error) or (not same(encode(value), junk) and not same(junk, junk))
    else:
        assert same(junk, junk) and same(encode(found), junk)


@pytest.mark.parametrize("junk", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_encode_cannot_have_written_equals_nothing_and_raises_nothing(junk: Any) -> None:
    with pytest.raises(ValueOutside) as caught:
        decode(junk)
    assert len(str(caught.value)) < 300
    for expected in (None, 1, "x", 1.5, [1, 2], {1, 2}, {1: 2}, b"x", {1.5}, {(1.5,): 2}):
        assert not same(encode(expected), junk, 1.0)
        assert not same(encode([expected]), ["l", [junk]], 1.0)
        assert not agrees(case(expected), {"value": junk})


def test_nesting_without_end_equals_nothing() -> None:
    for tag in ("l", "t", "z"):
        deep: Any = 1
        for _ in range(50_000):
            deep = [tag, [deep]]
        assert not same(encode([1]), deep)
        with pytest.raises(ValueOutside, match="levels deep"):
            decode(deep)


def test_members_that_collide_in_a_hash_table_cost_no_more_than_others() -> None:
    """Ints that are equal modulo 2**61 - 1 have one hash: a set of them would be quadratic."""
    prime = 2**61 - 1
    collide = ["s", [["i", str(prime * (i + 2))] for i in range(30_000)]]
    assert not same(encode(set(range(30_000))), collide)
    assert same(collide, collide)


@pytest.mark.parametrize("body", ["s", "z", "d"])
def test_equal_members_are_no_value(body: str) -> None:
    twice = ["d", [[1, 2], [1, 3]]] if body == "d" else [body, [1, 1]]
    with pytest.raises(ValueOutside, match="two equal"):
        decode(twice)
    assert not same(encode({1: 2} if body == "d" else {1}), twice)
    assert len(decode(["s", [["f", "nan"], ["f", "nan"]]])) == 2


def test_looking_into_a_value_does_not_take_data_for_tags() -> None:
    assert not has_floats(encode(["f", "1.5"])) and not has_floats(encode({"f": ["f", "x"], ("f", "2.0"): 1}))
    assert has_floats(encode({("f", 2.0): 1})) and has_floats(encode([{"a": (1.5,)}])) and not has_floats(encode({1}))
    assert [is_mutable(encode(value)) for value in (1, "l", ("l", "s"), ("l", []), {}, frozenset([1]), [1])] == [
        False,
        False,
        False,
        True,
        True,
        False,
        True,
    ]


def test_a_whole_number_with_a_tolerance_takes_floats() -> None:
    """As pytest.approx(2, abs=0.2): JSON has one kind of number."""
    alone = case(2, tolerance=0.2)
    assert [agrees(alone, {"value": encode(x)}) for x in (2, 2.0, 2.1, 1.85, 2.3, 3, True, math.nan)] == [
        True, True, True, True, False, False, False, False,
    ]  # fmt: skip
    inside = case([2, 0.5], tolerance=0.2)
    assert agrees(inside, {"value": encode([2, 0.6])}) and not agrees(inside, {"value": encode([2.1, 0.5])})


# -- exceptions and arguments after the call ---------------------------------------------------


def test_arguments_after_an_exception_are_compared() -> None:
    raises = Case(arguments=(encode([1, 2]),), exception="ValueError", mutated=(encode([1, 2]),))
    assert agrees(raises, {"exception": "ValueError", "mutated": [encode([1, 2])]})
    assert not agrees(raises, {"exception": "ValueError", "mutated": [encode([])]})
    assert not agrees(raises, {"exception": "ValueError"})
    assert not agrees(raises, {"exception": "ValueError", "mutated": []})
    assert not agrees(raises, {"exception": "KeyError", "mutated": [encode([1, 2])]})
    assert not agrees(raises, {"exception": ["ValueError"], "mutated": [encode([1, 2])]})
    loose = raises.model_copy(update={"mutated": None})
    assert agrees(loose, {"exception": "ValueError"})
    assert not agrees(case(1), {"value": 1, "exception": "ValueError"})


def test_arguments_after_the_call_have_the_tolerance_too() -> None:
    sums = Case(
        arguments=(encode([0.0]),),
        value=7,
        mutated=(encode([0.3, 7]),),
        tolerance=ABSOLUTE,
        relative_tolerance=RELATIVE,
    )
    assert agrees(sums, {"value": 7, "mutated": [encode([0.1 + 0.2, 7])]})
    assert not agrees(sums, {"value": 7, "mutated": [encode([0.3, 8])]})


# -- through the judge -------------------------------------------------------------------------


def as_problem(reference: str, cases: tuple[Case, ...], name: str = "f") -> Problem:
    return Problem(
        problem_id=f"test/{name}",
        source="test",
        family=name,
        variant="0",
        entry_point=name,
        bug_class="none",
        buggy=reference,
        reference=reference,
        cases=cases,
    )


TURNED = """
def f(one, two):
    if type(one) in (list, tuple):
        made = [f(item, two) for item in one]
        return made if type(one) is tuple else tuple(made)
    if type(one) is dict:
        return {key: f(one[key], two) for key in reversed(list(one))}
    if type(one) in (set, frozenset):
        return (set if type(one) is frozenset else frozenset)(reversed(list(one)))
    return one
"""

SAMPLE: list[Any] = [
    None, True, 0, -5, 2**80, 0.1, math.nan, math.inf, -0.0, "f", "", "\u2028\u00e9", b"", b"\x00\xff", [], (), {}, set(), frozenset(),
    ["f", "x"], ("n", 0), ["l", ["t", 1]], {"f": "i"}, {("t", 1): 1, ("l", 1): 2}, {("f", "x"), ("f", "y")}, {0.1: [0.2]},
    {frozenset({("s", "z")}): {"d"}}, [[[[{"b": ("b", "b")}]]]], {None: {True: {2: {3.5: {"x": {b"y": ()}}}}}}, list(TAGS),
]  # fmt: skip


def test_the_judge_sees_what_the_oracle_sees() -> None:
    rng = random.Random(5)
    others = [changed(value, rng) for value in SAMPLE]
    cases = tuple(
        Case(
            arguments=(encode(value), encode(other)),
            value=encode(value),
            tolerance=ABSOLUTE,
            relative_tolerance=RELATIVE,
        )
        for value, other in zip(SAMPLE, others, strict=True)
    )
    problem = as_problem("def f(one, two):\n    return one", cases)
    with Judge() as judge:
        right, turned, wrong = judge.judge_batch(
            [(problem, problem.reference), (problem, TURNED), (problem, "def f(one, two):\n    return two")]
        )
    assert right.passed and turned.passed, turned.cases
    assert set(wrong.cases) == {"wrong"}


def test_the_judge_compares_arguments_after_an_exception() -> None:
    reference = "def f(xs):\n    if not xs:\n        xs.append(1)\n        raise ValueError\n    if xs[0] < 0:\n        raise KeyError\n    return xs"
    cases = (
        Case(arguments=(encode([]),), exception="ValueError", mutated=(encode([1]),)),
        Case(arguments=(encode([-1, 2]),), exception="KeyError", mutated=(encode([-1, 2]),)),
        Case(arguments=(encode([3]),), value=encode([3]), mutated=(encode([3]),)),
    )
    problem = as_problem(reference, cases)
    patches = {
        reference: ("pass", "pass", "pass"),
        reference.replace("raise KeyError", "xs.clear()\n        raise KeyError"): (
            "pass",
            "wrong",
            "pass",
        ),
        reference.replace("xs.append(1)", "pass"): ("wrong", "pass", "pass"),
        reference.replace("return xs", "xs.append(4)\n    return xs[:1]"): ("pass", "pass", "wrong"),
        reference.replace("raise KeyError", "xs.append(object())\n        raise KeyError"): ("pass", "outside", "pass"),
    }
    with Judge() as judge:
        found = judge.judge_batch([(problem, patch) for patch in patches])
    assert [verdict.cases for verdict in found] == list(patches.values())


@settings(max_examples=8, deadline=None)
@given(st.lists(VALUES, min_size=10, max_size=30), SEEDS)
def test_the_judge_gives_back_any_value(values: list[Any], seed: int) -> None:
    """Arguments reach the child as they are, and what it returns is compared as it is."""
    rng = random.Random(seed)
    others = [changed(value, rng) for value in values]
    cases = tuple(
        Case(arguments=(encode(one), encode(two)), value=encode(one), mutated=(encode(one), encode(two)))
        for one, two in zip(values, others, strict=True)
    )
    problem = as_problem("def f(one, two):\n    return one", cases)
    with Judge(workers=1) as judge:
        right, wrong = judge.judge_batch([(problem, problem.reference), (problem, "def f(one, two):\n    return two")])
    assert right.passed and set(wrong.cases) == {"wrong"}


def test_values_that_are_written_alike_are_not_compared_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method of an object with large tables has them in every case, as they were (num2words)."""
    tables = {f"word {number}": {place: (number, place) for place in range(20)} for number in range(200)}
    expected = case(7, mutated=[encode(tables)])
    monkeypatch.setattr(oracle, "parse", lambda encoded: pytest.fail("compared part by part"))
    assert agrees(expected, json.loads(json.dumps({"value": encode(7), "mutated": [encode(tables)]})))


@pytest.mark.parametrize("pair", [(1, True), (0, False), ([1, (0,)], [True, (False,)]), ({1: 0}, {True: False})])
def test_numbers_are_not_taken_for_bools_that_python_calls_equal(pair: tuple[Any, Any]) -> None:
    assert pair[0] == pair[1]
    assert not equal(*pair) and not equal(*pair[::-1])
