"""Chooses which of many bred children are trained, by models of everything that was measured.

Some choices are for the champion: the largest expected improvement of the fitness (Jones et al. 1998). The others are for the
Pareto front: the largest improvement of the hypervolume at an optimistic estimate of the objectives (SMS-EGO, Ponweiser et
al. 2008). Both are weighted by the chance that the child meets the constraints (Gardner et al. 2014).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import moocore
import numpy as np

from coral_core.config import RunConfig
from coral_core.config.gene_space import HeavyGeneSpace
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.search.archive import Entry, Scored
from coral_core.search.expression import coordinates, light_coordinates
from coral_core.search.selection import crowding, matrix, objectives, pareto_ranks
from coral_core.search.surrogate import DIGITS, Array, Beliefs, Surrogate

MEASURED = 0.5
"""Weight of what was measured in what a genome is worth; the rest is what the model expects of it."""
OPTIMISM = 1.0
"""Standard deviations that are added to the expected objectives of a child."""
MOST_FRONT = 48
"""Points of the front that count, spread over it: the cost of a hypervolume grows fast with their number."""
UPDATE = tuple(list(HeavyGeneSpace.model_fields).index(gene) for gene in ("alpha", "learning_rate"))
"""Genes that set the size of an adapter's update together."""
INFEASIBLE = -0.05
"""Slack at most that an infeasible genome counts with."""


def point(heavy: HeavyGenes, light: LightGenes, config: RunConfig) -> Array:
    """Coordinates of all genes, heavy ones first, each in [0, 1], and what is known of how they act together.

    One more is the sum of the coordinates of alpha and learning rate, in [0, 2]: the size of the update. Adam moves each
    entry of B by about the learning rate, whatever the gradient, and BA is multiplied by alpha / rank, which the sum over
    the rank undoes. With warm starts the last one says how often the adapter was trained: 0, 1/2, 2/3, ... for 1, 2, 3, ...
    trainings.

    Args:
        heavy: Heavy genes.
        light: Light genes.
        config: Holds their candidates and ranges.
    """
    genes = coordinates(heavy, config.genes)
    places = [genes, light_coordinates(light, config.genes), genes[list(UPDATE)].sum(keepdims=True)]
    if config.search.variation.warm_start_rate:
        places.append(np.array([1 - 1 / heavy.trainings()]))
    return np.concatenate(places)


@dataclass(frozen=True)
class Measured:
    """What was measured so far: one row per genome, at least one.

    Attributes:
        points: Coordinates of the genes in [0, 1]; shape (n, genes).
        fitness: Scalar fitness; shape (n,). NaN where the genome is infeasible, here and below.
        objectives: Scores that are traded off; shape (n, objectives).
        slack: Smallest distance of a score to its final threshold, negative where one is missed; shape (n,).
    """

    points: Array
    fitness: Array
    objectives: Array
    slack: Array

    @classmethod
    def of(cls, results: Sequence[Scored | Entry], config: RunConfig) -> Self:
        """The measurements that results hold.

        Args:
            results: At least one.
            config: Names the genes, objectives and constraints.
        """
        names, limits = objectives(config.scoring), config.scoring.thresholds
        scores = [item.scores or {} for item in results]
        slack = [min((row.get(name, 0.0) - limits[name].limit for name in limits), default=1.0) for row in scores]
        lost = np.array([item.scores is None for item in results])
        genomes = [item.genome for item in results]
        return cls(
            points=np.array([point(genome.heavy, genome.light, config) for genome in genomes]),
            fitness=np.array([math.nan if item.fitness is None else item.fitness for item in results]),
            objectives=np.where(lost[:, None], math.nan, matrix(scores, names)),
            slack=np.where(lost, math.nan, np.array(slack)),
        )

    @cached_property
    def merit(self) -> Array:
        """Half of the fitness that was measured and half of what a model of all results expects of each genome; shape (n,).

        The model averages the noise of a single measurement away as far as similar genomes allow: one that was the best of many by
        luck is expected to be less good than it was measured. But it also smooths away what sets the best apart. On the gene
        table for tuning the best by both halves is better than the best by either (docs/decisions.md).
        """
        expected = Surrogate(self.points, _filled(self.fitness)).predict(self.points)[0]
        return MEASURED * self.fitness + (1 - MEASURED) * expected


class Screen:
    """Chooses children one by one; each choice counts as measured at its expected values for the next.

    Args:
        measured: Results to learn from.
        children: Coordinates of the children to choose from; shape (m, genes).
    """

    def __init__(self, measured: Measured, children: Array) -> None:
        varied = np.ptp(np.concatenate([measured.points, children]), axis=0) > 0
        points, children = measured.points[:, varied], children[:, varied]
        meets = np.isfinite(measured.slack) & (measured.slack >= 0)

        fitness = Surrogate(points, _filled(measured.fitness))
        self._fitness = Beliefs(fitness, children)
        self._best = float(np.max(fitness.predict(points)[0][meets], initial=-math.inf))
        models = [Surrogate(points, _filled(column)) for column in measured.objectives.T]
        self._objectives = [Beliefs(model, children) for model in models]
        self._front = _front(np.stack([model.predict(points)[0] for model in models], axis=1))
        # constraints are modelled only where one was missed, or a genome was infeasible
        slack = None if meets.all() else Surrogate(points, _filled(measured.slack, INFEASIBLE))
        self._slack = None if slack is None else Beliefs(slack, children)
        self._free = np.ones(len(children), dtype=bool)
        self._bounds = np.ones(len(children))
        """Hypervolume that each child adds at most; it only falls while others are chosen."""

    def choose(self, count: int, for_front: int) -> list[int]:
        """Indices of `count` children in the order of choice.

        Args:
            count: At most the number of children.
            for_front: How many of them are chosen for the Pareto front, from 0 to `count`; evenly among the others.
        """
        chosen = []
        for turn in range(count):
            front = (turn + 1) * for_front // count > turn * for_front // count
            chosen.append(self._largest(self._values(front)))
            self._take(chosen[-1])
        return chosen

    def _values(self, front: bool) -> Array:
        """What each child promises: for the front, or for the champion; for the constraints while no genome meets them."""
        if self._slack is not None and not math.isfinite(self._best):
            return self._slack.mean + OPTIMISM * self._slack.deviation
        return self._hypervolume_added() if front else self._expected_improvement()

    def _largest(self, values: Array) -> int:
        """The free child of the largest value; of equal ones that which is most unlike everything measured."""
        rounded = np.where(self._free, np.round(values, DIGITS), -math.inf)
        best = np.flatnonzero(rounded == rounded.max())
        return int(best[np.argmax(self._fitness.novelty[best])])

    def _take(self, index: int) -> None:
        self._free[index] = False
        self._best = max(self._best, float(self._fitness.mean[index])) if math.isfinite(self._best) else self._best
        expected = np.array([[beliefs.mean[index] for beliefs in self._objectives]])
        self._front = np.concatenate([self._front, expected])
        for beliefs in (self._fitness, self._slack, *self._objectives):
            if beliefs is not None:
                beliefs.believe(index)

    def _chance(self) -> Array:
        """Probability that each child meets the constraints."""
        if self._slack is None:
            return np.ones(len(self._free))
        return _normal(self._slack.mean / np.maximum(self._slack.deviation, 10.0**-DIGITS))

    def _expected_improvement(self) -> Array:
        """Expected improvement of the fitness over the best expected one, times the chance to meet the constraints."""
        deviation = np.maximum(self._fitness.deviation, 10.0**-DIGITS)
        gain = self._fitness.mean - self._best
        score = gain / deviation
        density = np.exp(-0.5 * score**2) / math.sqrt(2 * math.pi)
        return (gain * _normal(score) + deviation * density) * self._chance()

    def _hypervolume_added(self) -> Array:
        """Optimistic improvement of the hypervolume; exact for the largest, an upper bound for the others."""
        optimistic = np.stack([each.mean + OPTIMISM * each.deviation for each in self._objectives], axis=1)
        added = _hypervolume_over(self._front)
        chance, best = self._chance(), -math.inf
        for index in np.argsort(-self._bounds * chance, kind="stable"):
            if self._bounds[index] * chance[index] < best:
                break
            if self._free[index]:
                self._bounds[index] = min(self._bounds[index], added(optimistic[index]))
                best = max(best, self._bounds[index] * chance[index])
        return self._bounds * chance


def _filled(values: Array, at_most: float = math.inf) -> Array:
    """`values` with the smallest one (`at_most` if that is less) in the place of NaN; 0 when there are only NaN."""
    known = values[np.isfinite(values)]
    return np.where(np.isfinite(values), values, min(float(known.min()) if len(known) else 0.0, at_most))


def _front(points: Array) -> Array:
    """The non-dominated rows, at most `MOST_FRONT`, those with the largest crowding distances."""
    front = np.unique(points[pareto_ranks(points) == 0], axis=0)
    return front[np.argsort(-crowding(front), kind="stable")[:MOST_FRONT]]


def _hypervolume_over(front: Array) -> Callable[[Array], float]:
    """A function that returns the hypervolume which a point adds to `front`; reference point 0."""
    reference = np.zeros(front.shape[1])
    kept = np.clip(_front(front), 0.0, 1.0)
    before = float(moocore.hypervolume(kept, ref=reference, maximise=True))

    def added(point: Array) -> float:
        with_point = np.concatenate([kept, np.clip(point, 0.0, 1.0)[None]])
        return float(moocore.hypervolume(with_point, ref=reference, maximise=True)) - before

    return added


def _normal(values: Array) -> Array:
    """Standard normal distribution function."""
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in values.tolist()])
