"""Paired comparison of two adapters on the same bugs.

Only discordant bugs, which one of the two repairs more often than the other, tell which is
better. The exact two-sided sign test (McNemar with one sample per bug) counts them.

    >>> round(sign_test(9, 1), 4)
    0.0215
    >>> resolution(10)
    8
"""

import math
import statistics
from collections.abc import Mapping, Sequence

from coral_core.report.content import Gap

LEVEL = 0.05


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided sign test.

    Args:
        wins: Bugs that the first adapter repairs more often.
        losses: Bugs that the second adapter repairs more often.

    Returns:
        The p value under the hypothesis that wins and losses are equally likely; 1.0 without discordant bugs.
    """
    total = wins + losses
    tail = sum(math.comb(total, k) for k in range(min(wins, losses) + 1))
    return min(1.0, float(2 * tail / 2**total))


def resolution(discordant: int) -> int | None:
    """Smallest |wins - losses| among `discordant` bugs that gives p < 0.05; None if no split of them does."""
    for losses in range(discordant // 2, -1, -1):
        if sign_test(discordant - losses, losses) < LEVEL:
            return discordant - 2 * losses
    return None


def interval(wins: int, losses: int, bugs: int) -> tuple[float, float]:
    """95 % interval of the paired difference of two shares: Wald with half a bug added per cell (Agresti and Min 2005).

    Args:
        wins: Bugs that only the first adapter repairs.
        losses: Bugs that only the second adapter repairs.
        bugs: All bugs compared, discordant or not.

    Returns:
        Lower and upper end, in [-1, 1].

    Example:
        >>> low, high = interval(wins=30, losses=14, bugs=285)
        >>> f"{low:+.3f} to {high:+.3f}"
        '+0.010 to +0.101'
    """
    b, c, n = wins + 0.5, losses + 0.5, bugs + 2
    difference = (b - c) / n
    spread = 1.959964 * math.sqrt(max(0.0, (b + c) - (b - c) ** 2 / n)) / n
    return max(-1.0, difference - spread), min(1.0, difference + spread)


def share_interval(share: float, bugs: int) -> tuple[float, float]:
    """95 % interval of a share of repaired bugs (Wilson 1927).

    Args:
        share: Repaired bugs, in [0, 1].
        bugs: All bugs, at least 1.

    Example:
        >>> low, high = share_interval(5 / 16, 16)
        >>> f"{low:.2f} to {high:.2f}"
        '0.14 to 0.56'
    """
    z = 1.959964
    centre, denominator = share + z * z / (2 * bugs), 1 + z * z / bugs
    half = z * math.sqrt(share * (1 - share) / bugs + z * z / (4 * bugs * bugs))
    return max(0.0, (centre - half) / denominator), min(1.0, (centre + half) / denominator)


def mean_interval(differences: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of paired differences in [-1, 1] (normal approximation)."""
    mean = statistics.fmean(differences)
    half = 1.959964 * statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 1.0
    return max(-1.0, mean - half), min(1.0, mean + half)


def compare(difference: float, champion: Mapping[str, float] | None, other: Mapping[str, float] | None) -> Gap:
    """The gap between two evaluations by bug.

    Args:
        difference: Difference of pass@1 in the history; used if an evaluation is no longer in the store.
        champion: Bug -> share of samples that repair it, in [0, 1] (0 or 1 with one sample per bug); None if the
            evaluation is no longer in the store.
        other: The same for the other adapter, over the same bugs.
    """
    if champion is None or other is None:
        return Gap(difference=difference, verdict="unknown")
    differences = [share - other.get(bug, 0.0) for bug, share in champion.items()]
    wins, losses = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
    p_value, mean = sign_test(wins, losses), math.fsum(differences) / max(1, len(differences))
    # with several samples a bug, many small losses may outweigh few large wins: then neither is better
    clear = p_value < LEVEL and (wins - losses) * mean > 0
    all_or_nothing = {abs(value) for value in differences} <= {0.0, 1.0}
    return Gap(
        difference=mean,
        bugs=len(differences),
        only_champion=wins,
        only_other=losses,
        p_value=p_value,
        interval=interval(wins, losses, len(differences)) if all_or_nothing else mean_interval(differences),
        resolution=resolution(wins + losses),
        distinguishable=clear,
        verdict=("better" if wins > losses else "worse") if clear else "not distinguishable",
    )
