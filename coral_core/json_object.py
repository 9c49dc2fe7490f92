"""Reads untrusted JSON: files of runs and stores, which people, crashes and other programs may have changed.

pydantic's parser refuses what Python's parser accepts beyond JSON (NaN, numbers of more than 4,300 digits, lone
surrogates), and nesting of more than 200 levels. Repeated keys in an object are refused here. Not covered: numbers too
large for a float, which are read as infinity (`Frozen` refuses them in a record).
"""

import json
import re
from collections import Counter
from typing import Any

from pydantic_core import from_json

VALUES = 4_000_000
"""Largest number of members of all lists and objects together, which bounds a reader's memory."""
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')


def json_object(text: str | bytes) -> dict[str, Any]:
    """The object in a JSON text.

    Args:
        text: JSON; bytes are UTF-8.

    Raises:
        ValueError: it is no JSON in UTF-8, is no object, has a repeated key or an invalid number, or is nested too deeply or
            too large.

    Example:
        >>> json_object('{"rank": 8}')
        {'rank': 8}
        >>> json_object('{"rank": 8, "rank": 16}')
        Traceback (most recent call last):
        ValueError: the key 'rank' stands there twice
    """
    value = json_value(text)
    if not isinstance(value, dict):
        raise ValueError(f"an object was expected, not {str(value)[:40]!r}")
    return value


def json_value(text: str | bytes) -> Any:
    """The value in a JSON text, of any type. Arguments and errors are those of `json_object`."""
    data = text.encode() if isinstance(text, str) else text
    if _count(data) > VALUES and _count(_STRING.sub(b"", data)) > VALUES:
        raise ValueError(f"more than {VALUES} values")
    from_json(data, allow_inf_nan=False)  # raises ValueError for a text that is no JSON
    return json.loads(data, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        [(repeated, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {repeated[:40]!r} stands there twice")
    return members


def _count(data: bytes) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{")
