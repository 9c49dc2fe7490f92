"""Cellular automata on a binary torus: the seeds of genomes.

The rules are outer-totalistic, like Conway's Game of Life: the next state of a cell depends on its own state and on the
number of live cells among its 8 neighbours. A rule has 18 bits; bit ``9 * cell + neighbours`` is the next state.
"""

import numpy as np
from numpy.typing import NDArray

from coral_core.config.tree import AutomatonConfig
from coral_core.genome import Automaton

RULE_BITS = 18

Grid = NDArray[np.uint8]


def history(automaton: Automaton) -> Grid:
    """Run `automaton` and return its grids.

    Returns:
        Array of 0 and 1 of shape (steps + 1, rows, columns); the first grid is the initial one.

    Example:
        >>> history(Automaton(grid=((0, 1, 0), (0, 0, 0), (0, 0, 0)), rule=0, steps=2)).shape
        (3, 3, 3)
    """
    table = np.array([(automaton.rule >> bit) & 1 for bit in range(RULE_BITS)], dtype=np.uint8)
    grid = np.array(automaton.grid, dtype=np.uint8)
    grids = [grid]
    padded = np.empty((grid.shape[0] + 2, grid.shape[1] + 2), dtype=np.uint8)  # the grid and a wrapped border
    for _ in range(automaton.steps):
        padded[1:-1, 1:-1] = grid
        padded[0, 1:-1], padded[-1, 1:-1] = grid[-1], grid[0]
        padded[:, 0], padded[:, -1] = padded[:, -2], padded[:, 1]
        rows = padded[:-2] + padded[1:-1] + padded[2:]
        neighbours = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] - grid
        grid = table[9 * grid + neighbours]
        grids.append(grid)
    return np.stack(grids)


def draw(config: AutomatonConfig, rng: np.random.Generator) -> Automaton:
    """A random automaton: its cells, rule and number of steps.

    The density of live cells and the share of set rule bits are drawn first, so that sparse and dense grids and quiet and
    busy rules all occur.

    Args:
        config: Side of the square torus in cells, ranges of density and steps.
        rng: The stream to draw from.
    """
    density = rng.uniform(config.density.low, config.density.high)
    grid = (rng.random((config.size, config.size)) < density).astype(int)
    share = rng.uniform(0.05, 0.95)
    rule = int(sum(1 << bit for bit in range(RULE_BITS) if rng.random() < share))
    steps = int(rng.integers(config.steps.low, config.steps.high + 1))
    return Automaton(grid=tuple(tuple(map(int, row)) for row in grid), rule=rule, steps=steps)
