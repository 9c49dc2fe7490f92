"""Canonical JSON and the digests that identify work.

A digest is sha256 over canonical JSON: keys are sorted, there is no white space, and numbers are normalised so that ``16``
and ``16.0`` are one value. Python's `hash()` is not used, since it differs between processes.

    >>> digest({"rank": 16}) == digest({"rank": 16.0})
    True
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any


def normalise(value: Any) -> Any:
    """Return `value` as plain JSON data with one form for each number.

    Raises:
        TypeError: for anything that is not JSON data.
        ValueError: for NaN and infinities, which have no canonical JSON form.

    Example:
        >>> normalise({"b": 2.0, "a": (1, 0.5)})
        {'a': [1, 0.5], 'b': 2}
    """
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value!r} has no canonical JSON form")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"a key of canonical JSON is a string, not {key!r}")
        return {key: normalise(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [normalise(item) for item in value]
    raise TypeError(f"{value!r} of type {type(value).__name__} is not JSON data")


def canonical(value: Any) -> str:
    """Canonical JSON text of `value`. Raises as `normalise`.

    >>> canonical({"b": 2.0, "a": (1, None)})
    '{"a":[1,null],"b":2}'
    """
    return json.dumps(normalise(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """64 hexadecimal digits of sha256 over `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def seed_from(*parts: Any) -> int:
    """A 63-bit seed derived from `parts` (JSON data); equal parts give equal seeds on any machine.

    >>> seed_from("run", 1) == seed_from("run", 1.0) != seed_from("run", 2)
    True
    """
    return int(digest(list(parts))[:16], 16) >> 1
