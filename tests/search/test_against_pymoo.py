"""Sorting, crowding, constrained survival and hypervolume equal those of pymoo, an independent NSGA-II."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import RankAndCrowding
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.indicators.hv import HV
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from coral_core.config import RunConfig
from coral_core.search.archive import Scored
from coral_core.search.selection import (
    crowding,
    fitness,
    hypervolume,
    matrix,
    nsga2_order,
    objectives,
    pareto_ranks,
    violation,
)
from coral_core.search.strategy import make_search

SCORING = RunConfig().scoring
NAMES = objectives(SCORING)
GENOME = make_search(RunConfig()).ask()[0]
SHORTFALLS = (0.0, 0.0, 0.0, 0.125, 0.25, 0.5)
"""By how much a genome misses the threshold of syntax; half of them meet it."""


@st.composite
def generations(draw: st.DrawFn) -> list[Scored]:
    """Genomes whose scores differ in every objective: of ties the two libraries keep another one, and may."""
    count = draw(st.integers(1, 24))
    columns = [draw(st.permutations(range(count))) for _ in NAMES]
    passing = {name: 1.0 for name in SCORING.roles}
    items = []
    for number in range(count):
        shortfall = draw(st.sampled_from(SHORTFALLS))
        scores = passing | {"syntax": SCORING.thresholds["syntax"].limit - shortfall}
        scores |= {name: column[number] / count for name, column in zip(NAMES, columns, strict=True)}
        genome = GENOME.model_copy(update={"slot": number, "genome_id": f"g000-{number:03d}"})
        items.append(Scored(genome=genome, scores=scores, fitness=fitness(scores, SCORING.weights)))
    return items


def quality(items: Sequence[Scored], everyone: Sequence[Scored]) -> list[tuple[float, float, float]]:
    """(violation, Pareto rank, crowding) of genomes among all, best first: what constrained NSGA-II sees of them."""
    amounts = {item.genome.slot: violation(item.scores or {}, SCORING, 1.0) for item in everyone}
    meets = [item for item in everyone if amounts[item.genome.slot] == 0]
    points = matrix([item.scores or {} for item in meets], NAMES)
    ranks, place = pareto_ranks(points), {item.genome.slot: number for number, item in enumerate(meets)}
    spreads: NDArray[np.float64] = np.zeros(len(meets))
    for rank in np.unique(ranks):
        spreads[ranks == rank] = crowding(points[ranks == rank])
    return sorted(
        (0.0, float(ranks[place[slot]]), -float(spreads[place[slot]])) if slot in place else (amounts[slot], 0.0, 0.0)
        for slot in (item.genome.slot for item in items)
    )


@settings(max_examples=150, deadline=None)
@given(generations(), st.data())
def test_the_survivors_are_those_of_pymoo(items: list[Scored], data: st.DataObject) -> None:
    survivors = data.draw(st.integers(1, len(items)))
    points = matrix([item.scores or {} for item in items], NAMES)
    amounts = np.array([[violation(item.scores or {}, SCORING, 1.0)] for item in items])
    population = Population.new("X", np.arange(len(items))[:, None], "F", -points, "G", amounts)
    problem = Problem(n_var=1, n_obj=len(NAMES), n_ieq_constr=1)
    kept = RankAndCrowding().do(problem, population, n_survive=survivors, random_state=np.random.RandomState(0))
    theirs = [items[int(row[0])] for row in kept.get("X")]
    ours = nsga2_order(items, SCORING, 1.0)[:survivors]
    assert len(theirs) == survivors
    # equal but for genomes of equal crowding, among which pymoo draws
    assert np.array(quality(ours, items)) == pytest.approx(np.array(quality(theirs, items)))


POINTS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=24)


@settings(max_examples=150, deadline=None)
@given(POINTS)
def test_ranks_equal_those_of_pymoo_with_ties(points: list[tuple[int, ...]]) -> None:
    array = np.array(points, dtype=float)
    _, theirs = NonDominatedSorting().do(-array, return_rank=True)
    assert pareto_ranks(array).tolist() == theirs.tolist()


@settings(max_examples=100, deadline=None)
@given(POINTS)
def test_the_hypervolume_equals_that_of_pymoo(points: list[tuple[int, ...]]) -> None:
    scores = [dict(zip(NAMES, (value / 4 for value in point), strict=True)) for point in points]
    theirs = HV(ref_point=np.zeros(len(NAMES)))(-matrix(scores, NAMES))
    assert hypervolume(scores, NAMES) == pytest.approx(theirs)
