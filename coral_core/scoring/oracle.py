"""Compares what a patch returned with what the reference returned. Runs in the parent only.

Rules: tuples and lists are one; ints and floats compare by value, floats within the
case's tolerance, NaN equals NaN; True is not 1; sets and dictionaries compare without
order; exceptions by the name of their class; arguments after the call where recorded.
A node that the call was given is compared by identity (and by its fields, where the
arguments after the call are); nodes that the patch made, by the graph that they form.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from coral_core.repair.problem import Case
from coral_core.scoring.values import FIELDS

ORACLE_VERSION = "2"


def agrees(case: Case, record: dict[str, Any]) -> bool:
    """Does one child's record of `case` show what the reference did?"""
    if case.exception is not None:
        return record.get("exception") == case.exception
    if "value" not in record:
        return False
    graphs = None
    if case.nodes or case.nodes_after or "nodes" in record:
        graphs = _Graphs(len(case.nodes), case.nodes_after, record.get("nodes"))
    if not same(case.value, record["value"], case.tolerance, graphs):
        return False
    if case.mutated is not None:
        after = record.get("mutated")
        if not isinstance(after, list) or not same(["l", list(case.mutated)], ["l", after], case.tolerance, graphs):
            return False
    return graphs is None or graphs.agree(case.mutated is not None, case.tolerance)


class _Graphs:
    """Which node of the patch stands for which node of the reference: a one-to-one pairing, grown as both are walked.

    Row numbers below `given` name the call's own nodes and pair with themselves only. The
    walk is a queue of pairs, so that long lists and cycles cost no recursion.
    """

    def __init__(self, given: int, expected: Sequence[Any], found: Any) -> None:
        self.expected = expected
        self.found: list[Any] = found if isinstance(found, list) else []
        self.given = given
        self.paired = {number: number for number in range(given)}
        self.taken = set(range(given))
        self.waiting: list[tuple[int, int]] = []

    def pair(self, one: Any, two: Any) -> bool:
        """May node `one` of the reference be node `two` of the patch? Contents are compared later, by `agree`."""
        if type(one) is not int or type(two) is not int or two < 0:
            return False
        if one in self.paired:
            return self.paired[one] == two
        if two in self.taken or two < self.given or two >= len(self.found):
            return False
        self.paired[one] = two
        self.taken.add(two)
        self.waiting.append((one, two))
        return True

    def agree(self, contents_of_given: bool, tolerance: float | None) -> bool:
        """Are the fields of all paired nodes the same?"""
        if contents_of_given:
            self.waiting += [(number, number) for number in range(self.given)]
        while self.waiting:
            one, two = self.waiting.pop()
            if one >= len(self.expected) or two >= len(self.found):
                return False
            left, right = self.expected[one], self.found[two]
            if left is None:
                continue
            if not isinstance(right, list) or len(right) != len(FIELDS):
                return False
            if not all(same(a, b, tolerance, self) for a, b in zip(left, right, strict=True)):
                return False
        return True


def same(expected: Any, found: Any, tolerance: float | None = None, graphs: _Graphs | None = None) -> bool:
    """Equality of two encoded values under the rules above; `found` is untrusted and may be anything."""
    left, right = _number(expected), _number(found)
    if left is not None or right is not None:
        return left is not None and right is not None and _close(left, right, tolerance)
    if not isinstance(expected, (list, tuple)):
        return type(expected) is type(found) and bool(expected == found)
    if not isinstance(found, (list, tuple)) or len(found) != 2 or len(expected) != 2:
        return False
    tag, other = _merged(expected[0]), _merged(found[0])
    if tag != other:
        return False
    if tag == "b":
        return bool(expected[1] == found[1])
    if tag == "n":
        return graphs is not None and graphs.pair(expected[1], found[1])
    if not isinstance(found[1], (list, tuple)) or len(expected[1]) != len(found[1]):
        return False
    if tag in ("s", "d"):
        return _unordered(list(expected[1]), list(found[1]), tag, tolerance, graphs)
    return all(same(one, two, tolerance, graphs) for one, two in zip(expected[1], found[1], strict=True))


def _merged(tag: Any) -> Any:
    return {"t": "l", "z": "s"}.get(tag, tag) if isinstance(tag, str) else None


def _number(value: Any) -> int | float | None:
    """The number that an encoded value is, or None. bool is no number here."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[1], str):
        try:
            if value[0] == "f":
                return float(value[1])
            if value[0] == "i" and len(value[1]) < 4_000:
                return int(value[1])
        except ValueError:
            return None
    return None


def _close(one: int | float, two: int | float, tolerance: float | None) -> bool:
    if isinstance(one, float) and isinstance(two, float) and math.isnan(one) and math.isnan(two):
        return True
    if one == two:
        return True
    try:
        return tolerance is not None and abs(one - two) <= tolerance
    except OverflowError:
        return False


def _unordered(one: list[Any], two: list[Any], tag: str, tolerance: float | None, graphs: _Graphs | None) -> bool:
    if tag == "d":
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in two):
            return False
        pairs = zip(sorted(one, key=_key_order), sorted(two, key=_key_order), strict=True)
        return all(same(a[0], b[0], None, graphs) and same(a[1], b[1], tolerance, graphs) for a, b in pairs)
    pairs = zip(sorted(one, key=_order), sorted(two, key=_order), strict=True)
    return all(same(a, b, tolerance, graphs) for a, b in pairs)


def _key_order(pair: Any) -> str:
    return _order(pair[0])


def _order(item: Any) -> str:
    """Sorts values that are the same into the same place: 2 and 2.0, (1,) and [1]."""
    return json.dumps(_plain(item), sort_keys=True, default=str)


def _plain(item: Any) -> Any:
    number = _number(item)
    if number is not None:
        return int(number) if isinstance(number, float) and number.is_integer() else number
    if isinstance(item, (list, tuple)):
        return [
            _merged(part) if place == 0 and isinstance(part, str) else _plain(part) for place, part in enumerate(item)
        ]
    return item
