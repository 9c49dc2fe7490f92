"""Splits functions four ways, so that no split reveals anything about another.

Functions stay together when they share code of their own module, when their normal forms are equal or nearly so, or when
a mutation turns one into the other. The split depends on the functions and ``problems.data_seed`` (and on whether there
is a monitor split), not on how many bugs are asked.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from coral_core.config.tree import ProblemsConfig
from coral_core.digest import seed_from
from coral_core.problem_sources.package.cases import UsableFunction
from coral_core.problems.normal_form import near_duplicates, normal_form
from coral_core.problems.problem import Split

SHARES: dict[Split, float] = {"training": 0.4, "held_out": 0.25, "fitness": 0.25, "monitor": 0.1}
"""Share of the bugs that each split gets, as far as whole groups allow."""


@dataclass(frozen=True)
class FunctionSplits:
    """The functions of each split, with their bugs of the classes that are asked."""

    groups: int
    functions: dict[Split, list[UsableFunction]]

    def bugs(self, split: Split) -> int:
        """How many bugs the split can supply."""
        return sum(len(function.bugs) for function in self.functions.get(split, ()))


def divide(functions: Sequence[UsableFunction], config: ProblemsConfig) -> FunctionSplits:
    """Split the usable functions four ways, or three ways without a monitor split.

    A bug whose normal form occurs in another split is left out.

    Args:
        functions: The usable functions, with their bugs.
        config: Gives ``data_seed``, bug classes and whether there is a monitor split.
    """
    groups = _groups(functions)
    splits: list[Split] = [split for split in SHARES if split != "monitor" or config.monitor]
    chosen = _assign(groups, functions, splits, config.data_seed)
    owner = {normal_form(functions[place].definition.source): split for split in splits for place in chosen[split]}
    divided = FunctionSplits(len(groups), {split: [] for split in splits})
    for split in splits:  # leave out bugs that equal a bug of an earlier split or a function of another
        for place in sorted(chosen[split]):
            bugs = [bug for bug in functions[place].bugs if owner.setdefault(normal_form(bug.source), split) == split]
            asked = tuple(bug for bug in bugs if bug.bug_class in config.bug_classes)
            divided.functions[split].append(functions[place].model_copy(update={"bugs": asked}))
    return divided


def _groups(functions: Sequence[UsableFunction]) -> list[list[int]]:
    """Places of functions that must stay together, in order of first appearance."""
    parent = list(range(len(functions)))

    def top(place: int) -> int:
        while parent[place] != place:
            place = parent[place]
        return place

    def join(one: int, two: int) -> None:
        low, high = sorted((top(one), top(two)))
        parent[high] = low

    owner: dict[str, int] = {}
    for place, function in enumerate(functions):
        for shared in (function.definition.key, *function.definition.needs):
            join(owner.setdefault(shared, place), place)
    texts = [function.definition.text for function in functions]
    for one, two, _ in near_duplicates(texts, texts):
        join(one, two)
    groups: dict[int, list[int]] = {}
    for place in range(len(functions)):
        groups.setdefault(top(place), []).append(place)
    return list(groups.values())


def _assign(
    groups: Sequence[list[int]], functions: Sequence[UsableFunction], splits: Sequence[Split], data_seed: int
) -> dict[Split, list[int]]:
    """Large groups first, each to the split that lacks most; no split stays empty while there are groups."""
    weights = [sum(len(functions[place].bugs) for place in group) for group in groups]
    order = sorted(range(len(groups)), key=lambda number: normal_form(functions[groups[number][0]].definition.source))
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
