"""Compares what a patch returned with what the reference returned. Runs in the parent only.

Both sides are decoded first (`scoring.values.parse`): no tag and no text of an encoding is
ever compared, so data that looks like a tag is data. The rules, for each value in a value:

- None, bools, text and bytes are equal to themselves only; True is not 1;
- ints and floats compare by value: 1 and 1.0 are equal, and so are 0.0 and -0.0; NaN equals
  NaN; infinities are exact;
- where the reference returned a float, a number within the case's tolerance of this float
  is right: ``max(tolerance, relative_tolerance * |float|)``, never scaled by other floats of the value;
- where it returned an int, only a number of exactly that value is. One exception: a case whose
  whole value is an int, and which has an absolute tolerance, takes floats within it (as
  ``pytest.approx(2, abs=0.1)`` does, and in JSON 2 may stand for 2.0);
- lists and tuples are one kind, sets and frozensets another, dictionaries a third, by their
  length and members; a generator counts as the list of what it yields (the child drains it);
- sets and dictionaries compare without order. With floats in keys or members: they are equal
  when the members can be paired one to one so that each pair is (`_Comparison._paired`);
- a node that the call was given is compared by identity (and by its fields, where the
  arguments after the call are); nodes that the patch made, by the graph that they form;
- an exception is compared by the name of its class;
- arguments after the call, also after one that raised, where the case records them.

A patch's answer is hostile: it is parsed with limits, and the search for a pairing gives up
(not equal) after `MOST_TRIES` comparisons.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import groupby, pairwise
from math import isfinite, isnan
from operator import itemgetter
from typing import Any

from coral_core.problems.problem import Case
from coral_core.problems.values import Parsed, ValueOutside, atoms, parse, row_fields

ORACLE_VERSION = "3"
MOST_TRIES = 200_000
"""Values that may be compared while members of sets and keys with floats are paired, per record."""

_SAME_KIND = {"tuple": "list", "frozenset": "set", "float": "int"}
_RANK = {"none": 0, "bool": 1, "int": 2, "str": 4, "bytes": 5, "list": 6, "set": 7, "dict": 8, "node": 9}
_NAN = (3, 0)

_Order = tuple[int, Any]
_Entry = tuple[Parsed, Parsed | None]
"""A member of a set, or key and value."""


def agrees(case: Case, record: dict[str, Any]) -> bool:
    """Does one child's record of `case` show what the reference did?

    Args:
        record: Untrusted: ``value`` or ``exception``, ``mutated`` and ``nodes`` where the case asks for them.
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
    graphs = None
    if case.nodes or case.nodes_after or "nodes" in record:
        graphs = _Graphs(len(case.nodes), case.nodes_after, record.get("nodes"))
    comparison = _Comparison(case.tolerance, case.relative_tolerance, graphs)
    try:
        pairs = [(parse(one), parse(two)) for one, two in zip(expected, found, strict=True)]
        if case.exception is None and case.tolerance is not None and _near_int(*pairs[0], case.tolerance):
            pairs.pop(0)
        if not all(comparison.same(one, two) for one, two in pairs):
            return False
        return graphs is None or graphs.agree(comparison, case.mutated is not None)
    except ValueOutside:
        return False


def same(
    expected: Any,
    found: Any,
    tolerance: float | None = None,
    graphs: "_Graphs | None" = None,
    relative_tolerance: float | None = None,
) -> bool:
    """Equality of two encoded values under the rules above; `found` is untrusted and may be anything."""
    try:
        return _Comparison(tolerance, relative_tolerance, graphs).same(parse(expected), parse(found))
    except ValueOutside:
        return False


def _near_int(expected: Parsed, found: Parsed, tolerance: float) -> bool:
    """Is the case's value an int, and the patch's a float within the tolerance of it?"""
    (kind, one), (other, two) = expected, found
    return kind == "int" and other == "float" and isfinite(two) and abs(one - Fraction(two)) <= tolerance


class _Graphs:
    """Which node of the patch stands for which node of the reference: a one-to-one pairing, grown as both are walked.

    Row numbers below `given` name the call's own nodes and pair with themselves only. The
    walk is a queue of pairs, so that long lists and cycles cost no recursion, in the order in
    which the encoder met the nodes: a node in a set is always paired before the set is compared.
    """

    def __init__(self, given: int, expected: Sequence[Any], found: Any) -> None:
        self.expected = expected
        self.found: list[Any] = found if isinstance(found, list) else []
        self.given = given
        self.paired = {number: number for number in range(given)}
        self.standing_for = {number: number for number in range(given)}
        self.waiting: deque[tuple[int, int]] = deque()

    def fits(self, one: int, two: int) -> bool:
        """May node `one` of the reference be node `two` of the patch, as far as is known?"""
        if one in self.paired or two in self.standing_for:
            return self.paired.get(one) == two
        return self.given <= two < len(self.found)

    def pair(self, one: int, two: int) -> bool:
        """As `fits`, and from now on it is. Contents are compared later, by `agree`."""
        if not self.fits(one, two):
            return False
        if one not in self.paired:
            self.paired[one], self.standing_for[two] = two, one
            self.waiting.append((one, two))
        return True

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

    def __init__(self, tolerance: float | None, relative: float | None, graphs: _Graphs | None) -> None:
        self.absolute = tolerance or 0.0
        self.relative = relative or 0.0
        self.graphs = graphs
        self.tries: int | None = None
        """Comparisons left while a pairing is tried, when nodes must not be paired for good; else None."""
        self.spent = 0
        """How many of `MOST_TRIES` earlier pairings took."""

    def same(self, expected: Parsed, found: Parsed) -> bool:
        """Equality under the rules of this module."""
        if not self._may_go_on():
            return False
        kind, one = expected
        two = found[1]
        if _plain(kind) != _plain(found[0]):
            return False
        if kind in ("list", "tuple"):
            return len(one) == len(two) and all(map(self.same, one, two))
        if kind == "int":
            return bool(one == two)
        if kind == "float":
            return self._close(one, two)
        if kind in ("set", "frozenset"):
            return len(one) == len(two) and self._unordered([(m, None) for m in one], [(m, None) for m in two])
        if kind == "dict":
            return len(one) == len(two) and self._unordered(list(one), list(two))
        if kind == "node":
            if self.graphs is None:
                return False
            return self.graphs.pair(one, two) if self.tries is None else self.graphs.fits(one, two)
        return bool(one == two)

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
        """How far a number may be from `number`; of infinities and ints beyond all floats, nothing."""
        try:
            return max(self.absolute, self.relative * abs(number)) if isfinite(number) else 0.0
        except OverflowError:
            return 0.0

    # -- sets and dictionaries ---------------------------------------------------------------

    def _unordered(self, one: list[_Entry], two: list[_Entry]) -> bool:
        """Can the entries be paired one to one so that each pair is the same? As many of both.

        Keys without floats have at most one partner, found by bisection. The others are paired by `_paired`.
        """
        exact = [number for number, (key, _) in enumerate(one) if not _loose(key)]
        partner: list[int | None] = [None] * len(one)
        left = set(range(len(two)))
        if exact:
            orders = [self._order(key, ours=False) for key, _ in two]
            places = sorted(range(len(two)), key=orders.__getitem__)
            sorted_orders = [orders[place] for place in places]
            for number in exact:
                wanted = self._order(one[number][0])
                at = bisect_left(sorted_orders, wanted)
                if at == len(places) or sorted_orders[at] != wanted or places[at] not in left:
                    return False
                partner[number] = places[at]
                left.discard(places[at])
        loose = [number for number, place in enumerate(partner) if place is None]
        if loose:
            rest = sorted(left)
            pairs = self._paired([one[number] for number in loose], [two[place] for place in rest])
            if pairs is None:
                return False
            for number, place in zip(loose, pairs, strict=True):
                partner[number] = rest[place]
        # what `_paired` tried is compared again only where that pairs nodes for good
        tried = set(loose) if self.tries is not None or self.graphs is None else set()
        return all(
            self._same_entry(entry, two[place])
            for number, (entry, place) in enumerate(zip(one, partner, strict=True))
            if place is not None and number not in tried
        )

    def _same_entry(self, one: _Entry, two: _Entry) -> bool:
        if not self.same(one[0], two[0]):
            return False
        return one[1] is None or (two[1] is not None and self.same(one[1], two[1]))

    def _paired(self, one: list[_Entry], two: list[_Entry]) -> list[int] | None:
        """For each entry of `one` its partner in `two`, so that all pairs are the same; None when there is no such pairing.

        All numbers are first sorted into clusters, such that two numbers within the tolerance are
        always in one cluster: partners agree in everything but that, so entries are grouped by it
        and only those of one group are tried with each other. Nearly every group is one pair.
        """
        if self.tries is not None:
            return self._grouped(one, two)
        allowed = MOST_TRIES - self.spent
        needed = 4 * sum(_size(part) for entry in one for part in entry if part is not None)
        self.tries = allowed + needed
        try:
            return self._grouped(one, two)
        finally:
            self.spent += min(allowed, max(0, allowed - self.tries))
            self.tries = None

    def _grouped(self, one: list[_Entry], two: list[_Entry]) -> list[int] | None:
        clusters = self._clusters(number for entry in [*one, *two] for number in _numbers(entry))
        ordered: list[tuple[tuple[_Order, ...], int, int]] = []
        for side, entries in enumerate((one, two)):
            for number, entry in enumerate(entries):
                order = tuple([self._order(part, clusters, ours=side == 0) for part in entry if part is not None])
                ordered.append((order, side, number))
        ordered.sort()
        partner = [0] * len(one)
        for _, group in groupby(ordered, key=itemgetter(0)):
            members = list(group)
            ours = [number for _, side, number in members if side == 0]
            theirs = [number for _, side, number in members if side == 1]
            if len(ours) != len(theirs):
                return None
            pairs = self._matched([one[number] for number in ours], [two[number] for number in theirs])
            if pairs is None:
                return None
            for number, place in zip(ours, pairs, strict=True):
                partner[number] = theirs[place]
        return partner

    def _matched(self, one: list[_Entry], two: list[_Entry]) -> list[int] | None:
        """A perfect matching of the entries of one group, or None.

        In the order of their values first, which always finds it for plain floats, and nearly
        always else; then by augmenting paths.
        """
        count = len(one)
        if count == 1:
            return [0] if self._same_entry(one[0], two[0]) else None
        mine = sorted(range(count), key=lambda number: self._sorting(one[number]))
        theirs = sorted(range(count), key=lambda number: self._sorting(two[number]))
        if all(self._same_entry(one[a], two[b]) for a, b in zip(mine, theirs, strict=True)):
            in_order = dict(zip(mine, theirs, strict=True))
            return [in_order[number] for number in range(count)]
        edges: list[list[int]] = []
        for entry in one:
            edges.append([place for place, other in enumerate(two) if self._same_entry(entry, other)])
            if not edges[-1]:
                return None
        owner: dict[int, int] = {}
        place_of: dict[int, int] = {}
        if not all(self._augment(number, edges, owner, place_of) for number in range(count)):
            return None
        return [place_of[number] for number in range(count)]

    def _augment(self, start: int, edges: list[list[int]], owner: dict[int, int], place_of: dict[int, int]) -> bool:
        """Give entry `start` a place, moving others to free ones where needed (breadth first)."""
        came_from: dict[int, int] = {}
        queue = deque([start])
        while queue:
            number = queue.popleft()
            for place in edges[number]:
                if place in came_from:
                    continue
                if not self._may_go_on():
                    return False
                came_from[place] = number
                if place in owner:
                    queue.append(owner[place])
                    continue
                free: int | None = place
                while free is not None:  # along the path back to `start`, each takes the place by which it was met
                    holder = came_from[free]
                    owner[free] = holder
                    place_of[holder], free = free, place_of.get(holder)
                return True
        return False

    def _may_go_on(self) -> bool:
        """Count one comparison of a pairing that is tried; False when there have been too many."""
        if self.tries is None:
            return True
        self.tries -= 1
        return self.tries >= 0

    def _sorting(self, entry: _Entry) -> tuple[_Order, ...]:
        return tuple([self._order(part, blind=True) for part in entry if part is not None])

    def _clusters(self, numbers: Iterable[int | float]) -> list[int | float]:
        """The first number of each cluster, ascending."""
        ordered = sorted(number for number in numbers if not (isinstance(number, float) and isnan(number)))
        starts = ordered[:1]
        for low, high in pairwise(ordered):
            if low != high and not self._linked(low, high):
                starts.append(high)
        return starts

    def _linked(self, low: int | float, high: int | float) -> bool:
        """May numbers within the tolerance of each other lie at or beyond `low` and `high`?"""
        try:
            return (high - low) * (1.0 - self.relative) <= 1.001 * max(self._margin(low), self._margin(high))
        except OverflowError:
            return False

    def _order(
        self, value: Parsed, clusters: list[int | float] | None = None, *, ours: bool = True, blind: bool = False
    ) -> _Order:
        """A sort key, equal for equal values: exactly equal ones, or (with `clusters`) as equal as clusters can tell.

        Args:
            ours: Whether node numbers are of the reference; the patch's are turned into these.
            blind: Takes all nodes for one.
        """
        kind, body = value
        rank = _RANK[_plain(kind)]
        if rank == 2:
            if isinstance(body, float) and isnan(body):
                return _NAN
            return rank, body if clusters is None else bisect_right(clusters, body)
        if kind == "none":
            return rank, 0
        if rank == 6:
            return rank, tuple([self._order(part, clusters, ours=ours, blind=blind) for part in body])
        if rank == 7:
            return rank, tuple(sorted([self._order(part, clusters, ours=ours, blind=blind) for part in body]))
        if rank == 8:
            return rank, tuple(
                sorted([tuple([self._order(part, clusters, ours=ours, blind=blind) for part in pair]) for pair in body])
            )
        if rank == 9:
            return rank, 0 if blind or self.graphs is None else self._node_order(body, ours, clusters is not None)
        return rank, body

    def _node_order(self, number: int, ours: bool, loose: bool) -> int:
        """The reference's number of a node; one that is not paired yet is like no other, or (when `loose`) like all such."""
        assert self.graphs is not None
        if ours and number in self.graphs.paired:
            return number
        if not ours and number in self.graphs.standing_for:
            return self.graphs.standing_for[number]
        return -1 if loose else -2 - 2 * number - ours


def _plain(kind: str) -> str:
    return _SAME_KIND.get(kind, kind)


def _loose(key: Parsed) -> bool:
    """Could a key have more than one partner?"""
    return any(kind == "float" for kind, _ in atoms(key))


def _size(value: Parsed) -> int:
    """How many values there are in `value`, itself included."""
    kind, body = value
    if kind == "dict":
        return 1 + sum(_size(part) for pair in body for part in pair)
    return 1 + (sum(map(_size, body)) if kind in ("list", "tuple", "set", "frozenset") else 0)


def _numbers(entry: _Entry) -> Iterable[int | float]:
    for part in entry:
        if part is not None:
            for kind, body in atoms(part):
                if kind in ("int", "float"):
                    yield body
