"""Four statistics of an automaton's history, each in [0, 1].

Each is smooth: a small change of the automaton causes a small change of the statistic. `expression` replaces the raw
statistics by quantiles, which spread over [0, 1].
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
    """Shannon entropy of the 2x2 windows of all grids, divided by its maximum of 4 bits.

    The whole history counts, since many automata die out and would be equal by their last steps.

    Args:
        grids: Shape (steps + 1, rows, columns), as `history` returns it.
    """
    cells = grids.astype(np.int64)
    windows = cells + 2 * np.roll(cells, -1, 1) + 4 * np.roll(cells, -1, 2) + 8 * np.roll(np.roll(cells, -1, 1), -1, 2)
    shares = np.bincount(windows.ravel(), minlength=16) / windows.size
    shares = shares[shares > 0]
    return float(np.clip(-(shares * np.log2(shares)).sum() / 4, 0, 1))


def intensity(grids: Grid) -> float:
    """Mean share of cells that change from one step to the next; `grids` as for `complexity`."""
    return float((grids[1:] != grids[:-1]).mean())


def periodicity(grids: Grid) -> float:
    """Chance-corrected agreement of the history with itself at the best lag from 1 to 6.

    It is (agreement - c) / (1 - c), clipped to [0, 1], where c is half of the agreement that two independent grids of the
    same density have on average; `grids` as for `complexity`.
    """
    best = max(float((grids[lag:] == grids[:-lag]).mean()) for lag in range(1, min(6, len(grids) - 1) + 1))
    alive = float(grids.mean())
    # half of it, since the whole agreement of chance gives 0 / 0 for an automaton without live cells
    chance = 0.5 * (alive * alive + (1 - alive) * (1 - alive))
    return float(np.clip((best - chance) / (1 - chance), 0, 1))


def convergence(grids: Grid) -> float:
    """Mean agreement of the last three grids with the first grid, in [0, 1]; `grids` as for `complexity`."""
    return float((grids[-3:] == grids[0]).mean())
