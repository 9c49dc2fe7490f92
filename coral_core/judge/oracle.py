"""Compares the result of a patch with that of the reference. Runs in the parent only.

Both sides are decoded first (`problems.values.parse`). Neither tags nor encoded texts are compared, so data that looks
like a tag is still data. The rules, for each value in a value:

- None, bools, text and bytes are equal to themselves only; True is not 1;
- ints and floats compare by value: 1 and 1.0 are equal, and so are 0.0 and -0.0; NaN equals
  NaN; infinities are exact;
- where the reference returned a float, a number within the case's tolerance of this float
  is right: ``max(tolerance, relative_tolerance * |float|)``, never scaled by other floats of the value;
- where it returned an int, only a number of exactly that value is. One exception: a case whose
  whole value is an int, and which has an absolute tolerance, accepts floats within it (as
  ``pytest.approx(2, abs=0.1)`` does, and in JSON 2 may stand for 2.0);
- lists and tuples are one kind, sets and frozensets another, dictionaries a third, by their
  length and members; a generator counts as the list of its items (the child drains it);
- sets and dictionaries compare without order. With floats in keys or members, they are equal
  when the members can be paired one to one so that each pair is equal (`_Comparison._pairing`);
- values of the standard library (Decimal, Fraction, dates, times, paths, ranges) are equal to equal ones of the same
  type, enum members, classes and functions by their names;
- instances and named tuples are equal when their classes have one name and their attributes are equal; a plain tuple is
  not a named one. Arrays of numpy are equal when type, shape and items are;
- a node that was passed to the call is compared by identity, and by its fields where the case compares
  the arguments after the call; nodes that the patch created, by the graph that they form;
- an exception is compared by the name of its class;
- arguments after the call, also after one that raised, where the case records them.

Values that are written alike are the same. Of others, a patch's answer is hostile: it is parsed with limits, and the search
for a pairing gives up (not equal) after `MOST_TRIES` comparisons.
"""

import json
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import groupby, pairwise
from math import isfinite, isnan
from operator import itemgetter
from typing import Any

from coral_core.problems.problem import Case
from coral_core.problems.values import HOLDERS, Parsed, ValueOutside, atoms, canonical, parse, row_fields

ORACLE_VERSION = "4"
MOST_TRIES = 200_000
"""Comparisons allowed per record while members of sets and keys are paired, beyond four for each value in them."""

_SAME_KIND = {"tuple": "list", "frozenset": "set", "float": "int"}

_Order = tuple[str, Any]
_Entry = tuple[Parsed, ...]
"""A member of a set, or key and value."""
_Pairs = list[tuple[_Entry, _Entry]]


def agrees(case: Case, record: dict[str, Any]) -> bool:
    """Does one child's record of a case show what the reference did?

    Args:
        case: The case, with the expected outcome.
        record: Untrusted. Holds ``value`` or ``exception``; also ``mutated`` and ``nodes`` where the case compares them.

    Returns:
        False also for a malformed record.

    Example:
        >>> case = Case.of(4, value=2.0, tolerance=0.1)
        >>> agrees(case, {"value": ["f", "2.05"]}), agrees(case, {"value": ["f", "2.5"]}), agrees(case, {})
        (True, False, False)
    """
    expected: list[Any] = []
    found: list[Any] = []
    if case.exception is not None:
        if record.get("exception") != case.exception:
            return False
    elif "value" not in record or "exception" in record:
        return False
    else:
        expected.append(case.value)
        found.append(record["value"])
    if case.mutated is not None:
        after = record.get("mutated")
        if not isinstance(after, list) or len(after) != len(case.mutated):
            return False
        expected += case.mutated
        found += after
    nodes = None
    if case.nodes or case.nodes_after or "nodes" in record:
        nodes = _NodePairing(len(case.nodes), case.nodes_after, record.get("nodes"))
    comparison = _Comparison(case.tolerance, case.relative_tolerance, nodes)
    try:
        for place, (one, two) in enumerate(zip(expected, found, strict=True)):
            if nodes is None and _written_alike(one, two):
                continue
            ours, theirs = parse(one), parse(two)
            is_value = place == 0 and case.exception is None
            if is_value and case.tolerance is not None and _near_int(ours, theirs, case.tolerance):
                continue
            if not comparison.same(ours, theirs):
                return False
        return nodes is None or nodes.agree(comparison, case.mutated is not None)
    except ValueOutside:
        return False


def _written_alike(expected: Any, found: Any) -> bool:
    """Are two encoded values written alike? Then they are the same, and large ones need not be compared part by part.

    The texts decide, since 1 and true are equal in Python.
    """
    return bool(expected == found) and json.dumps(expected) == json.dumps(found)


def _near_int(expected: Parsed, found: Parsed, tolerance: float) -> bool:
    """Is the case's value an int, and the patch's a float within the tolerance of it?"""
    (kind, one), (other, two) = expected, found
    return kind == "int" and other == "float" and isfinite(two) and abs(one - Fraction(two)) <= tolerance


class _NodePairing:
    """A one-to-one pairing of the patch's nodes with the reference's, extended while both values are traversed.

    Row numbers below `given` name the call's own nodes and pair with themselves only. The traversal uses a queue of pairs, so
    that long lists and cycles need no recursion. It follows the order in which the encoder met the nodes: a node in a set is
    always paired before the set is compared.
    """

    def __init__(self, given: int, expected: Sequence[Any], found: Any) -> None:
        self.expected = expected
        self.found: list[Any] = found if isinstance(found, list) else []
        self.given = given
        self.paired = {number: number for number in range(given)}
        self.standing_for = {number: number for number in range(given)}
        self.waiting: deque[tuple[int, int]] = deque()

    def fits(self, one: int, two: int) -> bool:
        """May node `one` of the reference correspond to node `two` of the patch, given the pairs so far?"""
        if one in self.paired or two in self.standing_for:
            return self.paired.get(one) == two
        return self.given <= two < len(self.found)

    def pair(self, one: int, two: int) -> bool:
        """Pair two nodes if they fit; False if they do not. `agree` compares their contents later."""
        if not self.fits(one, two):
            return False
        if one not in self.paired:
            self.paired[one], self.standing_for[two] = two, one
            self.waiting.append((one, two))
        return True

    def number_of(self, number: int, ours: bool) -> int:
        """The reference's number of a paired node, of the reference (`ours`) or of the patch; -1 for others."""
        return (number if number in self.paired else -1) if ours else self.standing_for.get(number, -1)

    def agree(self, comparison: "_Comparison", contents_of_given: bool) -> bool:
        """Are the fields of all paired nodes the same? Raises `ValueOutside` for rows that are none."""
        if contents_of_given:
            self.waiting.extendleft((number, number) for number in reversed(range(self.given)))
        while self.waiting:
            one, two = self.waiting.popleft()
            if one >= len(self.expected) or two >= len(self.found):
                return False
            if self.expected[one] is None:
                continue
            if not all(map(comparison.same, row_fields(self.expected[one]), row_fields(self.found[two]))):
                return False
        return True


class _Comparison:
    """Compares parsed values under one pair of tolerances, and pairs nodes on the way."""

    def __init__(self, tolerance: float | None, relative: float | None, nodes: _NodePairing | None) -> None:
        self.absolute = tolerance or 0.0
        self.relative = relative or 0.0
        self.nodes = nodes
        self.trying = False
        """Whether a pairing is being tried, during which nodes are not paired permanently."""
        self.left = MOST_TRIES
        """Comparisons that are left for trying."""

    def same(self, expected: Parsed, found: Parsed) -> bool:
        """Equality under the rules of this module."""
        if not self._within_budget():
            return False
        kind, one, two = _plain(expected[0]), expected[1], found[1]
        if kind != _plain(found[0]):
            return False
        if kind == "list":
            return len(one) == len(two) and all(map(self.same, one, two))
        if kind == "set":
            return self._unordered([(member,) for member in one], [(member,) for member in two])
        if kind == "dict":
            return self._unordered(one, two)
        if kind in HOLDERS:
            return bool(one[0] == two[0]) and self.same(one[1], two[1])
        if kind == "library":
            return bool(one[0] == two[0]) and canonical(*one) == canonical(*two)
        if kind == "node":
            if self.nodes is None:
                return False
            return self.nodes.fits(one, two) if self.trying else self.nodes.pair(one, two)
        return self._close(one, two) if expected[0] == "float" else bool(one == two)

    def _close(self, one: float, two: int | float) -> bool:
        """Is the number `two` within the tolerance of the reference's `one`?"""
        if one == two:
            return True
        if isnan(one) or not isfinite(one):
            return isnan(one) and isinstance(two, float) and isnan(two)
        try:
            return isfinite(two) and abs(one - two) <= self._margin(one)
        except OverflowError:  # an int beyond all floats
            return False

    def _margin(self, number: int | float) -> float:
        """The allowed distance from `number`; 0 for infinities and for ints beyond all floats."""
        try:
            return max(self.absolute, self.relative * abs(number)) if isfinite(number) else 0.0
        except OverflowError:
            return 0.0

    # -- sets and dictionaries ---------------------------------------------------------------

    def _unordered(self, one: Sequence[_Entry], two: Sequence[_Entry]) -> bool:
        """Can the entries be paired one to one so that each pair is the same?"""
        if len(one) != len(two):
            return False
        if self.trying:
            return self._pairing(one, two) is not None
        self.left += 4 * sum(_size(part) for entry in one for part in entry)
        self.trying = True
        try:
            pairs = self._pairing(one, two)
        finally:
            self.trying = False
        if pairs is None:
            return False
        # compared again, now that nodes are paired permanently
        return self.nodes is None or all(self._same_entry(*pair) for pair in pairs)

    def _same_entry(self, one: _Entry, two: _Entry) -> bool:
        return all(map(self.same, one, two))

    def _pairing(self, one: Sequence[_Entry], two: Sequence[_Entry]) -> _Pairs | None:
        """Pairs of entries that are the same, each entry in one of them; None when there is no such pairing.

        All numbers are first sorted into clusters, such that two numbers within the tolerance are
        always in one cluster: partners agree in everything but that, so entries are grouped by it
        and only those of one group are tried with each other. Nearly every group is one pair.
        """
        clusters = self._clusters([*one, *two])
        places: list[tuple[tuple[_Order, ...], bool, int]] = []
        for ours, entries in ((True, one), (False, two)):
            for place, entry in enumerate(entries):
                places.append((tuple([self._order(part, clusters, ours) for part in entry]), ours, place))
        places.sort()
        pairs: _Pairs = []
        for _, members in groupby(places, key=itemgetter(0)):
            group: tuple[list[_Entry], list[_Entry]] = ([], [])
            for _, ours, place in members:
                group[not ours].append((one if ours else two)[place])
            matched = self._matched(*group)
            if matched is None:
                return None
            pairs += matched
        return pairs

    def _matched(self, one: list[_Entry], two: list[_Entry]) -> _Pairs | None:
        """A perfect matching of the entries of one group, or None.

        In the order of their values first, which always finds it for plain floats, and nearly
        always else; then by augmenting paths.
        """
        if len(one) != len(two):
            return None
        for entries in (one, two):
            if len(entries) > 1:
                entries.sort(key=lambda entry: [self._order(part) for part in entry])
        if all(map(self._same_entry, one, two)):
            return list(zip(one, two, strict=True))
        if len(one) == 1:
            return None
        edges: list[list[int]] = []
        for entry in one:
            edges.append([place for place, other in enumerate(two) if self._same_entry(entry, other)])
            if not edges[-1]:
                return None
        owners: dict[int, int] = {}
        if not all(self._augment(number, edges, owners, set()) for number in range(len(one))):
            return None
        return [(one[number], two[place]) for place, number in owners.items()]

    def _augment(self, number: int, edges: list[list[int]], owners: dict[int, int], seen: set[int]) -> bool:
        """Give entry `number` a place, moving others to free ones where needed."""
        for place in edges[number]:
            if place not in seen and self._within_budget():
                seen.add(place)
                if place not in owners or self._augment(owners[place], edges, owners, seen):
                    owners[place] = number
                    return True
        return False

    def _within_budget(self) -> bool:
        """Count one comparison while a pairing is tried; False when the budget is used up."""
        self.left -= self.trying
        return self.left >= 0

    def _clusters(self, entries: Iterable[_Entry]) -> list[int | float]:
        """The first number of each cluster, ascending."""
        values = (atom for entry in entries for part in entry for atom in atoms(part))
        numbers = sorted(body for kind, body in values if _plain(kind) == "int" and body == body)  # without NaN
        return numbers[:1] + [high for low, high in pairwise(numbers) if low != high and not self._linked(low, high)]

    def _linked(self, low: int | float, high: int | float) -> bool:
        """May numbers within the tolerance of each other lie at or beyond `low` and `high`?"""
        try:
            return (high - low) * (1.0 - self.relative) <= 1.001 * max(self._margin(low), self._margin(high))
        except OverflowError:
            return False

    def _order(self, value: Parsed, clusters: list[int | float] | None = None, ours: bool = True) -> _Order:
        """A sort key of `value`: with `clusters` equal for values that may be the same, else in the order of numbers.

        Args:
            value: The value.
            clusters: First numbers of the clusters, to take all numbers of one for equal; None: takes all nodes for equal.
            ours: Whether node numbers are of the reference; the patch's are turned into these.
        """
        kind, body = _plain(value[0]), value[1]
        key: Any = body
        if kind == "none":
            key = 0
        elif kind == "int" and body != body:
            return "nan", 0
        elif kind == "int" and clusters is not None:
            key = bisect_right(clusters, body)
        elif kind == "node":
            key = 0 if clusters is None or self.nodes is None else self.nodes.number_of(body, ours)
        elif kind == "library":
            key = [body[0], canonical(*body)]
        elif kind == "enum":
            key = list(body)
        elif kind in HOLDERS:
            key = [body[0], self._order(body[1], clusters, ours)]
        elif kind in ("list", "set"):
            key = [self._order(part, clusters, ours) for part in body]
        elif kind == "dict":
            key = [[self._order(part, clusters, ours) for part in pair] for pair in body]
        return kind, sorted(key) if kind in ("set", "dict") else key


def _plain(kind: str) -> str:
    return _SAME_KIND.get(kind, kind)


def _size(value: Parsed) -> int:
    """The number of values in `value`, itself included."""
    kind, body = value
    if kind == "dict":
        return 1 + sum(_size(part) for pair in body for part in pair)
    if kind in HOLDERS:
        return 1 + _size(body[1])
    return 1 + (sum(map(_size, body)) if kind in ("list", "tuple", "set", "frozenset") else 0)
