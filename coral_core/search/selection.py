"""Selection: fitness, thresholds, constrained domination, crowding, hypervolume.

Constrained domination and crowding are those of NSGA-II (Deb et al. 2002, sections III and V): a genome that meets the
thresholds beats one that does not; among those that do not, the smaller violation wins; among those that do, Pareto rank
and then crowding decide.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import moocore
import numpy as np
from numpy.typing import NDArray

from coral_core.config.tree import ObjectiveName, ScoringConfig
from coral_core.search.archive import Entry, Scored

Scores = Mapping[str, float]
R = TypeVar("R", Scored, Entry)


class Rated(Protocol):
    """What the champion rule reads of a result."""

    @property
    def genome_id(self) -> str: ...
    @property
    def scores(self) -> Scores | None: ...
    @property
    def fitness(self) -> float | None: ...


C = TypeVar("C", bound=Rated)


def fitness(scores: Scores, weights: Mapping[ObjectiveName, float]) -> float:
    """Scalar fitness: the sum of weight times score, in [0, 1].

    Args:
        scores: Objective name -> score in [0, 1]; a missing one counts as 0.
        weights: Objective name -> weight; they sum to 1.

    Example:
        >>> fitness({"bugfix": 0.5, "cost": 1.0}, {"bugfix": 0.75, "cost": 0.25})
        0.625
    """
    return math.fsum(weight * scores.get(name, 0.0) for name, weight in weights.items())


def threshold(base: float, limit: float, progress: float, schedule: str) -> float:
    """A constraint's threshold at `progress`.

    Args:
        base: Threshold in the first generation.
        limit: Threshold in the last generation.
        progress: 0 for the first generation, 1 for the last; clipped to [0, 1].
        schedule: Shape of the rise: ``linear``, ``sqrt`` or ``sigmoid``.

    Example:
        >>> [round(threshold(0.2, 0.7, progress, "linear"), 3) for progress in (0.0, 0.5, 1.0)]
        [0.2, 0.45, 0.7]
    """
    if base == limit:
        return limit  # the mean of equal numbers may be another in the last bit
    x = min(1.0, max(0.0, progress))
    if schedule == "sqrt":
        share = math.sqrt(x)
    elif schedule == "sigmoid":
        low, high = _logistic(0.0), _logistic(1.0)
        share = (_logistic(x) - low) / (high - low)
    else:
        share = x
    return (1 - share) * base + share * limit  # base + share * (limit - base) may differ from `limit` in the last bit


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-12 * (x - 0.5)))


def violation(scores: Scores, scoring: ScoringConfig, progress: float) -> float:
    """Total violation of the constraints: the sum of the amounts by which scores are below their thresholds.

    Args:
        scores: Objective name -> score in [0, 1]; a missing one counts as 0.
        scoring: Thresholds of the constraints and their schedule.
        progress: 0 for the first generation, 1 for the last; 1 gives the final thresholds.

    Returns:
        0 when all constraints are met.
    """
    total = 0.0
    for name, limits in scoring.thresholds.items():
        total += max(0.0, threshold(limits.base, limits.limit, progress, scoring.schedule) - scores.get(name, 0.0))
    return total


def objectives(scoring: ScoringConfig) -> tuple[str, ...]:
    """Names of the scores with the role `objective`, in alphabetical order."""
    return tuple(sorted(name for name, role in scoring.roles.items() if role == "objective"))


def matrix(scores: Sequence[Scores], names: Sequence[str]) -> NDArray[np.float64]:
    """Scores as an array.

    Args:
        scores: Objective name -> score, for each genome; a missing one counts as 0.
        names: Objectives, in the order of the columns.

    Returns:
        Shape (genomes, names).

    Example:
        >>> matrix([{"bugfix": 0.5, "cost": 1.0}, {"bugfix": 1.0}], ["cost", "bugfix"]).tolist()
        [[1.0, 0.5], [0.0, 1.0]]
    """
    return np.array([[row.get(name, 0.0) for name in names] for row in scores], dtype=float).reshape(
        len(scores), len(names)
    )


def pareto_ranks(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Pareto rank of each row, 0 for the non-dominated; equal rows share a rank.

    Args:
        points: Shape (genomes, objectives); larger is better in every column.

    Example:
        >>> pareto_ranks(np.array([[1.0, 0.0], [0.5, 0.5], [0.4, 0.4]])).tolist()
        [0, 0, 1]
    """
    if len(points) == 0:
        return np.zeros(0, dtype=np.int64)
    ranks: NDArray[np.int64] = np.asarray(moocore.pareto_rank(points, maximise=True), dtype=np.int64)
    lowest: NDArray[np.int64] = ranks - ranks.min()
    return lowest


def crowding(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Crowding distance of each row among all rows (Deb et al. 2002, section III-B).

    It is the sum over the objectives of the gap between a row's two neighbours, divided by the objective's span. The two
    extreme rows of an objective get infinity. An objective in which all rows are equal adds nothing.

    Args:
        points: Shape (genomes, objectives).

    Example:
        >>> crowding(np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])).tolist()
        [inf, 2.0, inf]
    """
    count = len(points)
    distance = np.zeros(count)
    for column in range(points.shape[1]):
        values = points[:, column]
        order = np.argsort(values, kind="stable")
        span = values[order[-1]] - values[order[0]] if count else 0.0
        if span == 0:
            continue
        distance[order[0]] = distance[order[-1]] = np.inf
        if count > 2:
            distance[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / span
    return distance


def nsga2_order(scored: Sequence[R], scoring: ScoringConfig, progress: float) -> list[R]:
    """Sort genomes from best to worst by constrained domination and crowding; ties by fitness, then genome id.

    Args:
        scored: Results to sort; infeasible ones (without scores) come last.
        scoring: Objectives, constraints and thresholds.
        progress: Position in the threshold schedule, from 0 to 1.
    """
    rows = sorted((item for item in scored if item.scores is not None), key=lambda item: item.genome_id)
    names = objectives(scoring)
    keys: dict[str, tuple[float, ...]] = {}
    violations = [violation(item.scores or {}, scoring, progress) for item in rows]
    meets = [item for item, amount in zip(rows, violations, strict=True) if amount == 0]
    points = matrix([item.scores or {} for item in meets], names)
    ranks = pareto_ranks(points)
    for rank in np.unique(ranks):
        members = np.flatnonzero(ranks == rank)
        for number, spread in zip(members, crowding(points[members]), strict=True):
            keys[meets[number].genome_id] = (0.0, float(rank), -float(spread))
    for item, amount in zip(rows, violations, strict=True):
        keys.setdefault(item.genome_id, (amount, 0.0, 0.0))
    ordered = sorted(rows, key=lambda item: (*keys[item.genome_id], -(item.fitness or 0.0), item.genome_id))
    return ordered + sorted((item for item in scored if item.scores is None), key=lambda item: item.genome_id)


def fitness_order(scored: Sequence[R], scoring: ScoringConfig, progress: float) -> list[R]:
    """Sort genomes from best to worst by violation, then by scalar fitness, then by genome id.

    Args:
        scored: Results to sort; infeasible ones (without scores) come last.
        scoring: Constraints and thresholds.
        progress: Position in the threshold schedule, from 0 to 1.
    """

    def key(item: Scored | Entry) -> tuple[float, float, str]:
        if item.scores is None:
            return (math.inf, 0.0, item.genome_id)
        return (violation(item.scores, scoring, progress), -(item.fitness or 0.0), item.genome_id)

    return sorted(scored, key=key)


def champion(scored: Sequence[C], scoring: ScoringConfig) -> C | None:
    """The fittest genome that meets the final thresholds, or the fittest of all when none meets them.

    Args:
        scored: Results to choose from.
        scoring: Constraints and their final thresholds.

    Returns:
        None when every genome is infeasible. Of equal fitness the smallest genome id wins.
    """
    rated = [item for item in scored if item.scores is not None]
    meets = [item for item in rated if violation(item.scores or {}, scoring, 1.0) == 0]
    pool = meets or rated
    return min(pool, key=lambda item: (-(item.fitness or 0.0), item.genome_id)) if pool else None


def pareto_front(scored: Sequence[R], scoring: ScoringConfig) -> tuple[R, ...]:
    """The non-dominated genomes, sorted by genome id; of genomes with equal scores the first one stands for all.

    Args:
        scored: Results to choose from; infeasible ones are ignored.
        scoring: Names the objectives. Constraints play no part.
    """
    rated = sorted((item for item in scored if item.scores is not None), key=lambda item: item.genome_id)
    points = matrix([item.scores or {} for item in rated], objectives(scoring))
    front = []
    seen: set[tuple[float, ...]] = set()
    for item, rank, row in zip(rated, pareto_ranks(points), points, strict=True):
        if rank == 0 and tuple(row) not in seen:
            seen.add(tuple(row))
            front.append(item)
    return tuple(front)


def hypervolume(points: Sequence[Scores], names: Sequence[str]) -> float:
    """Hypervolume that genomes dominate, with the reference point 0; in [0, 1].

    Args:
        points: Objective name -> score in [0, 1], for each genome.
        names: Objectives to measure; without any the hypervolume is 0.

    Example:
        >>> hypervolume([{"bugfix": 0.5, "cost": 1.0}, {"bugfix": 1.0, "cost": 0.25}], ["bugfix", "cost"])
        0.625
    """
    if not points or not names:
        return 0.0
    return float(moocore.hypervolume(matrix(points, sorted(names)), ref=np.zeros(len(names)), maximise=True))
