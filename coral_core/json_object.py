"""Reads untrusted JSON: files of runs and stores, which people, crashes and other programs may have changed.

Python's own reader accepts more than JSON allows (NaN, unbounded numbers, a key twice, lone surrogates) and as much as
memory holds. Nothing that is refused here was written by this program.
"""

import json
import math
import re
from typing import Any

DEPTH = 64
"""Levels of nesting; our deepest record has twelve."""
VALUES = 4_000_000
"""Members of lists and objects together: what a reader's memory must hold, whatever the size of the file."""
DIGITS = 64
"""Characters of a number."""

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def json_object(text: str | bytes) -> dict[str, Any]:
    """The object in a JSON text.

    Args:
        text: JSON; bytes are UTF-8.

    Raises:
        ValueError: it is no JSON in UTF-8, no object, holds a key twice or an invalid number, or is nested too deeply or
            too large.

    Example:
        >>> json_object('{"rank": 8}')
        {'rank': 8}
        >>> json_object('{"rank": 8, "rank": 16}')
        Traceback (most recent call last):
        ValueError: the key 'rank' stands there twice
    """
    found = json_value(text)
    if not isinstance(found, dict):
        raise ValueError(f"an object was expected, not {str(found)[:40]!r}")
    return found


def json_value(text: str | bytes) -> Any:
    """The value in a JSON text. Args and Raises as `json_object`, of any type."""
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    if _count(text) > VALUES and _count(_STRING.sub("", text)) > VALUES:
        raise ValueError(f"more than {VALUES} values")
    try:
        found = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_number, parse_int=_whole, parse_float=_fraction
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_depth(found)
    if _SURROGATE.search(text):
        json.dumps(
            found, ensure_ascii=False
        ).encode()  # raises for halves of pairs: they can be neither shown nor written
    return found


def _count(text: str) -> int:
    return text.count(",") + text.count("[") + text.count("{")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:40]!r} stands there twice")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _fraction(digits: str) -> float:
    if len(digits) > DIGITS or not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits[:40]} is no number that can be held")
    return value


def _check_depth(found: Any) -> None:
    level, depth = [found], 0
    while level:
        depth += 1
        if depth > DEPTH:
            raise ValueError("nested too deeply")
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
            if isinstance(child, (dict, list))
        ]
