"""Four statistics of an automaton's history, each in [0, 1].

Each is smooth: a small change of the automaton changes it a little. `expression` spreads the raw statistics over [0, 1].
"""

import numpy as np

from coral_core.genome import Automaton, Features
from coral_core.search.automaton import Grid, history


def features(automaton: Automaton) -> Features:
    """The four features of `automaton`.

    >>> still = Automaton(grid=((0, 0, 0),) * 3, rule=0, steps=4)
    >>> features(still).intensity, features(still).convergence
    (0.0, 1.0)
    """
    grids = history(automaton)
    return Features(
        complexity=complexity(grids),
        intensity=intensity(grids),
        periodicity=periodicity(grids),
        convergence=convergence(grids),
    )


def complexity(grids: Grid) -> float:
    """Entropy of the 2x2 windows of the history, over its maximum of 4 bits.

    The whole history counts: many automata die out, and would be equal by their last steps alone.
    """
    last = grids.astype(np.int64)
    windows = last + 2 * np.roll(last, -1, 1) + 4 * np.roll(last, -1, 2) + 8 * np.roll(np.roll(last, -1, 1), -1, 2)
    shares = np.bincount(windows.ravel(), minlength=16) / windows.size
    shares = shares[shares > 0]
    return float(np.clip(-(shares * np.log2(shares)).sum() / 4, 0, 1))


def intensity(grids: Grid) -> float:
    """Mean share of cells that change from one step to the next."""
    return float((grids[1:] != grids[:-1]).mean())


def periodicity(grids: Grid) -> float:
    """How much better the best lag of 1 to 6 predicts the history than half of chance does: (agreement - c) / (1 - c)."""
    last = grids
    best = max(float((last[lag:] == last[:-lag]).mean()) for lag in range(1, min(6, len(last) - 1) + 1))
    alive = float(last.mean())
    # c is half of what chance agrees on: all of it would make 0 / 0 of an automaton that dies at once
    chance = 0.5 * (alive * alive + (1 - alive) * (1 - alive))
    return float(np.clip((best - chance) / (1 - chance), 0, 1))


def convergence(grids: Grid) -> float:
    """Mean agreement of the last three grids with the first, in [0, 1]."""
    return float((grids[-3:] == grids[0]).mean())
