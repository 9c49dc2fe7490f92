"""Compares what a patch returned with what the reference returned. Runs in the parent only.

Rules: tuples and lists are one; ints and floats compare by value, floats within the
case's tolerance, NaN equals NaN; True is not 1; sets and dictionaries compare without
order; exceptions by the name of their class; arguments after the call where recorded.
"""

import json
import math
from typing import Any

from coral_core.repair.problem import Case

ORACLE_VERSION = "1"


def agrees(case: Case, record: dict[str, Any]) -> bool:
    """Does one child's record of `case` show what the reference did?"""
    if case.exception is not None:
        return record.get("exception") == case.exception
    if "value" not in record:
        return False
    if not same(case.value, record["value"], case.tolerance):
        return False
    if case.mutated is not None:
        after = record.get("mutated")
        return isinstance(after, list) and same(["l", list(case.mutated)], ["l", after], case.tolerance)
    return True


def same(expected: Any, found: Any, tolerance: float | None = None) -> bool:
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
    if not isinstance(found[1], (list, tuple)) or len(expected[1]) != len(found[1]):
        return False
    if tag in ("s", "d"):
        return _unordered(list(expected[1]), list(found[1]), tag, tolerance)
    return all(same(one, two, tolerance) for one, two in zip(expected[1], found[1], strict=True))


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


def _unordered(one: list[Any], two: list[Any], tag: str, tolerance: float | None) -> bool:
    def order(item: Any) -> str:
        return json.dumps(
            item[0] if tag == "d" and isinstance(item, (list, tuple)) and item else item, sort_keys=True, default=str
        )

    if tag == "d":
        pairs = zip(sorted(one, key=order), sorted(two, key=order), strict=True)
        return all(
            isinstance(b, (list, tuple)) and len(b) == 2 and same(a[0], b[0]) and same(a[1], b[1], tolerance)
            for a, b in pairs
        )
    return all(same(a, b, tolerance) for a, b in zip(sorted(one, key=order), sorted(two, key=order), strict=True))
