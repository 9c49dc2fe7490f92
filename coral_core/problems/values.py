"""The closed value language: the encoding of arguments and results between a patch's process and the judge.

JSON with tags. ``None``, ``bool``, ``int`` (|n| < 2**53) and ``str`` are encoded as themselves; any other value is a
tagged list whose first item names the type:

    ["f", "0.1"]         float by repr ("nan", "inf", "-inf" too)
    ["i", "123..."]      large int
    ["l", [...]]         list          ["t", [...]]  tuple
    ["s", [...]]         set           ["z", [...]]  frozenset   (members sorted by encoding)
    ["d", [[k, v], ...]] dict in insertion order (also defaultdict, OrderedDict and Counter, which equal a dict)
    ["b", "base64"]      bytes
    ["n", 3]             the node in row 3 of the table of its call

Arguments and results may hold `Node` objects (linked lists, graphs). Nodes are numbered per call, from 0, in the order
in which the encoder meets them. A row of the table holds the encoded fields of one node, in the order of `FIELDS`.
References are by number, so the table is flat: shared nodes stay shared, and cycles are possible. Lists inside nodes
are encoded by value.

Only the exact built-in types are accepted. A subclass of int or list, or any other object (complex numbers among them),
is outside the language, and `encode` raises `ValueOutside`. The child encodes; the parent compares or decodes. An object
that a patch makes is never unpickled or evaluated.

A list in an encoded value is always a tag with its body, so the string "f" as data differs from the tag "f" only by its
position, which is known by parsing from the top. `parse` is the only function that reads tags; all others (`decode`,
`has_floats`, `is_mutable`, the oracle) use it.

Standard library only: the judge's child reads this file too.
"""

import base64
import json
import reprlib
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

_SMALL = 2**53
DEPTH = 60
"""Deepest nesting of a value."""
BUDGET = 200_000
"""Most items and characters of a value, unless a caller allows fewer."""
INT_BITS = 10_000
"""Largest int. Python turns ints of up to 4,300 digits into text and back, and this is 3,011 digits."""
_INT_DIGITS = 3_011
_FLOAT_CHARACTERS = 400
FIELDS = ("value", "successor", "successors", "predecessors", "incoming_nodes", "outgoing_nodes")
_MAPPINGS = (dict, defaultdict, OrderedDict, Counter)
_read = object.__getattribute__


class ValueOutside(ValueError):  # noqa: N818 (a finding, like StopIteration)
    """A value (or its size) is outside the closed value language."""


class Node:
    """A node of a linked list or graph, as QuixBugs uses it: equal to itself only.

    Its hash is its number in the order of creation, so that sets of nodes iterate in the same order in every process, and a
    verdict does not depend on memory addresses.

    Args:
        value: Payload of the node.
        successor: Next node of a linked list.
        successors: Nodes that edges of this one lead to; None: a new list, as for those below.
        predecessors: Nodes whose edges lead to this one.
        incoming_nodes: The same as `predecessors`, as other QuixBugs programs call it.
        outgoing_nodes: The same as `successors`, as other QuixBugs programs call it.
    """

    __slots__ = ("__dict__", "_order")
    _made = 0

    def __init__(
        self,
        value: Any = None,
        successor: Any = None,
        successors: Any = None,
        predecessors: Any = None,
        incoming_nodes: Any = None,
        outgoing_nodes: Any = None,
    ) -> None:
        self._order = Node._made
        Node._made += 1
        self.value = value
        self.successor = successor
        self.successors = [] if successors is None else successors
        self.predecessors = [] if predecessors is None else predecessors
        self.incoming_nodes = [] if incoming_nodes is None else incoming_nodes
        self.outgoing_nodes = [] if outgoing_nodes is None else outgoing_nodes

    def __hash__(self) -> int:
        return self._order


class _Encoder:
    """Encodes the values of one call; counts their items and numbers their nodes."""

    def __init__(self, budget: int, depth: int, nodes: list[Node] | None) -> None:
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
            return ["d", [[self._member(key, level), self.go(part, level)] for key, part in dict.items(item)]]
        if kind is Node and self.nodes is not None:
            return ["n", self._number(item)]
        raise ValueOutside(f"a value of type {_named(kind)}")

    def _atom(self, item: Any, kind: Any) -> Any:
        if kind is int:
            return item if -_SMALL < item < _SMALL else ["i", str(_bounded(item))]
        if kind is float:
            return ["f", repr(item)]
        self.spend(len(item))
        return ["b", base64.b64encode(item).decode()] if kind is bytes else _valid(item)

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


def _named(kind: Any) -> str:
    """Module and name of a class, read past its metaclass, whose code may lie, raise or not return."""
    module = type.__dict__["__dict__"].__get__(kind).get("__module__")
    name = type.__dict__["__qualname__"].__get__(kind)
    return f"{module}.{name}"[:100] if type(module) is str else f"{name}"[:100]


def encode(value: Any, budget: int = BUDGET, depth: int = DEPTH) -> Any:
    """Encode a value without nodes.

    Args:
        value: None, a bool, int, float, str, bytes, list, tuple, set, frozenset or dict of these.
        budget: Items and characters in it, at most.
        depth: Nesting depth, at most.

    Example:
        >>> encode([1, (2.5, "a")])
        ['l', [1, ['t', [['f', '2.5'], 'a']]]]
        >>> decode(encode({1: {2}})) == {1: {2}}
        True

    Raises:
        ValueOutside: for other types, deeper nesting, or more than `budget` items.
    """
    return _Encoder(budget, depth, None).go(value)


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
    values: Sequence[Any], given: Sequence[Node], contents_of_given: bool, budget: int = BUDGET
) -> tuple[list[Any], list[Any]]:
    """Encode the outcome of a call as one object graph with the nodes that the call was `given`.

    Args:
        values: The result first, then the arguments after the call where they are compared.
        given: Nodes of the arguments, in the order of their table.
        contents_of_given: False leaves the rows of `given` empty (None): only their identity is compared.
        budget: Items and characters in total, at most.

    Returns:
        The encoded values, and the table of all nodes.

    Raises:
        ValueOutside: as `encode_arguments`; also for a new node in a set or as a key.
    """
    encoder = _Encoder(budget, DEPTH, list(given))
    return [encoder.go(value) for value in values], encoder.table(contents_of_given)


def _order(encoded: Any) -> str:
    return json.dumps(encoded, sort_keys=True)


Parsed = tuple[str, Any]
"""A value without tags: its kind (none, bool, int, float, str, bytes, list, tuple, set, frozenset, dict, node), and its body: the atom itself, a tuple of `Parsed`, or one of pairs (dict)."""
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
        return "int", _bounded(encoded)
    if kind is str:
        return "str", _valid(encoded)
    if (kind is not list and kind is not tuple) or len(encoded) != 2 or type(encoded[0]) is not str:
        raise _strange(encoded)
    tag, body = encoded
    if tag in _ATOMS:
        return _ATOMS[tag](body)
    if tag not in _CONTAINERS and tag != "d":
        raise ValueOutside(f"unknown tag {tag[:20]!r} in the value language")
    name = _CONTAINERS.get(tag, "dict")
    if type(body) is not list and type(body) is not tuple:
        raise _strange(encoded)
    if hashable and name in _UNHASHABLE:
        raise ValueOutside(f"a {name} as a key or as a member of a set")
    level += 1
    if name == "dict":
        pairs = []
        for pair in body:
            if (type(pair) is not list and type(pair) is not tuple) or len(pair) != 2:
                raise _strange(pair)
            pairs.append((_parse(pair[0], level, True), _parse(pair[1], level, False)))
        return name, tuple(pairs)
    inner = hashable or name in ("set", "frozenset")
    return name, tuple([_parse(part, level, inner) for part in body])


def _bounded(number: int) -> int:
    if number.bit_length() > INT_BITS:
        raise ValueOutside(f"an int of more than {INT_BITS:,} bits")
    return number


def _valid(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueOutside("a str that is not valid UTF-8") from None
    return text


def _float(body: Any) -> Parsed:
    """Parse a float from its repr, or from a JSON number as people write it."""
    try:
        if type(body) is int or type(body) is float:
            return "float", float(body)
        if type(body) is str and len(body) <= _FLOAT_CHARACTERS and body == body.strip() and "_" not in body:
            return "float", float(body)
    except (ValueError, OverflowError):
        pass
    raise _strange(["f", body])


def _int(body: Any) -> Parsed:
    if type(body) is int:
        return "int", _bounded(body)
    if type(body) is str:
        digits = body.removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) <= _INT_DIGITS:
            return "int", _bounded(int(body))
    raise _strange(["i", body])


def _bytes(body: Any) -> Parsed:
    if type(body) is str:
        try:
            return "bytes", base64.b64decode(body, validate=True)
        except ValueError:
            pass
    raise _strange(["b", body])


def _node(body: Any) -> Parsed:
    if type(body) is int and 0 <= body < _SMALL:
        return "node", body
    raise _strange(["n", body])


_ATOMS = {"f": _float, "i": _int, "b": _bytes, "n": _node}


def _strange(encoded: Any) -> ValueOutside:
    try:
        shown = reprlib.repr(encoded)[:80]
    except ValueError:  # an int of too many digits
        shown = f"a {type(encoded).__name__}"
    return ValueOutside(f"not in the value language: {shown}")


def atoms(value: Parsed) -> Iterator[Parsed]:
    """The values in `value` that hold no others, keys included; `value` itself when it is one of them."""
    kind, body = value
    if kind == "dict":
        for pair in body:
            for part in pair:
                yield from atoms(part)
    elif kind in _CONTAINERS.values():
        for part in body:
            yield from atoms(part)
    else:
        yield value


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
        if kind == "tuple":
            return any(map(changes, body))
        return kind in (*_UNHASHABLE, "node")

    return changes(parse(encoded))


def decode(encoded: Any, nodes: Sequence[Node] = ()) -> Any:
    """Build a new Python value from an encoded one.

    Args:
        encoded: JSON data, as `encode` writes it.
        nodes: Nodes of the call, by row number; may be empty for a value without nodes.

    Raises:
        ValueOutside: for anything that `encode` cannot have written, and for a node number beyond `nodes`.

    Example:
        >>> decode(["t", [1, ["s", [2, 3]]]])
        (1, {2, 3})
    """
    return _built(parse(encoded), nodes)


def _built(value: Parsed, nodes: Sequence[Node]) -> Any:
    kind, body = value
    if kind == "list":
        return [_built(part, nodes) for part in body]
    if kind == "tuple":
        return tuple([_built(part, nodes) for part in body])
    if kind == "node":
        if body >= len(nodes):
            raise ValueOutside(f"node {body}, which the call does not have")
        return nodes[body]
    if kind not in ("set", "frozenset", "dict"):
        return body
    result: Any
    if kind == "dict":
        result = {_built(key, nodes): _built(part, nodes) for key, part in body}
    else:
        result = (set if kind == "set" else frozenset)([_built(part, nodes) for part in body])
    if len(result) != len(body):
        raise ValueOutside(f"a {kind} with two equal {'keys' if kind == 'dict' else 'members'}")
    return result


def decode_call(encoded: Sequence[Any], table: Sequence[Any] = ()) -> tuple[list[Any], list[Node]]:
    """Build new values and new nodes from the encoded arguments of a call.

    Args:
        encoded: The encoded arguments, by position.
        table: Rows of the nodes that they refer to.

    Returns:
        The arguments, and the nodes in the order of `table`.

    Raises:
        ValueOutside: as `decode`; also for a malformed row.
    """
    nodes = [Node() for _ in table]
    for node, row in zip(nodes, table, strict=True):
        for name, field in zip(FIELDS, row_fields(row), strict=True):
            setattr(node, name, _built(field, nodes))
    return [decode(value, nodes) for value in encoded], nodes


def row_fields(row: Any) -> list[Parsed]:
    """The fields of a node, in the order of `FIELDS`.

    Raises:
        ValueOutside: `row` is not the row of a node.
    """
    if not isinstance(row, (list, tuple)) or len(row) != len(FIELDS):
        raise ValueOutside(f"not the row of a node: {reprlib.repr(row)[:80]}")
    return [parse(field, 1) for field in row]
