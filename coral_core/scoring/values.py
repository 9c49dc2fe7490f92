"""The closed value language: how arguments and results cross the judge's boundary.

JSON with tags. ``None``, ``bool``, ``int`` (|n| < 2**53) and ``str`` are themselves; all
else is a tagged list whose first item names the type:

    ["f", "0.1"]         float by repr ("nan", "inf", "-inf" too)
    ["i", "123..."]      large int
    ["l", [...]]         list          ["t", [...]]  tuple
    ["s", [...]]         set           ["z", [...]]  frozenset   (members sorted by encoding)
    ["d", [[k, v], ...]] dict in insertion order (defaultdict, OrderedDict and Counter too: they equal one)
    ["b", "base64"]      bytes
    ["n", 3]             the node in row 3 of the table of its call

A call's arguments and results may hold `Node` objects (linked lists, graphs). Nodes are
numbered per call, from 0, as they are met; a row of the table holds the fields of one
node, in the order of `FIELDS`, encoded. References are by number, so shared nodes stay
shared and cycles are no trouble: the table is flat. Lists inside nodes go by value.

Only the exact built-in types are accepted: a subclass of int or list, or any other
object, is outside the language and `encode` raises `ValueOutside`. The child encodes,
the parent compares or decodes: nothing that a patch makes is ever unpickled or evaluated.
Standard library only: the judge's child reads this file too.
"""

import base64
import json
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Any

_SMALL = 2**53
FIELDS = ("value", "successor", "successors", "predecessors", "incoming_nodes", "outgoing_nodes")
_MAPPINGS = (dict, defaultdict, OrderedDict, Counter)
_read = object.__getattribute__


class ValueOutside(ValueError):  # noqa: N818 (a finding, like StopIteration)
    """A value (or its size) is outside the closed value language."""


class Node:
    """A node of a linked list or graph, as QuixBugs uses it: equal to itself only.

    Its hash is a number in the order of creation, so that sets of nodes iterate alike in
    every process, and a verdict does not hang on memory addresses.
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
    """One call's worth of encoding: a budget, and the numbers of its nodes."""

    def __init__(self, budget: int, depth: int, nodes: list[Node] | None) -> None:
        self.budget = budget
        self.left = budget
        self.depth = depth
        self.nodes = nodes
        self.numbers = {id(node): number for number, node in enumerate(nodes or ())}
        self.given = len(self.numbers)
        self.unordered = False

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise ValueOutside(f"the value holds more than {self.budget} items")

    def go(self, item: Any, level: int = 0) -> Any:
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
        raise ValueOutside(f"a value of type {kind.__module__}.{kind.__qualname__}")

    def _atom(self, item: Any, kind: Any) -> Any:
        if kind is int:
            if -_SMALL < item < _SMALL:
                return item
            if item.bit_length() > 10_000:
                raise ValueOutside("an int of more than 10,000 bits")
            return ["i", str(item)]
        if kind is float:
            return ["f", repr(item)]
        self.spend(len(item))
        if kind is bytes:
            return ["b", base64.b64encode(item).decode()]
        try:
            item.encode()
        except UnicodeEncodeError:
            raise ValueOutside("a str that is not valid UTF-8") from None
        return item

    def _member(self, item: Any, level: int) -> Any:
        """A member of a set or a key. In a result these have no order, so only a node that has a number can be one."""
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


def encode(value: Any, budget: int = 200_000, depth: int = 60) -> Any:
    """Encode `value`, which holds no nodes; `budget` bounds the number of items and characters in it.

    Raises:
        ValueOutside: for other types, too deep nesting, or more than `budget` items.
    """
    return _Encoder(budget, depth, None).go(value)


def encode_arguments(
    values: Sequence[Any], budget: int = 200_000, depth: int = 60
) -> tuple[list[Any], list[Any], list[Node]]:
    """Encode the arguments of a call as one object graph.

    Returns:
        The encoded values, the table of nodes, and the nodes themselves in its order.

    Raises:
        ValueOutside: as `encode`; also for a node without one of its fields.
    """
    encoder = _Encoder(budget, depth, [])
    encoder.unordered = True
    encoded = [encoder.go(value) for value in values]
    return encoded, encoder.table(), encoder.nodes or []


def encode_result(
    values: Sequence[Any], given: Sequence[Node], contents_of_given: bool, budget: int = 200_000, depth: int = 60
) -> tuple[list[Any], list[Any]]:
    """Encode what came of a call, its result first, as one object graph with the nodes that the call was `given`.

    Args:
        values: The result, and the arguments after the call where they are compared.
        given: Nodes of the arguments, in the order of their table.
        contents_of_given: False leaves the rows of `given` empty (None): their identity is all that counts.
        budget: Most items and characters in all of it.
        depth: Deepest nesting in one value or field.

    Returns:
        The encoded values, and the table of all nodes.

    Raises:
        ValueOutside: as `encode_arguments`; also for a new node in a set or as a key.
    """
    encoder = _Encoder(budget, depth, list(given))
    return [encoder.go(value) for value in values], encoder.table(contents_of_given)


def _order(encoded: Any) -> str:
    return json.dumps(encoded, sort_keys=True)


def decode(encoded: Any, nodes: Sequence[Node] = ()) -> Any:
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
            return [decode(part, nodes) for part in body]
        if tag == "t":
            return tuple(decode(part, nodes) for part in body)
        if tag == "s":
            return {decode(part, nodes) for part in body}
        if tag == "z":
            return frozenset(decode(part, nodes) for part in body)
        if tag == "d":
            return {decode(key, nodes): decode(part, nodes) for key, part in body}
        if tag == "n" and type(body) is int and 0 <= body < len(nodes):
            return nodes[body]
    except (TypeError, ValueError) as error:
        raise ValueOutside(f"not in the value language: {str(encoded)[:80]} ({error})") from None
    raise ValueOutside(f"unknown tag {tag!r} in the value language, or a node that the call does not have")


def decode_call(encoded: Sequence[Any], table: Sequence[Any] = ()) -> tuple[list[Any], list[Node]]:
    """Fresh values and fresh nodes, in the order of `table`. Raises `ValueOutside` as `decode`."""
    nodes = [Node() for _ in table]
    for node, row in zip(nodes, table, strict=True):
        if not isinstance(row, (list, tuple)) or len(row) != len(FIELDS):
            raise ValueOutside(f"not the row of a node: {str(row)[:80]}")
        for name, field in zip(FIELDS, row, strict=True):
            setattr(node, name, decode(field, nodes))
    return [decode(value, nodes) for value in encoded], nodes
