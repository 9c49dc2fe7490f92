"""Splits fixes and mutants so that time runs forward and all versions of a function stay together.

Functions that share code, are near-duplicates, or are versions of one function (also in a renamed file) form a group; a
group is in one split. Groups with fixes are ordered by their newest fix: the newest ones are held out, then come monitor,
fitness and training. A fix that is not newer than every fix of the splits before its own is left out. Hence every
held-out fix is newer than every fix of the monitor split, that one newer than those for fitness, and those newer than those
in training. Dates are author dates. Mutants are made in the functions as they are at the revision and have no date; groups
of mutants alone go where bugs are missing.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from coral_core.config.tree import ProblemsConfig
from coral_core.digest import seed_from
from coral_core.problem_sources.history.fix import CommitOutcome, Fix
from coral_core.problem_sources.package.cases import UsableFunction
from coral_core.problem_sources.package.splits import SHARES
from coral_core.problems.normal_form import near_duplicates, normal_form
from coral_core.problems.problem import Split

ORDER: tuple[Split, ...] = ("training", "fitness", "monitor", "held_out")
"""From the oldest to the newest."""


class DatedFix(NamedTuple):
    """A fix with its commit."""

    fix: Fix
    outcome: CommitOutcome

    @property
    def function(self) -> UsableFunction:
        """The function after the fix."""
        return self.fix.function

    @property
    def time(self) -> int:
        """Author date, in seconds since 1970."""
        return self.outcome.author_time


@dataclass
class HistorySplits:
    """Fixes (oldest first) and functions with mutants of each split."""

    fixes: dict[Split, list[DatedFix]]
    functions: dict[Split, list[UsableFunction]]
    groups: int = 0
    repeated: int = 0
    """Fixes that equal an older one: the same commit on another branch, or done again after a revert."""
    out_of_order: list[DatedFix] = field(default_factory=list)
    """Fixes that are older than a fix of a split before their own, and so are left out."""

    def bugs(self, split: Split) -> int:
        """Mutants that the split can supply."""
        return sum(len(function.bugs) for function in self.functions[split])


def divide_by_time(
    outcomes: Sequence[CommitOutcome], functions: Sequence[UsableFunction], config: ProblemsConfig
) -> HistorySplits:
    """Split fixes and mutants four ways, or three ways without a monitor split.

    Args:
        outcomes: What the commits gave.
        functions: Usable functions of the revision, with mutants.
        config: Gives ``data_seed``, bug classes and whether there is a monitor split.
    """
    fixes, repeated = _distinct(outcomes)
    moved = {old: new for outcome in outcomes for old, new in outcome.renames}
    groups = _groups(fixes, functions, moved)
    splits = [split for split in ORDER if split != "monitor" or config.monitor]
    divided = HistorySplits({split: [] for split in splits}, {split: [] for split in splits}, len(groups), repeated)
    chosen = _dated(groups, fixes, splits)
    _undated([group for group in groups if not group.fixes], functions, chosen, config.data_seed)
    latest = -1
    for split in splits:
        members = sorted((fixes[place] for group in chosen[split] for place in group.fixes), key=_age)
        divided.fixes[split] = [each for each in members if each.time > latest]
        divided.out_of_order += [each for each in members if each.time <= latest]
        latest = max([latest, *(each.time for each in divided.fixes[split])])
        divided.functions[split] = [functions[place] for group in chosen[split] for place in sorted(group.functions)]
    _drop_equal(divided, config)
    return divided


class _Group(NamedTuple):
    """Places of the fixes and of the functions of one group."""

    fixes: tuple[int, ...]
    functions: tuple[int, ...]


def _age(dated: DatedFix) -> tuple[int, str, str]:
    return dated.time, dated.outcome.commit, dated.function.definition.key


def _distinct(outcomes: Iterable[CommitOutcome]) -> tuple[list[DatedFix], int]:
    """The fixes, oldest first, each once: of equal ones the oldest."""
    every = sorted((DatedFix(fix, outcome) for outcome in outcomes for fix in outcome.fixes), key=_age)
    first: dict[tuple[str, str], DatedFix] = {}
    for dated in every:
        texts = (normal_form(dated.function.bugs[0].source), normal_form(dated.function.definition.source))
        first.setdefault(texts, dated)
    return list(first.values()), len(every) - len(first)


def _groups(fixes: Sequence[DatedFix], functions: Sequence[UsableFunction], moved: Mapping[str, str]) -> list[_Group]:
    """Fixes and functions that must stay together."""
    parent = list(range(len(fixes) + len(functions)))

    def top(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    def join(one: int, two: int) -> None:
        low, high = sorted((top(one), top(two)))
        parent[high] = low

    owner: dict[str, int] = {}
    texts: dict[str, tuple[int, str]] = {}
    everything = [*(dated.function for dated in fixes), *functions]
    for place, function in enumerate(everything):
        names = [function.definition.key, *function.definition.needs]
        own = [function.definition.text]
        if place < len(fixes):
            names.append(fixes[place].fix.before_key)
            own.append(fixes[place].fix.before)
        for name in names:
            join(owner.setdefault(_present(name, moved), place), place)
        for text in own:
            join(texts.setdefault(normal_form(text), (place, text))[0], place)
    distinct = list(texts.values())
    for one, two, _ in near_duplicates([text for _, text in distinct], [text for _, text in distinct]):
        join(distinct[one][0], distinct[two][0])
    members: dict[int, list[int]] = {}
    for place in range(len(everything)):
        members.setdefault(top(place), []).append(place)
    return [
        _Group(
            tuple(place for place in places if place < len(fixes)),
            tuple(place - len(fixes) for place in places if place >= len(fixes)),
        )
        for places in members.values()
    ]


def _present(key: str, moved: Mapping[str, str]) -> str:
    """The key of a function (file:name) under the latest name of its file."""
    file, _, name = key.partition(":")
    for _ in range(len(moved)):
        if file not in moved:
            break
        file = moved[file]
    return f"{file}:{name}"


def _dated(groups: Iterable[_Group], fixes: Sequence[DatedFix], splits: Sequence[Split]) -> dict[Split, list[_Group]]:
    """Groups with fixes, from the newest on: held-out is filled first, then monitor, fitness, and training has the rest.

    Groups whose newest fixes have one date are not torn apart.
    """
    chosen: dict[Split, list[_Group]] = {split: [] for split in splits}
    dated = sorted(
        ((max(fixes[place].time for place in group.fixes), group) for group in groups if group.fixes),
        key=lambda item: (-item[0], item[1].fixes),
    )
    total, whole = sum(len(group.fixes) for _, group in dated), sum(SHARES[split] for split in splits)
    left = list(reversed(splits))
    wanted = {split: SHARES[split] / whole * total for split in splits}
    room = {"held_out": math.ceil(wanted["held_out"]), "fitness": math.ceil(wanted["fitness"])}
    filled, previous = 0, None
    for time, group in dated:
        while len(left) > 1 and filled >= room.get(left[0], int(wanted[left[0]])) and time != previous:
            left.pop(0)
            filled = 0
        chosen[left[0]].append(group)
        filled += len(group.fixes)
        previous = time
    return chosen


def _undated(
    groups: Sequence[_Group], functions: Sequence[UsableFunction], chosen: dict[Split, list[_Group]], data_seed: int
) -> None:
    """Give groups of mutants alone to the split that lacks most mutants, large groups first; none stays empty."""

    def weight(group: _Group) -> int:
        return sum(len(functions[place].bugs) or 1 for place in group.functions)  # 1: all mutants are excluded

    order = sorted(groups, key=lambda group: normal_form(functions[group.functions[0]].definition.source))
    random.Random(seed_from("git", data_seed, "split")).shuffle(order)
    order.sort(key=lambda group: -weight(group))
    present = {split: sum(map(weight, members)) for split, members in chosen.items()}
    total, whole = sum(present.values()) + sum(map(weight, order)), sum(SHARES[split] for split in chosen)
    lacking = {split: SHARES[split] / whole * total - present[split] for split in chosen}
    for turn, group in enumerate(order):
        empty = [split for split in chosen if not any(each.functions for each in chosen[split])]
        candidates = empty if empty and len(order) - turn <= len(empty) else list(chosen)
        split = max(candidates, key=lambda name: lacking[name])
        chosen[split].append(group)
        lacking[split] -= weight(group)


def _drop_equal(divided: HistorySplits, config: ProblemsConfig) -> None:
    """Keep mutants of the classes that are asked, without those that equal a text of another split or an own fix."""
    owner: dict[str, Split] = {}
    fixed: set[str] = set()
    for split, members in divided.fixes.items():
        for dated in members:
            texts = [normal_form(dated.function.definition.source), normal_form(dated.function.bugs[0].source)]
            owner |= dict.fromkeys(texts, split)
            fixed |= set(texts)
    for split, usable in divided.functions.items():
        owner |= {normal_form(function.definition.source): split for function in usable}
    for split, usable in divided.functions.items():
        for place, function in enumerate(usable):
            bugs = [
                bug
                for bug in function.bugs
                if normal_form(bug.source) not in fixed
                and owner.setdefault(normal_form(bug.source), split) == split
                and bug.bug_class in config.bug_classes
            ]
            usable[place] = function.model_copy(update={"bugs": tuple(bugs)})
