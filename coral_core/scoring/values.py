"""The closed value language: how arguments and results cross the judge's boundary.

JSON with tags. ``None``, ``bool``, ``int`` (|n| < 2**53) and ``str`` are themselves; all
else is a tagged list whose first item names the type:

    ["f", "0.1"]         float by repr ("nan", "inf", "-inf" too)
    ["i", "123..."]      large int
    ["l", [...]]         list          ["t", [...]]  tuple
    ["s", [...]]         set           ["z", [...]]  frozenset   (members sorted by encoding)
    ["d", [[k, v], ...]] dict in insertion order
    ["b", "base64"]      bytes

Only the exact built-in types are accepted: a subclass of int or list, or any other
object, is outside the language and `encode` raises `ValueOutside`. The child encodes,
the parent decodes: nothing that a patch makes is ever unpickled or evaluated.
"""

import base64
import json
from typing import Any

_SMALL = 2**53


class ValueOutside(ValueError):  # noqa: N818 (a finding, like StopIteration)
    """A value (or its size) is outside the closed value language."""


def encode(value: Any, budget: int = 200_000, depth: int = 60) -> Any:
    """Encode `value`; `budget` bounds the number of items and characters in it.

    Raises:
        ValueOutside: for other types, too deep nesting, or more than `budget` items.
    """
    left = [budget]

    def spend(amount: int) -> None:
        left[0] -= amount
        if left[0] < 0:
            raise ValueOutside(f"the value holds more than {budget} items")

    def go(item: Any, level: int) -> Any:
        spend(1)
        if level > depth:
            raise ValueOutside(f"the value is nested more than {depth} levels deep")
        kind = type(item)
        if item is None or kind is bool:
            return item
        if kind is int:
            if -_SMALL < item < _SMALL:
                return item
            if item.bit_length() > 10_000:
                raise ValueOutside("an int of more than 10,000 bits")
            return ["i", str(item)]
        if kind is str:
            spend(len(item))
            try:
                item.encode()
            except UnicodeEncodeError:
                raise ValueOutside("a str that is not valid UTF-8") from None
            return item
        if kind is float:
            return ["f", repr(item)]
        if kind is list or kind is tuple:
            return ["l" if kind is list else "t", [go(part, level + 1) for part in item]]
        if kind is set or kind is frozenset:
            parts = [go(part, level + 1) for part in item]
            return ["s" if kind is set else "z", sorted(parts, key=_order)]
        if kind is dict:
            return ["d", [[go(key, level + 1), go(part, level + 1)] for key, part in item.items()]]
        if kind is bytes:
            spend(len(item))
            return ["b", base64.b64encode(item).decode()]
        raise ValueOutside(f"a value of type {kind.__module__}.{kind.__qualname__}")

    return go(value, 0)


def _order(encoded: Any) -> str:
    return json.dumps(encoded, sort_keys=True)


def decode(encoded: Any) -> Any:
    """Rebuild a fresh value. Raises `ValueOutside` for anything `encode` cannot have written."""
    if encoded is None or isinstance(encoded, (bool, int, str)):
        return encoded
    if not isinstance(encoded, (list, tuple)) or len(encoded) != 2:
        raise ValueOutside(f"not in the value language: {str(encoded)[:80]}")
    tag, body = encoded
    try:
        if tag == "f":
            return float(body)
        if tag == "i":
            return int(body)
        if tag == "b":
            return base64.b64decode(body, validate=True)
        if tag == "l":
            return [decode(part) for part in body]
        if tag == "t":
            return tuple(decode(part) for part in body)
        if tag == "s":
            return {decode(part) for part in body}
        if tag == "z":
            return frozenset(decode(part) for part in body)
        if tag == "d":
            return {decode(key): decode(part) for key, part in body}
    except (TypeError, ValueError) as error:
        raise ValueOutside(f"not in the value language: {str(encoded)[:80]} ({error})") from None
    raise ValueOutside(f"unknown tag {tag!r} in the value language")
