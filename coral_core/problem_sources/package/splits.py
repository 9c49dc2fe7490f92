"""Splits functions four ways, so that nothing of one split can be read off another.

Functions that share code of their own module, that are equal in normal form or nearly so, or
of which one can be broken into the other, stay together. The split depends on the functions
and ``problems.data_seed`` (and on whether there is a monitor split), not on how many bugs are asked.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from coral_core.config.tree import ProblemsConfig
from coral_core.digest import seed_from
from coral_core.problem_sources.package.bugs import Bug
from coral_core.problem_sources.package.cache import Ready, Usable
from coral_core.problem_sources.package.discovery import Found
from coral_core.problems.mutation import mutators
from coral_core.problems.normal_form import near_duplicates, normal_form
from coral_core.problems.problem import BugClass, Split

SHARES: dict[Split, float] = {"training": 0.4, "held_out": 0.25, "fitness": 0.25, "monitor": 0.1}
"""Share of the bugs that each split gets, as far as whole groups allow."""


@dataclass(frozen=True)
class Broken:
    """A bug of a function, with the text of the broken module."""

    bug: Bug
    source: str


@dataclass(frozen=True)
class Function:
    """A usable function in a split; `broken` are its bugs of the classes that are asked."""

    found: Found
    usable: Usable
    broken: tuple[Broken, ...]


@dataclass(frozen=True)
class Divided:
    """The functions of each split."""

    groups: int
    functions: dict[Split, list[Function]] = field(default_factory=dict)

    def bugs(self, split: Split) -> int:
        """How many bugs the split can supply."""
        return sum(len(function.broken) for function in self.functions.get(split, ()))


def divide(ready: Ready, config: ProblemsConfig) -> Divided:
    """The usable functions, four ways split (three, without a monitor split)."""
    items = [(ready.functions[usable.function], usable) for usable in ready.recording.usable]
    groups = _groups(items)
    splits: list[Split] = [split for split in SHARES if split != "monitor" or config.monitor]
    chosen = _assign(groups, items, splits, config.data_seed)
    owner = {normal_form(items[place][0].source): split for split, places in chosen.items() for place in places}
    divided = Divided(len(groups))
    for split in splits:  # a bug that a split before has, or that another split's function is, is left out
        functions = []
        for place in sorted(chosen[split]):
            found, usable = items[place]
            functions.append(Function(found, usable, _broken(found, usable, split, config.bug_classes, owner)))
        divided.functions[split] = functions
    return divided


def _broken(
    found: Found, usable: Usable, split: Split, classes: Sequence[BugClass], owner: dict[str, Split]
) -> tuple[Broken, ...]:
    makers = mutators(found.function)
    made = []
    for bug in usable.bugs:
        mutation = makers[bug.place]()
        if mutation is None:
            continue
        source = found.whole(mutation.source)
        if owner.setdefault(normal_form(source), split) == split and bug.bug_class in classes:
            made.append(Broken(bug, source))
    return tuple(made)


def _groups(items: Sequence[tuple[Found, Usable]]) -> list[list[int]]:
    """Places of functions that must stay together, in order of first appearance."""
    parent = list(range(len(items)))

    def top(place: int) -> int:
        while parent[place] != place:
            place = parent[place]
        return place

    def join(one: int, two: int) -> None:
        low, high = sorted((top(one), top(two)))
        parent[high] = low

    owner: dict[str, int] = {}
    for place, (found, _) in enumerate(items):
        for shared in (found.key, *sorted(found.needs)):
            join(owner.setdefault(shared, place), place)
    texts = [found.function for found, _ in items]
    for one, two, _ in near_duplicates(texts, texts):
        join(one, two)
    groups: dict[int, list[int]] = {}
    for place in range(len(items)):
        groups.setdefault(top(place), []).append(place)
    return list(groups.values())


def _assign(
    groups: Sequence[list[int]], items: Sequence[tuple[Found, Usable]], splits: Sequence[Split], data_seed: int
) -> dict[Split, list[int]]:
    """Large groups first, each to the split that lacks most; no split stays empty while there are groups."""
    weights = [sum(len(items[place][1].bugs) for place in group) for group in groups]
    order = sorted(range(len(groups)), key=lambda number: normal_form(items[groups[number][0]][0].source))
    random.Random(seed_from("package", data_seed, "split")).shuffle(order)
    order.sort(key=lambda number: -weights[number])
    total, whole = sum(weights), sum(SHARES[split] for split in splits)
    chosen: dict[Split, list[int]] = {split: [] for split in splits}
    lacking = {split: SHARES[split] / whole * total for split in splits}
    for turn, number in enumerate(order):
        empty = [split for split in splits if not chosen[split]]
        open_splits = empty if empty and len(order) - turn <= len(empty) else splits
        split = max(open_splits, key=lambda name: lacking[name])
        chosen[split] += groups[number]
        lacking[split] -= weights[number]
    return chosen
