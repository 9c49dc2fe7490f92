"""Statistics of comparisons over seeds: Wilcoxon's signed-rank test, Vargha and Delaney's A12, intervals of medians.

Everything is exact or has a fixed seed: equal numbers give an equal text. No distribution of the values is assumed, since scores
of champions are bounded, skewed and tied. Not covered: tests between more than two strategies at once (Friedman); with a named baseline,
Holm's correction of the pairwise tests answers the question.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
"""A p value below this is a difference."""
DIGITS = 12
"""Values that agree to so many decimals are ties: they differ by rounding only."""
RESAMPLES = 2000
Values = NDArray[np.float64]


class Interval(NamedTuple):
    """An interval of a quantity."""

    low: float
    high: float
    confidence: float
    """Probability, before the data are seen, that the interval holds the quantity; in [0, 1]."""


def wilcoxon(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Two-sided p value of Wilcoxon's signed-rank test on pairs (Wilcoxon 1945).

    Pairs without a difference are left out. The distribution is exact for any number of pairs, with ties too: all
    2^n assignments of signs to the midranks are counted, by convolution.

    Args:
        ours: One value per seed; finite.
        theirs: The values of the other strategy, with the same seeds in the same order.

    Returns:
        1.0 when no pair differs.

    Raises:
        ValueError: the lengths differ, or a value is not finite.

    Example:
        >>> wilcoxon([6, 7, 8, 9, 10, 11], [1, 2, 3, 4, 5, 5])  # 6 pairs, all in one direction: 2 / 2**6
        0.03125
    """
    differences = np.round(_paired(ours, theirs), DIGITS)
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    _, places, counts = np.unique(np.abs(differences), return_inverse=True, return_counts=True)
    doubled = (2 * np.cumsum(counts) - counts + 1)[places]  # twice the midrank, which is a whole number
    chances = np.zeros(int(doubled.sum()) + 1)
    chances[0] = 1.0
    for rank in doubled:
        with_rank = np.zeros_like(chances)
        with_rank[rank:] = chances[: len(chances) - rank]
        chances = (chances + with_rank) / 2
    observed = int(doubled[differences > 0].sum())
    tail = min(chances[: observed + 1].sum(), chances[observed:].sum())
    return float(min(1.0, 2 * tail))


def signed_ranks(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Sum of the signed midranks of the differences, which Wilcoxon's test is about: positive where ours are higher.

    The median difference may have another sign, for example where many pairs are equal.

    Args:
        ours: One value per seed; finite.
        theirs: The values of the other strategy, with the same seeds in the same order.

    Raises:
        ValueError: the lengths differ, or a value is not finite.

    Example:
        >>> signed_ranks([0, 0, 0, 5], [0.1, 0, 0, 0])
        1.0
    """
    differences = np.round(_paired(ours, theirs), DIGITS)
    differences = differences[differences != 0]
    _, places, counts = np.unique(np.abs(differences), return_inverse=True, return_counts=True)
    midranks = ((2 * np.cumsum(counts) - counts + 1) / 2)[places]
    return float((midranks * np.sign(differences)).sum())


def smallest_p(pairs: int) -> float:
    """The smallest p value that Wilcoxon's test can give for a number of pairs.

    >>> smallest_p(5), smallest_p(6)
    (0.0625, 0.03125)
    """
    return float(min(1.0, 2.0 ** (1 - pairs)))


def a12(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Vargha and Delaney's A12: the probability that a value of ours is larger than one of theirs, ties counted half.

    0.5 is no difference; 0.56, 0.64 and 0.71 are a small, a medium and a large one (Vargha and Delaney 2000).

    Args:
        ours: One value per seed; finite.
        theirs: The values of the other strategy; their number may differ.

    Raises:
        ValueError: one of the two is empty, or a value is not finite.

    Example:
        >>> a12([2, 3, 4], [1, 2, 3])
        0.7777777777777778
    """
    return float(_wins(_finite(ours), _finite(theirs)).mean())


def a12_interval(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """95 % bootstrap interval of A12: percentiles over resampled seeds, with a fixed seed (Efron 1979).

    Args:
        ours: One value per seed.
        theirs: The values of the other strategy, with the same seeds in the same order; pairs are resampled as such.

    Raises:
        ValueError: as `wilcoxon`; or there are fewer than two pairs.
    """
    count = len(_paired(ours, theirs))
    if count < 2:
        raise ValueError(f"{count} pairs are too few to resample")
    wins = _wins(_finite(ours), _finite(theirs))
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    resampled = np.einsum("ri,ij,rj->r", weights, wins, weights, optimize=True)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(low), float(high), 0.95)


def effect(value: float) -> str:
    """Size of an A12 in words, by the thresholds of Vargha and Delaney (2000).

    >>> effect(0.5), effect(0.66), effect(0.2)
    ('negligible', 'medium', 'large')
    """
    distance = round(abs(value - 0.5), DIGITS)
    return next(
        (name for most, name in ((0.06, "negligible"), (0.14, "small"), (0.21, "medium")) if distance < most), "large"
    )


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Exact interval of a median without assumptions: two order statistics, by the sign test (Thompson 1936).

    Args:
        values: One value per seed; at least one, all finite.
        confidence: Confidence asked for, in (0, 1). Fewer than 6 values cannot give 95 %: their whole range is returned, with
            the confidence that it has (75 % for 3, 0 for 1).

    Returns:
        The narrowest interval between symmetric order statistics that has the confidence asked for.

    Raises:
        ValueError: there is no value, or one is not finite.

    Example:
        >>> median_interval([1, 2, 3, 4, 5, 6])
        Interval(low=1.0, high=6.0, confidence=0.96875)
        >>> median_interval([5, 7, 6])
        Interval(low=5.0, high=7.0, confidence=0.75)
    """
    ordered = np.sort(_finite(values))
    count = len(ordered)
    below = 0.0  # chance that fewer than `place` values lie below the median
    place = 0
    while place + 1 <= (count - 1) // 2:
        following = below + math.exp(_log_chance(count, place))
        if 1 - 2 * (following + math.exp(_log_chance(count, place + 1))) < confidence:
            break
        below, place = following, place + 1
    missed = 2 * (below + math.exp(_log_chance(count, place)))
    return Interval(float(ordered[place]), float(ordered[count - 1 - place]), max(0.0, 1 - missed))


def _log_chance(count: int, number: int) -> float:
    """Logarithm of the chance that exactly `number` of `count` values lie below the median."""
    return math.lgamma(count + 1) - math.lgamma(number + 1) - math.lgamma(count - number + 1) - count * math.log(2)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for the number of tests, step-down (Holm 1979); in the order given.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[number]))
        corrected[number] = highest
    return corrected


def _finite(values: Sequence[float]) -> Values:
    found = np.asarray(values, dtype=float)
    if not len(found) or not np.isfinite(found).all():
        raise ValueError(f"one finite number per seed is needed, not {list(values)[:5]}")
    return found


def _paired(ours: Sequence[float], theirs: Sequence[float]) -> Values:
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} values are no pairs")
    return _finite(ours) - _finite(theirs)


def _wins(ours: Values, theirs: Values) -> Values:
    """1 where ours is larger, 0.5 where it is equal, 0 elsewhere; shape (ours, theirs)."""
    difference = np.round(ours[:, None] - theirs[None, :], DIGITS)
    return np.asarray((np.sign(difference) + 1) / 2, dtype=float)
