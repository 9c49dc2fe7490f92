"""From features to genes: a smooth mapping with locality that reaches every candidate.

1. Each feature becomes its quantile among automata drawn from the same configuration
   (a fixed sample, drawn once from counters), so that every feature spreads over [0, 1].
2. Each gene's position is a fixed mix of the four quantiles (`MIX`), made uniform by its
   own quantile function. Neighbouring automata thus get neighbouring genes.
3. A position in [0, 1] picks a candidate (equal shares) or a value of a range.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coral_core.config.ranges import Range
from coral_core.config.tree import AutomatonConfig, GenesConfig, module_names
from coral_core.genome import Automaton, Features, HeavyGenes, LightGenes
from coral_core.search.automaton import draw
from coral_core.search.features import features
from coral_core.search.randomness import generator

SAMPLE = 768
"""Automata in the calibration sample."""

SECONDS_DRAW, SECONDS_STEP, SECONDS_CELL = 4e-4, 2e-5, 3e-8
"""Measured seconds on one core per automaton, per step and per cell of a step."""

DIGITS = 9
"""Decimals that count: the last bits of a logarithm or a sum differ between machines, genes must not."""

GENES = (*HeavyGenes.model_fields, *LightGenes.model_fields)

Positions = dict[str, float]
"""Gene name -> position in [0, 1]."""

# Rows: genes; columns: complexity, intensity, periodicity, convergence. Signed unit rows that
# together weigh the four features alike, so that distances in features become distances in genes.
MIX: NDArray[np.float64] = np.array(
    [
        [1.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
        [0.8, 0.0, 0.0, -0.6],
        [0.0, 0.8, 0.6, 0.0],
        [0.6, -0.8, 0.0, 0.0],
        [0.0, 0.0, 0.8, 0.6],
        [0.0, 0.6, 0.0, 0.8],
        [-0.6, 0.0, 0.8, 0.0],
        [0.0, 0.0, -0.6, 0.8],
        [0.8, 0.6, 0.0, 0.0],
    ]
)


def drawing_seconds(config: AutomatonConfig, automata: int) -> float:
    """About how long it takes one core to calibrate the expression and to draw so many automata, in seconds.

    >>> drawing_seconds(AutomatonConfig(), 16) < 1 < drawing_seconds(AutomatonConfig(), 10_000)
    True
    """
    steps = (config.steps.low + config.steps.high) / 2
    return (SAMPLE + automata) * (SECONDS_DRAW + steps * (SECONDS_STEP + SECONDS_CELL * config.size**2))


class Calibration:
    """Quantile functions of features and mixed positions for one automaton configuration."""

    def __init__(self, config: AutomatonConfig) -> None:
        raw = np.array([_row(features(draw(config, generator(0, 0, n, "calibration")))) for n in range(SAMPLE)])
        self._features = np.sort(raw, axis=0)
        self._mixed = np.sort(_mix(self.quantiles(raw)), axis=0)

    def quantiles(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share of the sample below each feature value (ties count half), shape of `raw`."""
        raw = np.atleast_2d(raw)
        return np.stack([_quantile(self._features[:, n], raw[:, n]) for n in range(raw.shape[1])], axis=1)

    def positions(self, found: Features) -> Positions:
        """Position of every gene in [0, 1]."""
        mixed = _mix(self.quantiles(np.array([_row(found)])))
        return {gene: float(_quantile(self._mixed[:, n], mixed[:, n])[0]) for n, gene in enumerate(GENES)}


def _mix(quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """`MIX` applied to each row, without BLAS and rounded.

    Many automata share a quantile (all that die at once); a last bit that depends on the shape of a
    product or on the machine's vector unit would tear such ties apart and give other genes.
    """
    columns = [sum(quantiles[:, n] * weight for n, weight in enumerate(row)) for row in MIX.tolist()]
    return np.round(np.stack(columns, axis=1), DIGITS)


def _quantile(ordered: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.searchsorted(ordered, values, "left")
    high = np.searchsorted(ordered, values, "right")
    return (low + high) / (2 * len(ordered))


def _row(found: Features) -> list[float]:
    values = (found.complexity, found.intensity, found.periodicity, found.convergence)
    return [round(value, DIGITS) for value in values]


@lru_cache(maxsize=8)
def calibration(config: AutomatonConfig) -> Calibration:
    return Calibration(config)


def positions(automaton: Automaton, config: AutomatonConfig) -> tuple[Features, Positions]:
    """Features of `automaton` and the gene positions they express."""
    found = features(automaton)
    return found, calibration(config).positions(found)


def choice(position: float, count: int) -> int:
    """Index of the candidate at `position` in [0, 1]; every candidate has an equal share.

    >>> [choice(position, 4) for position in (0.0, 0.3, 1.0)]
    [0, 1, 3]
    """
    return min(count - 1, max(0, int(position * count)))


def heavy_genes(place: Positions, genes: GenesConfig) -> HeavyGenes:
    """The heavy genes at `place`, picked from the candidates of `genes`."""
    picked = {gene: candidates[choice(place[gene], len(candidates))] for gene, candidates in genes.heavy}
    return HeavyGenes.model_validate(picked | {"target_modules": module_names(picked["target_modules"])})


def light_genes(place: Positions, genes: GenesConfig) -> LightGenes:
    """The light genes at `place`; real values are rounded to 3 decimals."""
    picked = {gene: round(span.at(place[gene]), 3) for gene, span in genes.light if isinstance(span, Range)}
    sampling = genes.light.sampling[choice(place["sampling"], len(genes.light.sampling))]
    return LightGenes.model_validate(picked | {"sampling": sampling})


def coordinates(heavy: HeavyGenes, genes: GenesConfig) -> NDArray[np.float64]:
    """Where heavy genes lie among their candidates: per gene 0 for the first, 1 for the last; in between for a foreign value."""
    places = []
    for gene, candidates in genes.heavy:
        value = getattr(heavy, gene)
        if gene not in ("target_modules", "adapter"):
            ordered = len(candidates) > 1
            places.append(np.interp(value, candidates, np.linspace(0, 1, len(candidates))) if ordered else 0.5)
            continue
        options = [module_names(name) for name in candidates] if gene == "target_modules" else list(candidates)
        known = len(options) > 1 and value in options
        places.append(options.index(value) / (len(options) - 1) if known else 0.5)
    return np.array(places, dtype=float)


def nearest(heavy: HeavyGenes, light: LightGenes, genes: GenesConfig) -> tuple[HeavyGenes, LightGenes]:
    """The genes closest to `heavy` and `light` that `genes` allows.

    Numbers go to the nearest candidate or into their range, target modules to the set with the largest Jaccard index.
    """
    space, ranges = genes.heavy, genes.light
    wanted = set(heavy.target_modules)
    closest: dict[str, Any] = {
        gene: min(candidates, key=lambda candidate: abs(candidate - getattr(heavy, gene)))
        for gene, candidates in space
        if gene not in ("target_modules", "adapter")
    }
    closest["target_modules"] = max(
        (module_names(name) for name in space.target_modules),
        key=lambda names: len(wanted & set(names)) / len(wanted | set(names)),
    )
    closest["adapter"] = heavy.adapter if heavy.adapter in space.adapter else space.adapter[0]
    moved: dict[str, Any] = {
        gene: min(max(getattr(light, gene), span.low), span.high) for gene, span in ranges if isinstance(span, Range)
    }
    moved["sampling"] = light.sampling if light.sampling in ranges.sampling else ranges.sampling[0]
    return HeavyGenes.model_validate(closest), LightGenes.model_validate(moved)
