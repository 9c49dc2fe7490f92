"""Constrained domination, pair by pair; crowding from its definition; what thresholds do to a run."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coral_core.config import RunConfig
from coral_core.genome import GREEDY, Genome, HeavyGenes, Lineage, genome_id
from coral_core.search.selection import (
    champion,
    crowding,
    fitness,
    fitness_order,
    nsga2_order,
    objectives,
    pareto_front,
    threshold,
    violation,
)
from coral_core.search.strategy import Scored
from tests.search.landscape import asked

SCORING = RunConfig().scoring


def result(slot: int, infeasible: str | None = None, **scores: float) -> Scored:
    heavy = HeavyGenes(
        rank=slot + 1, alpha=16, dropout=0, target_modules=("q_proj",), adapter="lora", learning_rate=1e-3
    )
    lineage = Lineage(operator="test")
    genome = Genome(genome_id=genome_id(0, slot), generation=0, slot=slot, heavy=heavy, light=GREEDY, lineage=lineage)
    if infeasible:
        return Scored(genome=genome, scores=None, fitness=None, infeasible=infeasible)
    full = {"bugfix": 0.0, "retention": 0.0, "cost": 0.0, "syntax": 1.0, "style": 1.0, "security": 1.0, **scores}
    return Scored(genome=genome, scores=full, fitness=fitness(full, SCORING.weights))


def naive_crowding(rows: NDArray[np.float64]) -> list[float]:
    """From the definition, for rows with distinct values in every column."""
    distance = []
    for row in rows:
        total = 0.0
        for column, value in enumerate(row):
            below = [other for other in rows[:, column] if other < value]
            above = [other for other in rows[:, column] if other > value]
            if not below or not above:
                total = math.inf
                break
            total += (min(above) - max(below)) / (rows[:, column].max() - rows[:, column].min())
        distance.append(total)
    return distance


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 20), st.integers(0, 10_000))
def test_crowding_is_that_of_the_definition(count: int, seed: int) -> None:
    table = np.random.default_rng(seed).random((count, 3))
    np.testing.assert_allclose(crowding(table), naive_crowding(table))


def test_crowding_ignores_an_objective_without_spread() -> None:
    table = np.column_stack([np.linspace(0, 1, 5), np.full(5, 0.3)])
    assert crowding(table).tolist() == pytest.approx([math.inf, 0.5, 0.5, 0.5, math.inf])
    assert crowding(np.zeros((3, 2))).tolist() == [0, 0, 0]
    assert crowding(np.zeros((0, 2))).tolist() == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 10)] * 4), min_size=2, max_size=16), st.floats(0, 1))
def test_order_respects_constrained_domination_for_every_pair(rows: list[tuple[int, ...]], progress: float) -> None:
    """Deb et al. 2002, definition 1, by looking at every pair."""
    items = [
        result(n, bugfix=a / 10, retention=b / 10, cost=c / 10, syntax=d / 10) for n, (a, b, c, d) in enumerate(rows)
    ]
    ordered = nsga2_order(items, SCORING, progress)
    place = {item.genome.slot: n for n, item in enumerate(ordered)}
    missing = {item.genome.slot: violation(item.scores or {}, SCORING, progress) for item in items}
    vectors = {
        item.genome.slot: np.array([(item.scores or {})[name] for name in objectives(SCORING)]) for item in items
    }
    for first in place:
        for second in place:
            one, other = vectors[first], vectors[second]
            dominates = (one >= other).all() and (one > other).any()
            if missing[first] < missing[second] or (missing[first] == missing[second] == 0 and dominates):
                assert place[first] < place[second]


def test_infeasible_genomes_come_last_and_count_as_no_score() -> None:
    worst = result(1, bugfix=0.0, syntax=0.0, style=0.0, security=0.0)
    items = [result(0, infeasible="diverged"), worst, result(2, bugfix=0.3)]
    for order in (nsga2_order, fitness_order):
        assert [item.genome.slot for item in order(items, SCORING, 1.0)] == [2, 1, 0]
    assert items[0] not in pareto_front(items, SCORING)
    assert champion(items[:1], SCORING) is None


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(["sigmoid", "sqrt", "linear"]))
def test_both_ends_of_a_schedule_are_exact(base: float, limit: float, schedule: str) -> None:
    """To the last bit: a score that equals the limit passes."""
    assert (threshold(base, limit, 0.0, schedule), threshold(base, limit, 1.0, schedule)) == (base, limit)


def test_thresholds_that_nobody_meets_do_not_end_a_run() -> None:
    limits = {name: {"base": 1.0, "limit": 1.0} for name in ("syntax", "security", "style")}
    assert len(asked(RunConfig.model_validate({"scoring": {"thresholds": limits}}))) == 4


def test_schedule_and_thresholds_change_what_is_asked() -> None:
    roles = {"bugfix": "constraint", **dict.fromkeys(("syntax", "security", "style"), "report")}
    long = {"generations": 10, "early_stopping": {"enabled": False}}
    runs = [
        asked(
            RunConfig.model_validate(
                {
                    "search": long,
                    "scoring": {"roles": roles, "schedule": schedule, "thresholds": {"bugfix": limits}},
                }
            )
        )
        for schedule, limits in (
            ("sigmoid", {"base": 0.0, "limit": 0.6}),
            ("sqrt", {"base": 0.0, "limit": 0.6}),
            ("linear", {"base": 0.0, "limit": 0.6}),
            ("linear", {"base": 0.1, "limit": 0.6}),
            ("linear", {"base": 0.0, "limit": 0.3}),
        )
    ]
    assert all(first != second for first, second in combinations(runs, 2))


def test_weights_change_what_scalar_selection_asks() -> None:
    scalar = {"seed": 2, "search": {"selection": "truncation"}}
    weights = {"bugfix": 0.1, "retention": 0.8, "cost": 0.1}
    first, second = scalar, {**scalar, "scoring": {"weights": weights}}
    assert asked(RunConfig.model_validate(first)) != asked(RunConfig.model_validate(second))
