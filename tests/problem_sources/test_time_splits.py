"""Splits of fixes and mutants: versions of a function stay together, and time runs forward."""

import random
from itertools import pairwise

import pytest

from coral_core.config.tree import ProblemsConfig
from coral_core.problem_sources.history.fix import CommitOutcome, Fix
from coral_core.problem_sources.history.time_splits import ORDER, HistorySplits, divide_by_time
from coral_core.problem_sources.package.cases import Bug, UsableFunction
from coral_core.problem_sources.package.discovery import SourceFunction
from coral_core.problems.normal_form import normal_form
from coral_core.problems.problem import Case

DAY = 86_400
OPERATIONS = ("+", "-", "*", "//", "%", "**", "|", "&")


def text(number: int, version: int = 0) -> str:
    """Text of a function that no other number's text resembles; versions differ in a constant."""
    rng = random.Random(number)
    lines = [
        f"    a = {rng.choice(OPERATIONS)[0].join(['a', str(rng.randrange(1, 999))])}"
        for _ in range(rng.randrange(4, 30))
    ]
    return "\n".join([f"def f{number}(a):", *lines, f"    return a + {version}"])


def usable(
    number: int, version: int = 0, bugs: tuple[str, ...] = (), file: str = "m.py", needs: tuple[str, ...] = ()
) -> UsableFunction:
    definition = SourceFunction(file=file, name=f"f{number}", line=1, text=text(number, version), needs=needs)
    cases = tuple(Case(arguments=(n,), value=n) for n in range(6))
    made = tuple(Bug(bug_class="arithmetic", source=bug, failing=1.0) for bug in bugs)
    return UsableFunction(definition=definition, recorded=6, cases=cases, bugs=made)


def fixed(
    number: int, day: int, version: int = 1, file: str = "m.py", needs: tuple[str, ...] = (), **outcome: object
) -> CommitOutcome:
    before = text(number, version - 1)
    function = usable(number, version, file=file, needs=needs)
    function = function.model_copy(update={"bugs": (Bug(bug_class="unknown", source=before, failing=0.5),)})
    fix = Fix(function=function, before=before, before_key=f"{file}:f{number}")
    data = {"commit": f"{day:040x}", "author_time": day * DAY, "message": "fix", "fixes": (fix,)} | outcome
    return CommitOutcome.model_validate(data)


def divided(
    outcomes: list[CommitOutcome], functions: list[UsableFunction] | None = None, **config: object
) -> HistorySplits:
    return divide_by_time(
        outcomes, functions or [], ProblemsConfig.model_validate({"source": "git", "path": "x", **config})
    )


def days(splits: HistorySplits, split: str) -> list[int]:
    return [each.time // DAY for each in splits.fixes[split]]  # type: ignore[index]


@pytest.mark.parametrize("monitor", [0, 4])
@pytest.mark.parametrize("seed", range(6))
def test_every_split_is_newer_than_the_one_before(seed: int, monitor: int) -> None:
    """Also when functions are fixed several times and dates are drawn: nothing is lost without being counted."""
    rng = random.Random(seed)
    outcomes = [fixed(rng.randrange(12), day, version) for version, day in enumerate(rng.sample(range(1, 300), 40), 1)]
    splits = divided(outcomes, monitor=monitor)
    present = [days(splits, split) for split in ORDER if splits.fixes.get(split)]
    assert all(max(older) < min(newer) for older, newer in pairwise(present))
    assert sum(map(len, present)) + len(splits.out_of_order) + splits.repeated == 40
    owners: dict[str, set[str]] = {}
    for split, members in splits.fixes.items():
        for each in members:
            owners.setdefault(each.function.definition.name, set()).add(split)
    assert all(len(found) == 1 for found in owners.values())
    assert splits.fixes["held_out"] and splits.fixes["fitness"]


def test_the_newest_quarter_is_held_out() -> None:
    splits = divided([fixed(number, day=number + 1) for number in range(20)])
    assert days(splits, "held_out") == [16, 17, 18, 19, 20]
    assert days(splits, "monitor") == [14, 15]
    assert days(splits, "fitness") == [9, 10, 11, 12, 13]
    assert days(splits, "training") == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(("count", "expected"), [(1, [0, 0, 0, 1]), (2, [0, 1, 0, 1]), (4, [2, 1, 0, 1])])
def test_few_fixes_are_held_out_first(count: int, expected: list[int]) -> None:
    splits = divided([fixed(number, day=number + 1) for number in range(count)])
    assert [len(splits.fixes[split]) for split in ORDER] == expected


def test_fixes_of_one_date_are_not_torn_apart() -> None:
    splits = divided([fixed(number, day=7) for number in range(8)])
    assert len(splits.fixes["held_out"]) == 8 and splits.out_of_order == []


def test_versions_stay_together_across_a_renamed_file_and_shared_helpers() -> None:
    outcomes = [fixed(number, day=number + 1) for number in range(12)]
    outcomes.append(fixed(0, 50, version=2, file="new.py", renames=(("m.py", "new.py"),)))
    outcomes.append(fixed(20, 60, file="new.py", needs=("new.py:f21",)))
    functions = [usable(0, 2, file="new.py"), usable(21, file="new.py")]
    splits = divided(outcomes, functions)
    names = {each.function.definition.name for each in splits.fixes["held_out"]}
    assert {"f0", "f20"} <= names
    assert {each.definition.name for each in splits.functions["held_out"]} == {"f0", "f21"}
    assert [each.time // DAY for each in splits.out_of_order] == [1]


def test_near_duplicates_and_equal_functions_of_other_names_stay_together() -> None:
    outcomes = [fixed(number, day=number + 1) for number in range(12)]
    twin = usable(11, 1).definition.model_copy(update={"name": "twin", "text": text(11, 9).replace("f11", "twin")})
    functions = [usable(11).model_copy(update={"definition": twin})]
    splits = divided(outcomes, functions)
    assert [each.definition.name for each in splits.functions["held_out"]] == ["twin"]


def test_mutants_that_equal_a_text_of_another_split_or_a_fix_are_dropped() -> None:
    outcomes = [fixed(number, day=number + 1) for number in range(12)]
    functions = [usable(number, 1, bugs=(text(number, 0), text(0, 0), text(number, 77))) for number in range(12)]
    splits = divided(outcomes, functions)
    left = {bug.source for members in splits.functions.values() for function in members for bug in function.bugs}
    assert left == {text(number, 77) for number in range(12)}


def test_a_fix_that_was_made_twice_counts_once_at_its_first_date() -> None:
    splits = divided([fixed(1, 5), fixed(1, 9, commit="f" * 40), fixed(2, 7)])
    assert splits.repeated == 1 and days(splits, "held_out") + days(splits, "fitness") == [7, 5]


def test_groups_of_mutants_alone_fill_every_split() -> None:
    functions = [usable(number, bugs=(text(number, 5), text(number, 6))) for number in range(20)]
    splits = divided([], functions)
    assert all(splits.bugs(split) for split in ORDER)
    forms = [{normal_form(each.definition.source) for each in members} for members in splits.functions.values()]
    assert sum(map(len, forms)) == len(set().union(*forms)) == 20
