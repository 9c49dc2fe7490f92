"""The value language and the comparison of values."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral_core.judge.oracle import agrees
from coral_core.problems.problem import Case
from coral_core.problems.values import ValueOutside, decode, encode
from tests.judge.value_language import same

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4)
        | st.sets(st.integers() | st.text(max_size=4), max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_round_trip_through_json(value: object) -> None:
    found = decode(json.loads(json.dumps(encode(value))))
    assert found == value and type(found) is type(value)
    assert same(encode(value), json.loads(json.dumps(encode(value))))


@pytest.mark.parametrize(
    "value", [object(), type("I", (int,), {})(3), type("L", (list,), {})(), lambda: 0, 1j, "\ud800"]
)
def test_other_objects_are_outside(value: object) -> None:
    with pytest.raises(ValueOutside):
        encode(value)


@pytest.mark.parametrize(
    "encoded", [["x", 1], ["l"], ["f", "abc"], {"a": 1}, ["d", [[1]]], ["s", [["l", []]]], 1.5, ["b", "*"]]
)
def test_what_encode_cannot_have_written_is_refused(encoded: object) -> None:
    with pytest.raises(ValueOutside):
        decode(encoded)


@pytest.mark.parametrize(
    ("one", "two", "equal"),
    [
        ((1, 2), [1, 2], True),
        ([(1, [2])], [[1, (2,)]], True),
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (None, False, False),
        ("1", 1, False),
        (math.nan, math.nan, True),
        (math.inf, math.inf, True),
        (math.inf, -math.inf, False),
        ({1, 2}, {2, 1}, True),
        ({1, 2}, frozenset({1, 2}), True),
        ({1}, [1], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ([], (), True),
        ([], {}, False),
        (2**70, 2**70, True),
        (b"x", b"x", True),
    ],
)
def test_rules_of_equality(one: object, two: object, equal: bool) -> None:
    assert same(encode(one), encode(two)) is equal
    assert same(encode(two), encode(one)) is equal


def test_a_tolerance_is_for_floats_only() -> None:
    assert same(encode(1.0), encode(1.05), 0.1) and not same(encode(1.0), encode(1.2), 0.1)
    assert same(encode([1.0, (2.0,)]), encode([1.04, [1.97]]), 0.05)
    assert not same(encode("a"), encode("b"), 10.0) and not same(encode(1), encode(2), 10.0)


@pytest.mark.parametrize(
    "junk",
    [
        {"l": 1},
        ["l", 3],
        ["l", {"a": 1}],
        [[], []],
        ["s", None],
        ["d", [1, 2]],
        ["f", []],
        ["i", "9" * 9999],
        [None, None],
    ],
)
def test_junk_from_a_child_is_never_equal_and_never_raises(junk: object) -> None:
    for expected in (1, "x", encode([1, 2]), encode({1, 2}), encode({1: 2}), encode(1.5)):
        assert same(expected, junk) is False


def test_exceptions_count_by_name_and_mutated_arguments_are_compared() -> None:
    raises = Case(arguments=(1,), exception="ValueError")
    assert (
        agrees(raises, {"exception": "ValueError"})
        and not agrees(raises, {"exception": "KeyError"})
        and not agrees(raises, {"value": 1})
    )
    mutates = Case(arguments=(["l", [3, 1]],), value=None, mutated=(["l", [1, 3]],))
    assert agrees(mutates, {"value": None, "mutated": [["l", [1, 3]]]})
    assert not agrees(mutates, {"value": None, "mutated": [["l", [3, 1]]]}) and not agrees(mutates, {"value": None})
