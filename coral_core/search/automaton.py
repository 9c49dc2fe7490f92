"""Cellular automata on a binary torus: the seeds of genomes.

The rules are outer-totalistic, as Conway's: the next state of a cell depends on its own state and on the number of its 8
neighbours that live. A rule has 18 bits; bit ``9 * cell + neighbours`` is the next state.
"""

import numpy as np
from numpy.typing import NDArray

from coral_core.config.tree import AutomatonConfig
from coral_core.genome import Automaton

RULE_BITS = 18

Grid = NDArray[np.uint8]


def history(automaton: Automaton) -> Grid:
    """Grids of all steps, shape (steps + 1, rows, columns), the start included.

    >>> history(Automaton(grid=((0, 1, 0), (0, 0, 0), (0, 0, 0)), rule=0, steps=2)).shape
    (3, 3, 3)
    """
    table = np.array([(automaton.rule >> bit) & 1 for bit in range(RULE_BITS)], dtype=np.uint8)
    grid = np.array(automaton.grid, dtype=np.uint8)
    grids = [grid]
    around = np.empty(
        (grid.shape[0] + 2, grid.shape[1] + 2), dtype=np.uint8
    )  # the torus and a border of its other side
    for _ in range(automaton.steps):
        around[1:-1, 1:-1] = grid
        around[0, 1:-1], around[-1, 1:-1] = grid[-1], grid[0]
        around[:, 0], around[:, -1] = around[:, -2], around[:, 1]
        rows = around[:-2] + around[1:-1] + around[2:]
        neighbours = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] - grid
        grid = table[9 * grid + neighbours]
        grids.append(grid)
    return np.stack(grids)


def draw(config: AutomatonConfig, rng: np.random.Generator) -> Automaton:
    """A random automaton: density, cells, rule and steps.

    The share of rule bits that are set is drawn first, so that quiet and busy rules both occur.

    Args:
        config: Size of the torus, ranges of density and steps.
        rng: The stream to draw from.
    """
    density = rng.uniform(config.density.low, config.density.high)
    grid = (rng.random((config.size, config.size)) < density).astype(int)
    share = rng.uniform(0.05, 0.95)
    rule = int(sum(1 << bit for bit in range(RULE_BITS) if rng.random() < share))
    steps = int(rng.integers(config.steps.low, config.steps.high + 1))
    return Automaton(grid=tuple(tuple(map(int, row)) for row in grid), rule=rule, steps=steps)
