"""Screening: children that promise most are chosen first, and degenerate results do no harm."""

import math
from typing import Any

import moocore
import numpy as np
import pytest

from coral_core.search.screening import Measured, Screen

RNG = np.random.Generator(np.random.PCG64(3))
POINTS = RNG.random((24, 2))
CHILDREN = RNG.random((40, 2))


def measured(**changes: Any) -> Measured:
    """Fitness and the first objective rise with the first gene, the second objective falls; all constraints are met."""
    first = POINTS[:, 0]
    columns: dict[str, Any] = {
        "points": POINTS,
        "fitness": first,
        "objectives": np.stack([first, 1 - first], axis=1),
        "slack": np.ones(len(POINTS)),
    }
    return Measured(**(columns | changes))


def test_the_champion_is_sought_where_fitness_rises() -> None:
    chosen = Screen(measured(), CHILDREN).choose(4, 0)
    assert len(set(chosen)) == 4 and chosen[0] in np.argsort(-CHILDREN[:, 0])[:3]


def test_choices_for_the_front_add_most_hypervolume() -> None:
    objectives = np.stack([0.2 + 0.6 * POINTS[:, 0], 0.2 + 0.6 * POINTS[:, 1]], axis=1)
    screen = Screen(measured(objectives=objectives), CHILDREN)
    optimistic = np.stack([each.mean + each.deviation for each in screen._objectives], axis=1)
    front = screen._front.copy()
    added = [
        moocore.hypervolume(np.concatenate([front, np.clip(row, 0, 1)[None]]), ref=[0, 0], maximise=True)
        for row in optimistic
    ]
    best = int(np.argmax(np.round(added, 9)))
    assert screen.choose(1, 1) == [best]
    assert best not in Screen(measured(objectives=objectives), CHILDREN).choose(1, 0)


def test_children_that_miss_a_constraint_are_avoided() -> None:
    slack = 0.5 - POINTS[:, 0]
    chosen = Screen(measured(slack=slack), CHILDREN).choose(4, 2)
    assert (CHILDREN[chosen, 0] < 0.6).all()


def test_while_no_genome_meets_the_constraints_children_come_closer_to_them() -> None:
    slack = -0.05 - POINTS[:, 0]
    chosen = Screen(measured(slack=slack), CHILDREN).choose(1, 0)
    assert chosen[0] in np.argsort(CHILDREN[:, 0])[:4]


def test_infeasible_regions_are_avoided() -> None:
    lost = POINTS[:, 0] > 0.6
    fitness = np.where(lost, math.nan, POINTS[:, 0])
    objectives = np.where(lost[:, None], math.nan, measured().objectives)
    chosen = Screen(
        measured(fitness=fitness, objectives=objectives, slack=np.where(lost, math.nan, 1.0)), CHILDREN
    ).choose(4, 0)
    assert (CHILDREN[chosen, 0] < 0.75).all()


@pytest.mark.parametrize("front", [0, 4])
def test_without_any_difference_the_least_known_children_are_chosen(front: int) -> None:
    """All infeasible, or all equal: the choices spread over what was not tried."""
    nothing = np.full(len(POINTS), math.nan)
    for each in (
        measured(fitness=nothing, objectives=np.stack([nothing, nothing], axis=1), slack=nothing),
        measured(fitness=np.full(24, 0.5), objectives=np.full((24, 2), 0.5)),
    ):
        chosen = Screen(each, CHILDREN).choose(4, front)
        gaps = np.linalg.norm(CHILDREN[:, None] - POINTS[None], axis=2).min(axis=1)
        assert len(set(chosen)) == 4 and gaps[chosen[0]] > np.median(gaps)


@pytest.mark.parametrize("objectives", [1, 5])
def test_any_number_of_objectives(objectives: int) -> None:
    columns = np.stack([POINTS[:, n % 2] * (0.5 + 0.1 * n) for n in range(objectives)], axis=1)
    assert len(set(Screen(measured(objectives=columns), CHILDREN).choose(8, 4))) == 8


def test_a_lucky_genome_is_expected_to_be_less_good() -> None:
    fitness = 0.5 * POINTS[:, 0] + np.random.Generator(np.random.PCG64(0)).normal(0, 0.05, 24)
    lucky = int(np.argmin(np.abs(POINTS[:, 0] - 0.5)))
    fitness[lucky] = fitness.max() + 0.1
    merit = measured(fitness=fitness).merit
    assert merit[lucky] < fitness[lucky] - 0.025
