"""The built-in problems: counted, checked against their cases, split, deterministic."""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from coral_core.config.tree import ProblemsConfig
from coral_core.digest import digest
from coral_core.problem_sources.builtin import (
    PRETRAINED_CLASSES,
    echo_pairs,
    load_builtin,
    pretraining_pairs,
)
from coral_core.problem_sources.families import A_FAMILIES, ALL_FAMILIES, B_FAMILIES, draw
from coral_core.problems import trusted
from coral_core.problems.normal_form import check_split, normal_form
from coral_core.problems.problem import Problem, ProblemSet
from coral_core.problems.values import decode

SMALL = ProblemsConfig(fitness=26, retention=4, monitor=4, held_out=10, pairs=26)
A_NAMES = {family.name for family in A_FAMILIES}
B_NAMES = {family.name for family in B_FAMILIES}


@pytest.fixture(scope="module")
def problems() -> ProblemSet:
    """The default set: what a user gets who configures nothing."""
    return load_builtin(ProblemsConfig())


def everyone(problems: ProblemSet) -> Iterator[Problem]:
    for split in ("fitness", "monitor", "held_out"):
        yield from problems.split(split)


def failing(problem: Problem, source: str) -> int:
    """How many recorded cases `source` fails."""
    arguments = [[decode(argument) for argument in case.arguments] for case in problem.cases]
    expected = [
        ("exception", case.exception) if case.exception is not None else ("value", case.value) for case in problem.cases
    ]
    outcomes = trusted.run(source, problem.entry_point, arguments)
    return sum(ours != theirs for ours, theirs in zip(outcomes, expected, strict=True))


def test_families_are_many_named_once_and_structured() -> None:
    assert len(A_FAMILIES) >= 34 and len(B_FAMILIES) >= 22
    assert len(A_NAMES | B_NAMES) == len(ALL_FAMILIES) >= 56
    few = [family.name for family in ALL_FAMILIES if len(family.texts) * len(family.twists) < 2]
    assert few == []


def test_counts(problems: ProblemSet) -> None:
    assert len([p for p in problems.fitness if p.family in B_NAMES and not p.retention]) == 96
    assert (len(problems.fitness), len(problems.monitor), len(problems.held_out)) == (96 + 24, 48, 300)
    assert len(problems.pairs) == 384
    assert sum(p.retention for p in problems.fitness) == 12
    assert sum(p.retention or p.family in A_NAMES for p in problems.held_out) == 30
    echoes = sum(pair.buggy == pair.fixed for pair in problems.pairs)
    assert 0.1 < echoes / len(problems.pairs) < 0.14
    assert len({problem.problem_id for problem in everyone(problems)}) == 120 + 48 + 300


def test_every_bug_class_and_forty_families_are_there(problems: ProblemSet) -> None:
    for split in (problems.fitness, problems.held_out):
        assert set(Counter(problem.bug_class for problem in split)) >= set(ProblemsConfig().bug_classes) | {"none"}
    assert {pair.bug_class for pair in problems.pairs} >= set(ProblemsConfig().bug_classes) | {"none"}
    assert len({p.family for p in everyone(problems)} | {pair.family for pair in problems.pairs}) >= 40


def test_references_pass_and_bugs_fail(problems: ProblemSet) -> None:
    for problem in everyone(problems):
        assert len(problem.cases) >= 12, problem.problem_id
        assert len({repr(case.arguments) for case in problem.cases}) == len(problem.cases)
        assert failing(problem, problem.reference) == 0, problem.problem_id
        wrong = failing(problem, problem.buggy)
        if problem.retention:
            assert wrong == 0 and problem.buggy == problem.reference
        else:
            assert wrong >= 1, problem.problem_id
            assert problem.difficulty == (
                "easy"
                if wrong > 0.75 * len(problem.cases)
                else "medium"
                if wrong > 0.3 * len(problem.cases)
                else "hard"
            )


def test_splits_share_no_normal_form_and_no_reference_comes_twice(problems: ProblemSet) -> None:
    assert check_split(problems) == []
    forms = Counter(normal_form(problem.reference) for problem in everyone(problems))
    assert max(forms.values()) == 1


@pytest.mark.parametrize("seed", [2, 3])
def test_other_seeds_are_split_cleanly_too(seed: int) -> None:
    assert check_split(load_builtin(SMALL.model_copy(update={"data_seed": seed}))) == []


def test_a_leak_would_be_found(problems: ProblemSet) -> None:
    stolen = problems.held_out[0]
    pair = problems.pairs[0].model_copy(update={"fixed": stolen.reference.replace("def ", "def other_")})
    leaky = problems.model_copy(update={"pairs": (pair, *problems.pairs)})
    assert any(stolen.problem_id in second for _, second in check_split(leaky))


def test_bugs_of_the_splits_are_of_families_the_base_never_repaired(problems: ProblemSet) -> None:
    assert all(p.family in B_NAMES for p in problems.monitor)
    assert {pair.family for pair in problems.pairs if pair.bug_class != "none"} <= B_NAMES
    known = [p for p in problems.fitness if p.family in A_NAMES and not p.retention]
    assert len(known) == 12 and {p.bug_class for p in known} <= set(PRETRAINED_CLASSES)


def test_same_seed_same_digest_and_another_seed_another() -> None:
    first, again = (digest(load_builtin(SMALL).model_dump(mode="json")) for _ in range(2))
    other = digest(load_builtin(SMALL.model_copy(update={"data_seed": 9})).model_dump(mode="json"))
    assert first == again != other


FEW = ProblemsConfig(fitness=8, retention=4, monitor=4, held_out=10, pairs=16)
DIGEST_OF_ALL = f"""
from coral_core.config.tree import ProblemsConfig
from coral_core.digest import digest
from coral_core.problem_sources.builtin import echo_pairs, load_builtin, plain_functions, pretraining_pairs
records = [load_builtin(ProblemsConfig.model_validate_json({FEW.model_dump_json()!r}))]
records += pretraining_pairs(20, 1) + echo_pairs(9, 1)
print(digest([[record.model_dump(mode="json") for record in records], plain_functions(9, 1)]))
"""


def test_hash_seed_changes_nothing() -> None:
    root = Path(__file__).parents[2]
    printed = set()
    for hash_seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", DIGEST_OF_ALL]
        done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
        printed.add(done.stdout)
    assert len(printed) == 1 and len(printed.pop().strip()) == 64


def test_each_setting_has_its_effect() -> None:
    only = load_builtin(SMALL.model_copy(update={"bug_classes": ("comparison", "constant"), "retention": 0}))
    assert {p.bug_class for p in (*only.fitness, *only.monitor)} <= {"comparison", "constant"}
    assert {pair.bug_class for pair in only.pairs} <= {"comparison", "constant", "none"}
    assert len(only.fitness) == 26


def test_pretraining_sees_a_families_and_four_classes_only() -> None:
    pairs = pretraining_pairs(150, 7)
    assert len(pairs) == 150
    assert {pair.family for pair in pairs} <= A_NAMES
    assert {pair.bug_class for pair in pairs} == set(PRETRAINED_CLASSES)
    assert all(pair.buggy != pair.fixed for pair in pairs)
    assert pretraining_pairs(20, 7) == pairs[:20]
    assert pretraining_pairs(20, 8) != pairs[:20]
    assert all(pair.buggy == pair.fixed and pair.family in A_NAMES for pair in echo_pairs(50, 1))


@pytest.mark.parametrize("family", ALL_FAMILIES, ids=lambda family: family.name)
def test_a_family_draws_short_functions_in_several_forms(family: object) -> None:
    rng = random.Random(11)
    drawn = [draw(family, rng) for _ in range(40)]  # type: ignore[arg-type]
    assert len({normal_form(function.source) for function in drawn}) >= 10
    assert len({function.variant for function in drawn}) >= 2
    for function in drawn:
        assert len(function.source.split("\n")) <= 15
        assert f"def {function.entry_point}(" in function.source
