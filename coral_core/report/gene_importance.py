"""Gene importance: how much of the spread of fitness goes with each gene, taken alone.

For each gene the genomes are grouped by its value (a gene with a range: by thirds of the
values tried). The variance of fitness between groups is compared with the variance within
them: epsilon squared (Kelley 1935), which unlike R squared does not grow with the number of
groups. A permutation test gives the p value, a jackknife the interval.

In a run with warm starts the number of trainings is shown as a gene, too, and every other gene is compared among
adapters that were trained as often: fitness less the mean of these, permuted among these alone. The adapters that go on
are the best ones, at a lower learning rate, so that without this the rate would be credited with the further training.

Not covered: interactions of genes (fANOVA needs thousands of genomes for these) and sampling
bias. A search visits good values more often, so genes that were bred together share credit:
the result is a hint where to look, not an experiment.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coral_core.config import GenesConfig
from coral_core.config.gene_space import module_text
from coral_core.config.ranges import IntRange, Range
from coral_core.config.tree import SearchConfig
from coral_core.digest import seed_from
from coral_core.report.content import GeneEffect, GenePoint, GeneSpace, Level, Searched
from coral_core.report.history_records import History
from coral_core.runs.records import GenomeRecord

PERMUTATIONS = 999
PARTS = 200
"""Parts that the jackknife leaves out in turn: single genomes up to as many of them."""
FEWEST = 8
"""Fewest genomes for which the importance of a gene is estimated."""
BINS = 3
TRAININGS = "trainings"
"""Trainings that made an adapter, one after the other: no gene, but shown among them where it varies."""
SAMPLING_ONLY = ("temperature", "top_p", "top_k")
LEVEL = 0.05
Kind = Literal["heavy", "light"]
Floats = NDArray[np.float64]
Groups = NDArray[np.intp]


def gene_effects(history: History, config: GenesConfig) -> tuple[GeneEffect, ...]:
    """Importance of each gene that varied, most important first.

    Args:
        history: The run's history.
        config: Candidates and ranges of the genes.

    Returns:
        One effect per gene; empty below `FEWEST` distinct genomes with a score.
    """
    records = _distinct(history)
    effects = []
    for kind, name, space in (("heavy", TRAININGS, ()), *_spaces(config)):
        affected = [record for record in records if name not in SAMPLING_ONLY or record.genome.light.sampling]
        if name != TRAININGS:
            often = Counter(record.genome.heavy.trainings() for record in affected)
            affected = [record for record in affected if often[record.genome.heavy.trainings()] > 1]
        labels, groups = _grouped([_value(record, kind, name) for record in affected], space)
        strata = _grouped([0 if name == TRAININGS else record.genome.heavy.trainings() for record in affected], ())[1]
        if len(affected) >= FEWEST and len(labels) > 1 and len(affected) > len(labels) + strata.max():
            fitness = np.array([record.fitness for record in affected], dtype=np.float64)
            effects.append(_effect(name, kind, labels, groups, fitness, strata))
    ordered = sorted(effects, key=lambda effect: (-effect.share, effect.p_value, effect.gene))
    return tuple(_holm(ordered))


def searched(history: History, genes: GenesConfig, search: SearchConfig) -> Searched:
    """The search space, and how much of it was evaluated.

    Args:
        history: The run's history.
        genes: Candidates and ranges of the genes.
        search: Strategy and size of the search.
    """
    records = history.genomes.values()
    return Searched(
        strategy=search.strategy,
        generations=search.generations,
        population=search.population,
        genomes=len({record.genome.genes_digest() for record in records}),
        adapters=len({record.training_digest for record in records}),
        warm_starts=len({each.training_digest for each in records if each.genome.heavy.warm_start is not None}),
        combinations=math.prod(len(candidates) for _, candidates in genes.heavy),
        space=tuple(GeneSpace(gene=name, kind=kind, values=_space_text(space)) for kind, name, space in _spaces(genes)),
    )


def epsilon_squared(groups: Groups, values: Floats, count: int, estimated: int = 1) -> float:
    """Share of the variance of `values` that lies between groups, adjusted for the number of groups (Kelley 1935).

    Args:
        groups: Shape (n,): the group of each value, in [0, count).
        values: Shape (n,).
        count: Number of groups; empty ones are allowed.
        estimated: Means that were taken from `values`: 1, or the number of strata.

    Returns:
        At most 1. It may be below 0 when groups explain less than chance; 0 without variance or with n groups.

    Example:
        >>> epsilon_squared(np.array([0, 0, 1, 1]), np.array([1.0, 1.0, 2.0, 2.0]), 2)
        1.0
    """
    total = float(((values - values.mean()) ** 2).sum())
    n, used = len(values), len(np.unique(groups))
    free = n - used - estimated + 1
    if total <= 1e-18 or free <= 0:
        return 0.0
    sizes = np.bincount(groups, minlength=count)
    sums = np.bincount(groups, weights=values, minlength=count)
    within = float((values**2).sum() - (sums[sizes > 0] ** 2 / sizes[sizes > 0]).sum())
    return 1.0 - max(0.0, within) / free / (total / (n - estimated))


def _effect(
    name: str, kind: Kind, labels: Sequence[str], groups: Groups, fitness: Floats, strata: Groups
) -> GeneEffect:
    count = len(labels)
    rng = np.random.default_rng(seed_from("gene-importance", name, len(fitness)))
    share = _within_strata(groups, fitness, count, strata)
    shuffled = [_within_strata(_permuted(groups, strata, rng), fitness, count, strata) for _ in range(PERMUTATIONS)]
    as_good = sum(value >= share - 1e-12 for value in shuffled)
    parts = np.array_split(rng.permutation(len(fitness)), min(len(fitness), PARTS))
    without = np.array(
        [
            _within_strata(np.delete(groups, part), np.delete(fitness, part), count, np.delete(strata, part))
            for part in parts
        ]
    )
    shown = fitness.mean() + _centred(fitness, strata) if strata.any() else fitness
    error = float(np.sqrt((len(parts) - 1) / len(parts) * ((without - without.mean()) ** 2).sum()))
    return GeneEffect(
        gene=name,
        kind=kind,
        genomes=len(fitness),
        share=_within(share),
        interval=(_within(share - 1.96 * error), _within(share + 1.96 * error)),
        p_value=(as_good + 1) / (PERMUTATIONS + 1),
        clear=False,
        levels=tuple(
            _level(label, shown[groups == number], fitness[groups == number]) for number, label in enumerate(labels)
        ),
        points=tuple(GenePoint(level=int(g), fitness=float(f)) for g, f in zip(groups, shown, strict=True)),
    )


def _centred(fitness: Floats, strata: Groups) -> Floats:
    """Fitness less the mean of its stratum."""
    sums, sizes = np.bincount(strata, weights=fitness), np.bincount(strata)
    means: Floats = sums / np.maximum(sizes, 1)
    return fitness - means[strata]


def _within_strata(groups: Groups, fitness: Floats, count: int, strata: Groups) -> float:
    return epsilon_squared(groups, _centred(fitness, strata), count, len(np.unique(strata)))


def _permuted(groups: Groups, strata: Groups, rng: np.random.Generator) -> Groups:
    """The groups in another order, each within its stratum."""
    found = groups.copy()
    for stratum in np.unique(strata):
        (places,) = np.nonzero(strata == stratum)
        found[places] = groups[rng.permutation(places)]
    return found


def _level(label: str, shown: Floats, fitness: Floats) -> Level:
    n = len(shown)
    error = float(shown.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    return Level(value=label, genomes=n, mean=float(shown.mean()), error=error, best=float(fitness.max()))


def _holm(effects: Sequence[GeneEffect]) -> list[GeneEffect]:
    """Mark the effects that remain significant after correction for the number of genes (Holm 1979)."""
    clear: set[str] = set()
    ranked = sorted(effects, key=lambda effect: (effect.p_value, effect.gene))
    for position, effect in enumerate(ranked):
        if effect.p_value * (len(ranked) - position) >= LEVEL:
            break
        clear.add(effect.gene)
    return [effect.model_copy(update={"clear": effect.gene in clear}) for effect in effects]


def _value(record: GenomeRecord, kind: Kind, name: str) -> Any:
    return record.genome.heavy.trainings() if name == TRAININGS else getattr(getattr(record.genome, kind), name)


def _distinct(history: History) -> list[GenomeRecord]:
    """Genomes with a score; of those with equal genes only the first."""
    distinct: dict[str, GenomeRecord] = {}
    for record in history.genomes.values():
        if record.fitness is not None:
            distinct.setdefault(record.genome.genes_digest(), record)
    return list(distinct.values())


def _spaces(config: GenesConfig) -> Iterator[tuple[Kind, str, Any]]:
    """Kind, name and candidates or range of each gene."""
    yield from (("heavy", name, space) for name, space in config.heavy)
    yield from (("light", name, space) for name, space in config.light)


def _space_text(space: Any) -> str:
    if isinstance(space, (Range, IntRange)):
        return f"{space.low:g} to {space.high:g}"
    return ", ".join(_text(value) for value in space)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return module_text(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _grouped(values: Sequence[Any], space: Any) -> tuple[list[str], Groups]:
    """Labels of the groups, and the group of each value."""
    if isinstance(space, (Range, IntRange)) and len(set(values)) > BINS:
        numbers = np.array(values, dtype=np.float64)
        edges = np.unique(np.quantile(numbers, np.linspace(0, 1, BINS + 1)))
        raw = np.clip(np.searchsorted(edges, numbers, side="left") - 1, 0, len(edges) - 2)
        used, groups = np.unique(raw, return_inverse=True)
        return [f"{edges[i]:.3g} – {edges[i + 1]:.3g}" for i in used], groups.astype(np.intp)
    distinct = sorted(set(values), key=lambda value: (len(value), value) if isinstance(value, tuple) else value)
    return [_text(value) for value in distinct], np.array([distinct.index(value) for value in values], dtype=np.intp)


def _within(value: float) -> float:
    return min(1.0, max(0.0, value))
