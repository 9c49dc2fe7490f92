"""The closed value language: the encoding of arguments and results between a patch's process and the judge.

JSON with tags. ``None``, ``bool``, ``int`` (|n| < 2**53) and ``str`` are encoded as themselves; any other value is a
tagged list whose first item names the type:

    ["f", "0.1"]         float by repr ("nan", "inf", "-inf" too)
    ["i", "123..."]      large int
    ["l", [...]]         list          ["t", [...]]  tuple
    ["s", [...]]         set           ["z", [...]]  frozenset   (members sorted by encoding)
    ["d", [[k, v], ...]] dict in insertion order  ["d", [...], "Counter"]  Counter, OrderedDict or defaultdict, which equal a dict
    ["b", "base64"]      bytes
    ["n", 3]             the node in row 3 of the table of its call
    ["k", [type, text]]  value of the standard library: Decimal, Fraction, date, datetime, time, timedelta, Path, range
    ["g", "module.name"] function or class of builtins, operator or math (a closed list)
    ["c", label]         class of the code under test, by its qualified name
    ["e", [label, name]] member of such a class that is an enum
    ["m", [label, [...]]]          named tuple of such a class
    ["o", [label, [[name, v], ...]]]  plain instance of such a class: its attributes, sorted by name
    ["a", [dtype, shape, [...]]]   numpy array (its items in C order)  ["u", [dtype, v]]  numpy scalar

Arguments and results may hold `Node` objects (linked lists, graphs). Nodes are numbered per call, from 0, in the order
in which the encoder meets them. A row of the table holds the encoded fields of one node, in the order of `FIELDS`.
References are by number, so the table is flat: shared nodes stay shared, and cycles are possible. Lists inside nodes
are encoded by value.

Only these exact types are accepted. A subclass of int or list, or any other object (complex numbers among them), is
outside the language, and `encode` raises `ValueOutside`. The child encodes; the parent compares or decodes. An object
that a patch makes is never unpickled or evaluated: encoding reads the attributes of an instance and runs no code of its
class, and only a child, which holds the classes, builds instances (without their constructor). A process without the
classes builds a `StandIn` (`library_values`), which encodes to what it was built from.

A list in an encoded value is always a tag with its body, so the string "f" as data differs from the tag "f" only by its
position, which is known by parsing from the top. `parse` is the only function that reads tags; all others (`decode`,
`has_floats`, `is_mutable`, the oracle) use it.

Standard library only: the judge's child reads this file too.
"""

import base64
import functools
import importlib
import json
import math
import operator
import os
import reprlib
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from types import BuiltinFunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from coral_core.problems import library_values as library
else:  # a child, which loads this file by its path
    library = ModuleType("library_values")
    _file = os.path.join(os.path.dirname(sys._getframe().f_code.co_filename), "library_values.py")
    with open(_file, encoding="utf-8") as _text:
        exec(compile(_text.read(), _file, "exec"), library.__dict__)

DEPTH = 60
"""Deepest nesting of a value."""
BUDGET = 200_000
"""Most items and characters of a value, unless a caller allows fewer."""
FIELDS = ("value", "successor", "successors", "predecessors", "incoming_nodes", "outgoing_nodes")
Node = library.Node
ValueOutside = library.ValueOutside
INT_BITS = library.INT_BITS
Classes = library.Classes
canonical = library.canonical
_MAPPINGS = (dict, defaultdict, OrderedDict, Counter)
_FACTORIES: dict[str, Any] = {
    f"defaultdict {kind.__name__}": kind for kind in (int, float, str, bool, list, tuple, dict, set, frozenset)
}
MAPPINGS: dict[str, Any] = {
    "Counter": Counter, "OrderedDict": OrderedDict, "defaultdict": defaultdict,
    **{name: functools.partial(defaultdict, kind) for name, kind in _FACTORIES.items()},
}  # fmt: skip
"""What a dict is built as, by the third item of its encoding. All compare as dicts."""
_read = object.__getattribute__


class _Encoder:
    """Encodes the values of one call; counts their items and numbers their nodes."""

    def __init__(self, budget: int, depth: int, nodes: list[Node] | None, label: library.Label | None = None) -> None:
        self.label = label
        self.budget = budget
        self.left = budget
        self.depth = depth
        self.nodes = nodes
        self.numbers = {id(node): number for number, node in enumerate(nodes or ())}
        self.given = len(self.numbers)
        self.unordered = False

    def spend(self, amount: int) -> None:
        """Count items against the budget. Raises `ValueOutside` when it is exceeded."""
        self.left -= amount
        if self.left < 0:
            raise ValueOutside(f"the value holds more than {self.budget} items")

    def go(self, item: Any, level: int = 0) -> Any:
        """Encode `item`, which is nested `level` levels deep. Raises `ValueOutside`."""
        self.spend(1)
        if level > self.depth:
            raise ValueOutside(f"the value is nested more than {self.depth} levels deep")
        kind = type(item)
        if item is None or kind is bool:
            return item
        if kind is int or kind is float or kind is str or kind is bytes:
            return self._atom(item, kind)
        level += 1
        if kind is list or kind is tuple:
            return ["l" if kind is list else "t", [self.go(part, level) for part in item]]
        if kind is set or kind is frozenset:
            return ["s" if kind is set else "z", sorted((self._member(part, level) for part in item), key=_order)]
        if kind in _MAPPINGS:
            pairs = [[self._member(key, level), self.go(part, level)] for key, part in kind.items(item)]
            made = _mapping(item, kind)
            return ["d", pairs, made] if made else ["d", pairs]
        if kind is Node and self.nodes is not None:
            return ["n", self._number(item)]
        if kind is library.StandIn:
            return self._stand_in(item, level)
        text = library.library_text(item, kind)
        if text is not None:
            self.spend(len(text[1]))
            return ["k", list(text)]
        return self._of_class(item, kind, level)

    def _stand_in(self, item: library.StandIn, level: int) -> Any:
        body = item.body
        if item.kind == "class":
            return ["c", item.label]
        if item.kind == "enum":
            return ["e", [item.label, body]]
        if item.kind == "named tuple":
            return ["m", [item.label, [self.go(part, level) for part in body]]]
        if item.kind == "array":
            return ["a", [item.label, list(body[0]), [self.go(part, level) for part in body[1]]]]
        if item.kind == "array item":
            return ["u", [item.label, self.go(body, level)]]
        return ["o", [item.label, [[name, self.go(body[name], level)] for name in sorted(body)]]]

    def _of_class(self, item: Any, kind: Any, level: int) -> Any:
        """Encode a class, an instance of a class with a label, or a value of numpy."""
        bases = type.__dict__["__mro__"].__get__(kind)
        if kind is BuiltinFunctionType or type in bases:
            name = library.callable_name(item, kind)
            if name:
                return ["g", name]
            label = self._label(item) if type in bases else None
            if label is None:
                raise ValueOutside(
                    f"the function or class {library.full_name(item) if type in bases else item.__name__!r}"[:160]
                )
            return ["c", label]
        if library.module_of(kind).partition(".")[0] == "numpy":
            return self._of_numpy(item, kind, level)
        label = self._label(kind)
        if label is None:
            raise ValueOutside(f"a value of type {library.full_name(kind)}")
        enum = sys.modules.get("enum")
        if enum is not None and enum.Enum in bases:
            name = _read(item, "_name_")
            known = library.names_of(kind).get(
                "_member_map_"
            )  # a combination of flags is named A|B from Python 3.11 on
            if type(name) is not str or type(known) is not dict or not all(part in known for part in name.split("|")):
                raise ValueOutside(f"a combination of members of {library.full_name(kind)}")
            return ["e", [label, library.valid(name)]]
        if tuple in bases and any("_fields" in library.names_of(base) for base in bases):
            if getattr(item, "__dict__", None):
                raise ValueOutside(f"a named tuple with attributes, of type {library.full_name(kind)}")
            return ["m", [label, [self.go(part, level) for part in tuple.__iter__(item)]]]
        state = library.state_of(item, bases)
        return ["o", [label, [[library.valid(name), self.go(state[name], level)] for name in sorted(state)]]]

    def _label(self, kind: Any) -> str | None:
        label = None if self.label is None else self.label(kind)
        if label is not None:
            self.spend(len(label))
        return label

    def _of_numpy(self, item: Any, kind: Any, level: int) -> Any:
        numpy = sys.modules.get("numpy")
        if numpy is None or not (kind is numpy.ndarray or isinstance(item, numpy.generic)):
            raise ValueOutside(f"a value of type {library.full_name(kind)}")
        if item.dtype.kind not in "biufUS" or item.dtype.itemsize > 1_000:
            raise ValueOutside(f"a numpy array of {item.dtype}"[:100])
        if kind is not numpy.ndarray:
            return ["u", [item.dtype.str, self.go(item.item(), level)]]
        self.spend(item.size)
        return ["a", [item.dtype.str, list(item.shape), [self.go(part, level) for part in item.ravel().tolist()]]]

    def _atom(self, item: Any, kind: Any) -> Any:
        if kind is int:
            return item if -library.SMALL < item < library.SMALL else ["i", str(library.bounded(item))]
        if kind is float:
            return ["f", repr(item)]
        self.spend(len(item))
        return ["b", base64.b64encode(item).decode()] if kind is bytes else library.valid(item)

    def _member(self, item: Any, level: int) -> Any:
        """Encode a member of a set, or a key. These have no order in a result, so a node in them must already have a number."""
        met = len(self.numbers)
        encoded = self.go(item, level)
        if len(self.numbers) > met and not self.unordered:
            raise ValueOutside("a new node in a set or as a key: it has no order to compare by")
        return encoded

    def _number(self, node: Node) -> int:
        number = self.numbers.get(id(node))
        if number is None:
            assert self.nodes is not None
            number = self.numbers[id(node)] = len(self.nodes)
            self.nodes.append(node)
        return number

    def table(self, contents_of_given: bool = True) -> list[Any]:
        """Rows of all nodes met so far and of those that their fields lead to."""
        rows: list[Any] = []
        while len(rows) < len(self.nodes or ()):
            assert self.nodes is not None
            if len(rows) < self.given and not contents_of_given:
                rows.append(None)
                continue
            fields = _read(self.nodes[len(rows)], "__dict__")
            try:
                rows.append([self.go(fields[name], 1) for name in FIELDS])
            except KeyError as error:
                raise ValueOutside(f"a node without {error}") from None
        return rows


def encode(value: Any, budget: int = BUDGET, depth: int = DEPTH, label: library.Label | None = None) -> Any:
    """Encode a value without nodes.

    Args:
        value: None, a bool, int, float, str, bytes, list, tuple, set, frozenset or dict of these.
        budget: Items and characters in it, at most.
        depth: Nesting depth, at most.
        label: Names the classes whose instances may be encoded; None: there is none.

    Example:
        >>> encode([1, (2.5, "a")])
        ['l', [1, ['t', [['f', '2.5'], 'a']]]]
        >>> decode(encode({1: {2}})) == {1: {2}}
        True

    Raises:
        ValueOutside: for other types, deeper nesting, or more than `budget` items.
    """
    return _Encoder(budget, depth, None, label).go(value)


def encode_arguments(values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Node]]:
    """Encode the arguments of a call as one object graph.

    Args:
        values: The arguments, by position; they may hold `Node` objects.

    Returns:
        The encoded values, the table of nodes, and the nodes themselves in its order.

    Raises:
        ValueOutside: as `encode`; also for a node without one of its fields.
    """
    encoder = _Encoder(BUDGET, DEPTH, [])
    encoder.unordered = True
    encoded = [encoder.go(value) for value in values]
    return encoded, encoder.table(), encoder.nodes or []


def encode_result(
    values: Sequence[Any],
    given: Sequence[Node],
    contents_of_given: bool,
    budget: int = BUDGET,
    label: library.Label | None = None,
) -> tuple[list[Any], list[Any]]:
    """Encode the outcome of a call as one object graph with the nodes that the call was `given`.

    Args:
        values: The result first, then the arguments after the call where they are compared.
        given: Nodes of the arguments, in the order of their table.
        contents_of_given: False leaves the rows of `given` empty (None): only their identity is compared.
        budget: Items and characters in total, at most.
        label: As for `encode`.

    Returns:
        The encoded values, and the table of all nodes.

    Raises:
        ValueOutside: as `encode_arguments`; also for a new node in a set or as a key.
    """
    encoder = _Encoder(budget, DEPTH, list(given), label)
    return [encoder.go(value) for value in values], encoder.table(contents_of_given)


def _order(encoded: Any) -> str:
    return json.dumps(encoded, sort_keys=True)


def _mapping(item: Any, kind: Any) -> str:
    """Name in `MAPPINGS` of the type of a mapping; "" for a dict, and for a defaultdict whose factory has no name there."""
    if kind is not defaultdict:
        return "" if kind is dict else str(kind.__name__)
    factory = item.default_factory
    if factory is None:
        return "defaultdict"
    return next((name for name, known in _FACTORIES.items() if known is factory), "")


class Pairs(tuple[Any, ...]):
    """The body of a parsed dict: its pairs, and what it is built as."""

    made = ""


Parsed = tuple[str, Any]
"""A value without tags: its kind, and its body.

Kinds are none, bool, int, float, str, bytes, node, library, callable, class and enum, whose body is an atom (a pair of texts
for library and enum); list, tuple, set and frozenset (a tuple of `Parsed`), dict (a tuple of pairs); and named tuple, object
and array, whose body is a label and a `Parsed` that holds the values (for an object a dict of its attributes).
"""
_CONTAINERS = {"l": "list", "t": "tuple", "s": "set", "z": "frozenset"}
_UNHASHABLE = ("list", "set", "dict")


def parse(encoded: Any, level: int = 0) -> Parsed:
    """Read an encoded value of untrusted origin into kinds and bodies.

    Args:
        encoded: JSON data (tuples count as lists).
        level: Its nesting depth: 1 for a field of a node.

    Raises:
        ValueOutside: for anything `encode` cannot have written: unknown tags, bodies of another
            type, text that is not valid UTF-8, ints of more than `INT_BITS` bits, unhashable members of a
            set, nesting deeper than `DEPTH`. Equal members are found by `decode`.

    Example:
        >>> parse(["l", [1, ["f", "2.5"]]])
        ('list', (('int', 1), ('float', 2.5)))
    """
    return _parse(encoded, level, False)


def _parse(encoded: Any, level: int, hashable: bool) -> Parsed:
    if level > DEPTH:
        raise ValueOutside(f"the value is nested more than {DEPTH} levels deep")
    if encoded is None:
        return "none", None
    kind = type(encoded)
    if kind is bool:
        return "bool", encoded
    if kind is int:
        return "int", library.bounded(encoded)
    if kind is str:
        return "str", library.valid(encoded)
    made = encoded[2] if kind in (list, tuple) and len(encoded) == 3 and encoded[0] == "d" else ""
    if (
        (kind is not list and kind is not tuple)
        or len(encoded) != (3 if made else 2)
        or type(encoded[0]) is not str
        or (made and (type(made) is not str or made not in MAPPINGS))
    ):
        raise library.strange(encoded)
    tag, body = encoded[0], encoded[1]
    if tag in _ATOMS:
        return _ATOMS[tag](body)
    if tag in _SHAPES:
        return _labelled(tag, body, level, hashable)
    if tag not in _CONTAINERS and tag != "d":
        raise ValueOutside(f"unknown tag {tag[:20]!r} in the value language")
    name = _CONTAINERS.get(tag, "dict")
    if type(body) is not list and type(body) is not tuple:
        raise library.strange(encoded)
    if hashable and name in _UNHASHABLE:
        raise ValueOutside(f"a {name} as a key or as a member of a set")
    level += 1
    if name == "dict":
        pairs = []
        for pair in body:
            if (type(pair) is not list and type(pair) is not tuple) or len(pair) != 2:
                raise library.strange(pair)
            pairs.append((_parse(pair[0], level, True), _parse(pair[1], level, False)))
        found = Pairs(pairs)
        found.made = made
        return name, found
    inner = hashable or name in ("set", "frozenset")
    return name, tuple([_parse(part, level, inner) for part in body])


def _library(body: Any) -> Parsed:
    if (
        _is_pair(body)
        and type(body[0]) is str
        and body[0] in library.LIBRARY
        and type(body[1]) is str
        and len(body[1]) <= library.LONGEST_TEXT
    ):
        library.built(body[0], body[1])
        return "library", (body[0], body[1])
    raise library.strange(["k", body])


def _callable(body: Any) -> Parsed:
    if type(body) is str and library.may_be_named(*body.partition(".")[::2]):
        return "callable", body
    raise library.strange(["g", body])


def _enum(body: Any) -> Parsed:
    if _is_pair(body) and type(body[1]) is str and len(body[1]) <= library.LONGEST_TEXT:
        return "enum", (library.checked_label(body[0]), library.valid(body[1]))
    raise library.strange(["e", body])


def _is_pair(body: Any) -> bool:
    return (type(body) is list or type(body) is tuple) and len(body) == 2


def _labelled(tag: str, body: Any, level: int, hashable: bool) -> Parsed:
    """Parse a named tuple, an object, or a value of numpy."""
    if type(body) not in (list, tuple) or len(body) != (3 if tag == "a" else 2) or type(body[1]) not in _SHAPES[tag]:
        raise library.strange([tag, body])
    if tag in ("a", "u"):
        dtype, shape, held = (body[0], body[1], body[2]) if tag == "a" else (body[0], (), ["l", [body[1]]])
        if type(dtype) is not str or len(dtype) > 20 or (hashable and tag == "a"):
            raise library.strange([tag, body])
        if tag == "u":
            return "array item", (dtype, _parse(held, level, False))
        values = _parse(["l", held], level, False)
        if not all(type(n) is int and 0 <= n < library.SMALL for n in shape) or len(values[1]) != math.prod(shape):
            raise library.strange([tag, body])
        return "array", (f"{dtype} {list(shape)}", values)
    label, held = library.checked_label(body[0]), body[1]
    if tag == "m":
        return "named tuple", (label, _parse(["t", held], level, hashable))
    fields = _parse(["d", held], level, False)
    names = [name[1] for name, _ in fields[1] if name[0] == "str"]
    if len(names) != len(fields[1]) or names != sorted(set(names)):
        raise library.strange([tag, body])
    return "object", (label, fields)


_SHAPES: dict[str, tuple[type, ...]] = {
    "m": (list, tuple),
    "o": (list, tuple),
    "a": (list, tuple),
    "u": (int, float, bool, list, tuple, str),
}
_ATOMS = {
    "f": library.read_float, "i": library.read_int, "b": library.read_bytes, "n": library.read_node,
    "k": _library, "g": _callable, "c": lambda body: ("class", library.checked_label(body)), "e": _enum,
}  # fmt: skip
HOLDERS = ("named tuple", "object", "array", "array item")
"""Kinds whose body is a label and a `Parsed`."""


def _walk(value: Parsed) -> Iterator[Parsed]:
    """`value` and all values in it, keys included."""
    yield value
    kind, body = value
    inside: Iterable[Parsed] = ()
    if kind == "dict":
        inside = (part for pair in body for part in pair)
    elif kind in _CONTAINERS.values():
        inside = body
    elif kind in HOLDERS:
        inside = (body[1],)
    for part in inside:
        yield from _walk(part)


def atoms(value: Parsed) -> Iterator[Parsed]:
    """The values in `value` that hold no others, keys included; `value` itself when it is one of them."""
    holding = {"dict", *_CONTAINERS.values(), *HOLDERS}
    return (part for part in _walk(value) if part[0] not in holding)


def labels(value: Parsed) -> Iterator[str]:
    """Labels of the classes that `value` needs."""
    for kind, body in _walk(value):
        if kind == "class":
            yield body
        elif kind in ("enum", "named tuple", "object"):
            yield body[0]


def has_floats(encoded: Any) -> bool:
    """True when an encoded value holds a float.

    Raises:
        ValueOutside: as `parse`.
    """
    return any(kind == "float" for kind, _ in atoms(parse(encoded)))


def is_mutable(encoded: Any) -> bool:
    """True when a call could change an encoded value in place: it is or holds a list, set, dict or node.

    Raises:
        ValueOutside: as `parse`.

    Example:
        >>> is_mutable(encode((1, [2]))), is_mutable(encode((1, "a")))
        (True, False)
    """

    def changes(value: Parsed) -> bool:
        kind, body = value
        if kind == "tuple" or kind == "frozenset":
            return any(map(changes, body))
        if kind == "named tuple":
            return changes(body[1])
        return kind in (*_UNHASHABLE, "node", "object", "array")

    return changes(parse(encoded))


def decode(encoded: Any, nodes: Sequence[Node] = (), find: library.Find | None = None) -> Any:
    """Build a new Python value from an encoded one.

    Args:
        encoded: JSON data, as `encode` writes it.
        nodes: Nodes of the call, by row number; may be empty for a value without nodes.
        find: Finds the classes of instances by their labels; None: a `library_values.StandIn` takes the place of each value that needs one.

    Raises:
        ValueOutside: for anything that `encode` cannot have written, and for a node number beyond `nodes`.

    Example:
        >>> decode(["t", [1, ["s", [2, 3]]]])
        (1, {2, 3})
    """
    return _built(parse(encoded), nodes, find)


def _built(value: Parsed, nodes: Sequence[Node], find: library.Find | None = None) -> Any:
    kind, body = value
    if kind == "list":
        return [_built(part, nodes, find) for part in body]
    if kind == "tuple":
        return tuple([_built(part, nodes, find) for part in body])
    if kind == "node":
        if body >= len(nodes):
            raise ValueOutside(f"node {body}, which the call does not have")
        return nodes[body]
    if kind == "library":
        return library.built(*body)
    if kind == "callable":
        module, _, name = body.partition(".")
        return getattr(library.MODULES[module], name)
    if kind in ("class", "enum", *HOLDERS):
        return _stand_in_for(value) if find is None else _instance(value, nodes, find)
    if kind not in ("set", "frozenset", "dict"):
        return body
    result: Any
    if kind == "dict":
        result = {_built(key, nodes, find): _built(part, nodes, find) for key, part in body}
        if getattr(body, "made", ""):
            made = MAPPINGS[body.made]()
            for key, part in result.items():
                made[key] = part
            result = made
    else:
        result = (set if kind == "set" else frozenset)([_built(part, nodes, find) for part in body])
    if len(result) != len(body):
        raise ValueOutside(f"a {kind} with two equal {'keys' if kind == 'dict' else 'members'}")
    return result


def _instance(value: Parsed, nodes: Sequence[Node], find: library.Find) -> Any:
    """Build a class, or an instance of one without calling its constructor. Raises `ValueOutside`."""
    kind, body = value
    if kind == "class":
        return find(body)
    if kind == "enum":
        members, names = find(body[0]).__members__, body[1].split("|")
        if not all(name in members for name in names):
            raise ValueOutside(f"no member {body[1]} of {body[0]}")
        return functools.reduce(operator.or_, (members[name] for name in names))
    held = _built(body[1], nodes, find)
    if kind in ("array", "array item"):
        numpy = importlib.import_module("numpy")
        dtype, _, shape = body[0].partition(" ")
        array = numpy.array(held, dtype=numpy.dtype(dtype))
        return array.reshape(json.loads(shape)) if kind == "array" else array[0]
    found = find(body[0])
    return tuple.__new__(found, held) if kind == "named tuple" else library.instance(found, held)


def _stand_in_for(value: Parsed) -> library.StandIn:
    kind, body = value
    if kind == "class":
        return library.StandIn(kind, body, None)
    if kind == "enum":
        return library.StandIn(kind, *body)
    held = _built(body[1], ())
    if kind == "array":
        dtype, _, shape = body[0].partition(" ")
        return library.StandIn(kind, dtype, (json.loads(shape), held))
    return library.StandIn(kind, body[0], held[0] if kind == "array item" else held)


def decode_call(
    encoded: Sequence[Any], table: Sequence[Any] = (), find: library.Find | None = None
) -> tuple[list[Any], list[Node]]:
    """Build new values and new nodes from the encoded arguments of a call.

    Args:
        encoded: The encoded arguments, by position.
        table: Rows of the nodes that they refer to.
        find: As for `decode`.

    Returns:
        The arguments, and the nodes in the order of `table`.

    Raises:
        ValueOutside: as `decode`; also for a malformed row.
    """
    nodes = [Node() for _ in table]
    for node, row in zip(nodes, table, strict=True):
        for name, field in zip(FIELDS, row_fields(row), strict=True):
            setattr(node, name, _built(field, nodes, find))
    return [decode(value, nodes, find) for value in encoded], nodes


def row_fields(row: Any) -> list[Parsed]:
    """The fields of a node, in the order of `FIELDS`.

    Raises:
        ValueOutside: `row` is not the row of a node.
    """
    if not isinstance(row, (list, tuple)) or len(row) != len(FIELDS):
        raise ValueOutside(f"not the row of a node: {reprlib.repr(row)[:80]}")
    return [parse(field, 1) for field in row]
