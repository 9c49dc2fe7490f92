"""Sorting, crowding, thresholds, champion, hypervolume: against naive implementations."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral_core.config import RunConfig
from coral_core.search.selection import (
    champion,
    crowding,
    fitness,
    hypervolume,
    nsga2_order,
    pareto_front,
    pareto_ranks,
    threshold,
    violation,
)
from coral_core.search.strategy import Scored, make_search

CONFIG = RunConfig()
SCORING = CONFIG.scoring
GENOMES = make_search(CONFIG).ask()
POINTS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=14)


def naive_ranks(points: list[tuple[int, ...]]) -> list[int]:
    left = set(range(len(points)))
    ranks = [0] * len(points)
    rank = 0
    while left:
        front = {
            i
            for i in left
            if not any(
                all(a >= b for a, b in zip(points[j], points[i], strict=True)) and points[j] != points[i] for j in left
            )
        }
        for i in front:
            ranks[i] = rank
        left -= front
        rank += 1
    return ranks


@settings(max_examples=150, deadline=None)
@given(POINTS)
def test_ranks_equal_the_naive_sort(points: list[tuple[int, ...]]) -> None:
    assert pareto_ranks(np.array(points, dtype=float)).tolist() == naive_ranks(points)


def test_crowding_of_a_line() -> None:
    points = np.array([[0.0, 4.0], [1.0, 3.0], [3.0, 1.0], [4.0, 0.0]])
    assert crowding(points).tolist() == [math.inf, 1.5, 1.5, math.inf]


@pytest.mark.parametrize("schedule", ["sigmoid", "sqrt", "linear"])
def test_thresholds_start_and_end_exactly(schedule: str) -> None:
    assert threshold(0.2, 0.7, 0.0, schedule) == 0.2
    assert threshold(0.2, 0.7, 1.0, schedule) == pytest.approx(0.7)
    values = [threshold(0.2, 0.7, x / 10, schedule) for x in range(11)]
    assert values == sorted(values)


def test_schedules_differ_in_between() -> None:
    assert len({round(threshold(0, 1, 0.25, name), 6) for name in ("sigmoid", "sqrt", "linear")}) == 3


def item(number: int, **scores: float) -> Scored:
    full = {"bugfix": 0.5, "retention": 0.5, "cost": 0.5, "syntax": 1.0, "security": 1.0, "style": 1.0} | scores
    return Scored(genome=GENOMES[number], scores=full, fitness=fitness(full, SCORING.weights))


def test_feasible_beats_better_but_infeasible() -> None:
    good, bad, worse = item(0, bugfix=0.2), item(1, bugfix=0.9, syntax=0.1), item(2, bugfix=0.9, syntax=0.05)
    assert violation(bad.scores or {}, SCORING, 1.0) > 0
    assert [i.genome.slot for i in nsga2_order([worse, bad, good], SCORING, 1.0)] == [0, 1, 2]
    assert champion([worse, bad, good], SCORING) == good


def test_champion_without_anyone_feasible_is_the_fittest() -> None:
    one, two = item(0, bugfix=0.2, syntax=0.0), item(1, bugfix=0.9, syntax=0.0)
    assert champion([one, two], SCORING) == two


def test_pareto_front_drops_dominated_and_repeated() -> None:
    front = pareto_front([item(0, bugfix=0.9), item(1, bugfix=0.1), item(2, cost=0.9), item(3, bugfix=0.9)], SCORING)
    assert [i.genome.slot for i in front] == [0, 2]


def test_hypervolume_is_the_union_of_boxes() -> None:
    assert hypervolume(
        [{"bugfix": 0.5, "cost": 1.0}, {"bugfix": 1.0, "cost": 0.5}], ("bugfix", "cost")
    ) == pytest.approx(0.75)
    assert hypervolume([], ("bugfix",)) == 0.0


def test_fitness_uses_the_weights() -> None:
    assert fitness({"bugfix": 1.0}, SCORING.weights) == pytest.approx(SCORING.weights["bugfix"])
    assert fitness({name: 1.0 for name in SCORING.weights}, SCORING.weights) == pytest.approx(1.0)
