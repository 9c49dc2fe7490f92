"""Keeps a search from collapsing: how strongly to vary, given what it did lately."""

from collections.abc import Sequence

from coral_core.config.tree import DiversityConfig

WEAKEST, STRONGEST = 0.5, 2.5


def strength(config: DiversityConfig, unique_share: float, best_so_far: Sequence[float]) -> float:
    """Factor on the mutation rates.

    fixed: `config.strength`. adaptive: that, times (2 - unique share of heavy genes in the
    last generation), times 1.5 when the best fitness has not risen over the last two
    generations; kept within [0.5, 2.5].
    """
    if config.mode == "fixed":
        return config.strength
    factor = 2.0 - unique_share
    if len(best_so_far) >= 3 and best_so_far[-1] <= best_so_far[-3]:
        factor *= 1.5
    return min(STRONGEST, max(WEAKEST, config.strength * factor))
