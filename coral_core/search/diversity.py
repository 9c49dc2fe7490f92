"""Strength of variation, adapted to recent generations so that a search does not collapse."""

from collections.abc import Sequence

from coral_core.config.tree import DiversityConfig

STRONGEST = 2.5
"""Largest factor of the adaptive mode on `strength`."""


def strength(config: DiversityConfig, unique_share: float, best_so_far: Sequence[tuple[bool, float]]) -> float:
    """Factor on the mutation rates of the next generation.

    In mode ``fixed`` it is `config.strength`. In mode ``adaptive`` it is `config.strength` times (2 - `unique_share`), times
    1.5 when the champion has not improved over the last two generations; the factor on `config.strength` is at most 2.5.

    Args:
        config: Mode and base strength.
        unique_share: Share of distinct heavy genes in the last generation, in [0, 1].
        best_so_far: For each generation told so far, whether its champion met the final thresholds, and its fitness.

    Example:
        >>> strength(DiversityConfig(), 0.5, [(True, 0.4)])
        1.5
    """
    if config.mode == "fixed":
        return config.strength
    factor = 2.0 - unique_share
    if len(best_so_far) >= 3 and best_so_far[-1] <= best_so_far[-3]:
        factor *= 1.5
    return config.strength * min(STRONGEST, factor)
