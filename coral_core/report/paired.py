"""Paired comparison of two adapters on the same bugs.

Only bugs that one of the two repairs and the other does not say anything about which is
better; the exact two-sided sign test (McNemar) counts those.

    >>> round(sign_test(9, 1), 4)
    0.0215
    >>> resolution(10)
    8
"""

import math
from collections.abc import Collection

from coral_core.report.content import Gap

LEVEL = 0.05


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided p value of `wins` against `losses` when both are equally likely."""
    total = wins + losses
    tail = sum(math.comb(total, k) for k in range(min(wins, losses) + 1))
    return min(1.0, float(2 * tail / 2**total))


def resolution(discordant: int) -> int | None:
    """Smallest |wins - losses| among `discordant` bugs with p < 0.05; None when none reaches it."""
    for losses in range(discordant // 2, -1, -1):
        if sign_test(discordant - losses, losses) < LEVEL:
            return discordant - 2 * losses
    return None


def interval(wins: int, losses: int, bugs: int) -> tuple[float, float]:
    """95 % interval of the paired difference: Wald with half a bug added per cell (Agresti and Min 2005)."""
    b, c, n = wins + 0.5, losses + 0.5, bugs + 2
    difference = (b - c) / n
    spread = 1.959964 * math.sqrt(max(0.0, (b + c) - (b - c) ** 2 / n)) / n
    return max(-1.0, difference - spread), min(1.0, difference + spread)


def compare(
    difference: float, champion: Collection[str] | None, other: Collection[str] | None, bugs: Collection[str]
) -> Gap:
    """The gap between two sets of repaired bugs; None stands for an evaluation that has left the store."""
    if champion is None or other is None:
        return Gap(
            difference=difference, bugs=None, only_champion=None, only_other=None, p_value=None,
            interval=None, resolution=None, distinguishable=None, verdict="unknown",
        )  # fmt: skip
    ours, theirs = set(champion) & set(bugs), set(other) & set(bugs)
    wins, losses = len(ours - theirs), len(theirs - ours)
    p_value = sign_test(wins, losses)
    clear = p_value < LEVEL
    return Gap(
        difference=difference,
        bugs=len(bugs),
        only_champion=wins,
        only_other=losses,
        p_value=p_value,
        interval=interval(wins, losses, len(bugs)),
        resolution=resolution(wins + losses),
        distinguishable=clear,
        verdict=("better" if wins > losses else "worse") if clear else "not distinguishable",
    )
