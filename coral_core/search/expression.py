"""Maps features of an automaton to genes; the mapping is smooth and reaches every candidate.

1. Each feature is replaced by its quantile in a fixed sample of automata of the same configuration, so that every
   feature spreads over [0, 1].
2. The position of each gene is a fixed linear mix of the four quantiles (`MIX`), made uniform by the quantile function
   of that mix. Similar automata therefore get similar genes.
3. A position in [0, 1] selects a candidate (each has an equal share) or a value in a range.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coral_core.config.ranges import Range
from coral_core.config.tree import AutomatonConfig, GenesConfig, module_names
from coral_core.genome import MOST_TRAININGS, Automaton, Features, Genome, HeavyGenes, LightGenes
from coral_core.search.automaton import draw
from coral_core.search.features import features
from coral_core.search.randomness import generator

SAMPLE = 768
"""Automata in the calibration sample."""

SECONDS_DRAW, SECONDS_STEP, SECONDS_CELL = 4e-4, 2e-5, 3e-8
"""Measured seconds on one core per automaton, per step and per cell of a step."""

DIGITS = 9
"""Decimals that are kept: the last bits of a logarithm or a sum differ between machines, and genes must not."""

ROUNDED = 3
"""Decimals of a light gene."""

Positions = dict[str, float]
"""Gene name -> position in [0, 1]."""

# Gene -> weights of complexity, intensity, periodicity, convergence. Each row has length 1 and all rows together weigh
# the four features equally, so that distances between features carry over to genes. A new gene goes to the end: the
# order is that of random draws, and searches without it must repeat.
MIX: dict[str, tuple[float, float, float, float]] = {
    "rank": (1.0, 0.0, 0.0, 0.0),
    "alpha": (0.0, 1.0, 0.0, 0.0),
    "dropout": (0.0, 0.0, 1.0, 0.0),
    "target_modules": (0.0, 0.0, 0.0, 1.0),
    "adapter": (0.8, 0.0, 0.0, -0.6),
    "learning_rate": (0.0, 0.8, 0.6, 0.0),
    "temperature": (0.6, -0.8, 0.0, 0.0),
    "top_p": (0.0, 0.0, 0.8, 0.6),
    "top_k": (0.0, 0.6, 0.0, 0.8),
    "repetition_penalty": (-0.6, 0.0, 0.8, 0.0),
    "token_limit": (0.0, 0.0, -0.6, 0.8),
    "sampling": (0.8, 0.6, 0.0, 0.0),
    "scaling": (0.5, -0.5, 0.5, 0.5),
}
GENES = tuple(MIX)
NAMED = ("target_modules", "adapter", "scaling")
"""Heavy genes whose candidates are names; those of the others are numbers."""


def drawing_seconds(config: AutomatonConfig, automata: int) -> float:
    """Estimate of the seconds that one core needs for the calibration and for drawing automata.

    Args:
        config: Size of the torus and range of steps.
        automata: Number of automata to draw after the calibration.

    Example:
        >>> drawing_seconds(AutomatonConfig(), 16) < 1 < drawing_seconds(AutomatonConfig(), 10_000)
        True
    """
    steps = (config.steps.low + config.steps.high) / 2
    return (SAMPLE + automata) * (SECONDS_DRAW + steps * (SECONDS_STEP + SECONDS_CELL * config.size**2))


class Calibration:
    """Quantile functions of features and of mixed positions for one automaton configuration.

    Args:
        config: Distribution of automata; `SAMPLE` of them are drawn, with a seed that is the same in every run.
    """

    def __init__(self, config: AutomatonConfig) -> None:
        raw = np.array([_row(features(draw(config, generator(0, 0, n, "calibration")))) for n in range(SAMPLE)])
        self._features = np.sort(raw, axis=0)
        self._mixed = np.sort(_mix(self.quantiles(raw)), axis=0)

    def quantiles(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share of the sample below each feature value, in [0, 1]; ties count half.

        Args:
            raw: Shape (automata, 4) or (4,): complexity, intensity, periodicity, convergence.

        Returns:
            Shape (automata, 4).
        """
        raw = np.atleast_2d(raw)
        return np.stack([_quantile(self._features[:, n], raw[:, n]) for n in range(raw.shape[1])], axis=1)

    def positions(self, measured: Features) -> Positions:
        """Position of every gene in [0, 1] that the features `measured` express."""
        mixed = _mix(self.quantiles(np.array([_row(measured)])))
        return {gene: float(_quantile(self._mixed[:, n], mixed[:, n])[0]) for n, gene in enumerate(GENES)}


def _mix(quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """`MIX` applied to each row, without BLAS, rounded to `DIGITS`.

    Many automata have equal quantiles, for example all that die in the first step. The last bit of a BLAS product depends
    on its shape and on the CPU; it would break these ties and change genes.
    """
    columns = [sum(quantiles[:, n] * weight for n, weight in enumerate(row)) for row in MIX.values()]
    return np.round(np.stack(columns, axis=1), DIGITS)


def _quantile(ordered: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.searchsorted(ordered, values, "left")
    high = np.searchsorted(ordered, values, "right")
    return (low + high) / (2 * len(ordered))


def _row(measured: Features) -> list[float]:
    values = (measured.complexity, measured.intensity, measured.periodicity, measured.convergence)
    return [round(value, DIGITS) for value in values]


@lru_cache(maxsize=8)
def calibration(config: AutomatonConfig) -> Calibration:
    """The calibration for `config`; kept in memory, since it takes a noticeable part of a second."""
    return Calibration(config)


def positions(automaton: Automaton, config: AutomatonConfig) -> tuple[Features, Positions]:
    """Features of an automaton and the gene positions that they express.

    Args:
        automaton: The automaton to run.
        config: Distribution of automata, against which features become quantiles.

    Returns:
        The four features, and a position in [0, 1] for every gene.
    """
    measured = features(automaton)
    return measured, calibration(config).positions(measured)


def choice(position: float, count: int) -> int:
    """Index of the candidate at a position; every candidate has an equal share of [0, 1].

    Args:
        position: From 0 to 1.
        count: Number of candidates, at least 1.

    Example:
        >>> [choice(position, 4) for position in (0.0, 0.3, 1.0)]
        [0, 1, 3]
    """
    return min(count - 1, max(0, int(position * count)))


def heavy_genes(place: Positions, genes: GenesConfig) -> HeavyGenes:
    """The heavy genes at the given positions.

    Args:
        place: Gene name -> position in [0, 1]; must hold every heavy gene.
        genes: Holds the candidates of each heavy gene.
    """
    picked = {gene: candidates[choice(place[gene], len(candidates))] for gene, candidates in genes.heavy}
    return HeavyGenes.model_validate(picked | {"target_modules": module_names(picked["target_modules"])})


def light_genes(place: Positions, genes: GenesConfig) -> LightGenes:
    """The light genes at the given positions; values are rounded to 3 decimals, but stay in their ranges.

    Args:
        place: Gene name -> position in [0, 1]; must hold every light gene.
        genes: Holds the range of each light gene, and the candidates of `sampling`.
    """
    picked = {
        gene: min(max(round(span.at(place[gene]), ROUNDED), span.low), span.high)
        for gene, span in genes.light
        if isinstance(span, Range)
    }
    sampling = genes.light.sampling[choice(place["sampling"], len(genes.light.sampling))]
    return LightGenes.model_validate(picked | {"sampling": sampling})


def coordinates(heavy: HeavyGenes, genes: GenesConfig) -> NDArray[np.float64]:
    """Heavy genes as a point, for distances between genomes.

    Args:
        heavy: The genes.
        genes: Holds the candidates of each heavy gene, numbers in ascending order.

    Returns:
        One coordinate per gene, from 0 (first candidate) to 1 (last candidate). Numbers are interpolated between candidates;
        a gene with one candidate, and a name that is no candidate, is at 0.5.
    """
    places = []
    for gene, candidates in genes.heavy:
        value = getattr(heavy, gene)
        if gene not in NAMED:
            ordered = len(candidates) > 1
            places.append(np.interp(value, candidates, np.linspace(0, 1, len(candidates))) if ordered else 0.5)
            continue
        options = [module_names(name) for name in candidates] if gene == "target_modules" else list(candidates)
        has_place = len(options) > 1 and value in options
        places.append(options.index(value) / (len(options) - 1) if has_place else 0.5)
    return np.array(places, dtype=float)


class SearchSpace:
    """The values that a configuration allows.

    Args:
        genes: Candidates and ranges.

    Attributes:
        heavy: Name of each heavy gene -> its distinct values, in the order of the candidates.
        adapters: Number of combinations of them.

    Example:
        >>> SearchSpace(GenesConfig()).heavy["adapter"]
        ('lora', 'dora')
    """

    def __init__(self, genes: GenesConfig) -> None:
        values = {gene: list(candidates) for gene, candidates in genes.heavy}
        values["target_modules"] = [module_names(name) for name in values["target_modules"]]
        self.heavy: dict[str, tuple[Any, ...]] = {gene: tuple(dict.fromkeys(each)) for gene, each in values.items()}
        self.adapters = math.prod(len(each) for each in self.heavy.values())
        self._ranges = {gene: span for gene, span in genes.light if isinstance(span, Range)}
        self._sampling = genes.light.sampling

    def outside(self, genome: Genome) -> str:
        """The first gene of `genome` that this space does not allow, and its value; "" when all are allowed."""
        heavy: HeavyGenes | None = genome.heavy
        for behind in range(MOST_TRAININGS):
            if not isinstance(heavy, HeavyGenes) or heavy.shape() != genome.heavy.shape():  # made without validation
                return "warm_start of another shape"
            for gene, values in self.heavy.items():
                if (value := getattr(heavy, gene)) not in values:
                    return f"{gene} {value}" + (" of a warm start" if behind else "")
            heavy = heavy.warm_start
            if heavy is None:
                break
        else:
            return f"more than {MOST_TRAININGS} trainings one after the other"
        half = 0.5 * 10**-ROUNDED + 1e-9  # operators round values, also beyond an end of a range
        for gene, span in self._ranges.items():
            if not span.low - half <= (value := getattr(genome.light, gene)) <= span.high + half:
                return f"{gene} {value}"
        return "" if genome.light.sampling in self._sampling else f"sampling {genome.light.sampling}"


def light_coordinates(light: LightGenes, genes: GenesConfig) -> NDArray[np.float64]:
    """Light genes as a point, for models of what they do.

    Args:
        light: The genes.
        genes: Holds the range of each light gene, and the candidates of `sampling`.

    Returns:
        One coordinate per gene, from 0 (lower end of the range; the first candidate) to 1. A gene with one value is at 0.5,
        and so are temperature, top-p and top-k under greedy decoding, where they have no effect.
    """
    effective = light.effective()
    places = []
    for gene, span in genes.light:
        if isinstance(span, Range):
            has_place = gene in effective and span.high > span.low
            places.append((effective[gene] - span.low) / (span.high - span.low) if has_place else 0.5)
        else:
            has_place = len(span) > 1 and effective[gene] in span
            places.append(span.index(effective[gene]) / (len(span) - 1) if has_place else 0.5)
    return np.array(places, dtype=float).clip(0.0, 1.0)


def nearest(heavy: HeavyGenes, light: LightGenes, genes: GenesConfig) -> tuple[HeavyGenes, LightGenes]:
    """The genes closest to `heavy` and `light` that a configuration allows.

    Args:
        heavy: Heavy genes; each number moves to the nearest candidate, the target modules to the candidate set with the
            largest Jaccard index, an adapter type or a scaling that is no candidate to the first one. The trainings that
            it goes on with move in the same way, and so keep its shape.
        light: Light genes; each number is clipped to its range.
        genes: Holds the candidates and ranges.

    Example:
        >>> from coral_core.genome import DEFAULT_LORA, GREEDY
        >>> heavy, light = nearest(DEFAULT_LORA.model_copy(update={"rank": 9}), GREEDY, GenesConfig())
        >>> heavy.rank in GenesConfig().heavy.rank
        True
    """
    space, ranges = genes.heavy, genes.light
    wanted = set(heavy.target_modules)
    closest: dict[str, Any] = {
        gene: min(candidates, key=lambda candidate: abs(candidate - getattr(heavy, gene)))
        for gene, candidates in space
        if gene not in NAMED
    }
    closest["target_modules"] = max(
        (module_names(name) for name in space.target_modules),
        key=lambda names: len(wanted & set(names)) / len(wanted | set(names)),
    )
    closest["adapter"] = heavy.adapter if heavy.adapter in space.adapter else space.adapter[0]
    closest["scaling"] = heavy.scaling if heavy.scaling in space.scaling else space.scaling[0]
    moved_heavy = HeavyGenes.model_validate(closest)
    if heavy.warm_start is not None:
        closest["warm_start"] = nearest(heavy.warm_start, light, genes)[0]
        moved_heavy = HeavyGenes.model_validate(closest)
    if moved_heavy == heavy.first():
        moved_heavy = heavy
    moved: dict[str, Any] = {
        gene: min(max(getattr(light, gene), span.low), span.high) for gene, span in ranges if isinstance(span, Range)
    }
    moved["sampling"] = light.sampling if light.sampling in ranges.sampling else ranges.sampling[0]
    return moved_heavy, LightGenes.model_validate(moved)
