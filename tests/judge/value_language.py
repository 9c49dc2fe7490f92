"""Values of the whole language for property tests: how they are drawn, permuted, moved and changed."""

import math
import random
from collections import Counter, OrderedDict, defaultdict
from typing import Any

from hypothesis import strategies as st

from coral_core.judge import oracle
from coral_core.problems.values import ValueOutside, parse

TAGS = ("f", "i", "l", "t", "s", "z", "d", "b", "n", "", "nan", "x")
"""Strings that look like tags, above all."""
ABSOLUTE, RELATIVE = 1e-12, 1e-9

TEXT = st.sampled_from(TAGS) | st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
FLOATS = st.floats() | st.sampled_from([0.0, -0.0, 0.1, 1e-13, 1.8e12, -2.5, math.inf, -math.inf, math.nan, 5e-324])
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(-(2**300), 2**300)
    | FLOATS
    | TEXT
    | st.binary(max_size=4)
)
HASHABLE = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=4),
    max_leaves=6,
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(HASHABLE, max_size=4)
        | st.frozensets(HASHABLE, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.dictionaries(TEXT, inner, max_size=3).map(OrderedDict)
        | st.dictionaries(TEXT, inner, max_size=3).map(lambda items: defaultdict(list, items))
        | st.lists(TEXT, max_size=4).map(Counter)
    ),
    max_leaves=14,
)


def shuffled(encoded: Any, rng: random.Random) -> Any:
    """The same encoded value with members of sets and entries of dictionaries in another order."""
    if not isinstance(encoded, list) or encoded[0] not in ("l", "t", "s", "z", "d"):
        return encoded
    tag, body, *made = encoded
    if tag == "d":
        body = [[shuffled(key, rng), shuffled(item, rng)] for key, item in body]
    else:
        body = [shuffled(item, rng) for item in body]
    if tag in ("s", "z", "d"):
        rng.shuffle(body)
    return [tag, body, *made]


def same_kind(value: Any, rng: random.Random) -> Any:
    """An equal value: lists as tuples and the like, by chance."""
    if isinstance(value, (list, tuple)):
        items = [same_kind(item, rng) for item in value]
        return items if isinstance(value, list) and rng.random() < 0.5 else tuple(items)
    if isinstance(value, (set, frozenset)):
        return rng.choice([set, frozenset])(value)
    if isinstance(value, dict):
        items = list(value.items())
        rng.shuffle(items)
        return {key: same_kind(item, rng) for key, item in items}
    return value


def moved(value: Any, rng: random.Random) -> Any:
    """Each float moved by less than its own tolerance. Raises `ValueError` where two keys or members become one."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return value
        other = value + rng.uniform(-0.9, 0.9) * max(ABSOLUTE, RELATIVE * abs(value))
        return other if math.isfinite(other) else value
    if isinstance(value, (list, tuple)):
        return type(value)([moved(item, rng) for item in value])
    if isinstance(value, (set, frozenset)):
        made: Any = type(value)(moved(item, rng) for item in value)
    elif isinstance(value, dict):
        made = {moved(key, rng): moved(item, rng) for key, item in value.items()}
    else:
        return value
    if len(made) != len(value):
        raise ValueError("two became one")
    return made


def changed(value: Any, rng: random.Random) -> Any:
    """`value` with one change, somewhere, that no comparison may overlook; hashable if `value` is."""
    if isinstance(value, (list, tuple)):
        if value and rng.random() < 0.7:
            place = rng.randrange(len(value))
            return type(value)([*value[:place], changed(value[place], rng), *value[place + 1 :]])
        return rng.choice([value[:-1] if value else frozenset(), type(value)([*value, None]), type(value)([value])])
    if isinstance(value, (set, frozenset)):
        items = list(value)
        if not items:
            return rng.choice([(), frozenset([None])])
        chosen = rng.randrange(len(items))
        rest = items[:chosen] + items[chosen + 1 :]
        return rng.choice([type(value)(rest), type(value)([*rest, changed(items[chosen], rng)]), tuple(items)])
    if isinstance(value, dict):
        items = list(value.items())
        if not items:
            return rng.choice([[], {None: None}])
        chosen = rng.randrange(len(items))
        key, item = items.pop(chosen)
        pairs = [None, (changed(key, rng), item), (key, changed(item, rng))]
        pair = rng.choice(pairs)
        return dict(items if pair is None else [*items, pair])
    return _changed_atom(value, rng)


def _changed_atom(value: Any, rng: random.Random) -> Any:
    if value is None:
        return rng.choice([0, False, "", ()])
    if isinstance(value, bool):
        return rng.choice([not value, int(value), None])
    if isinstance(value, int):
        return rng.choice([value + 1, value - 1, -value or 7, str(value), value in (0, 1) and bool(value)])
    if isinstance(value, float):
        if not math.isfinite(value):
            return 0.0
        return rng.choice([value * (1 + 1e-6) + 1e-6, value - 1 - abs(value) * 1e-3, math.inf, repr(value), None])
    if isinstance(value, str):
        return rng.choice([value + "x", value.encode(), [value] and (value,), None])
    return rng.choice([value + b"x", value.decode("latin-1"), None])


def same(expected: Any, found: Any, tolerance: float | None = None, relative_tolerance: float | None = None) -> bool:
    """Equality of two encoded values under the rules of the oracle; `found` may be anything."""
    try:
        return oracle._Comparison(tolerance, relative_tolerance, None).same(parse(expected), parse(found))
    except ValueOutside:
        return False
