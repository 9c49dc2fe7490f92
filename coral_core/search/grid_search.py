"""Grid search: all combinations of the candidates of heavy genes, decoded with the default light genes.

The order is a permutation drawn from the run seed, as in Optuna's GridSampler. A budget below the size of the grid then
tries a uniform sample without repeats; in the order of the candidates it would try small ranks only. Light genes stay at
their defaults, because a range has no natural levels and every further level multiplies the grid.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from coral_core.config import RunConfig
from coral_core.genome import Genome, HeavyGenes
from coral_core.search.archive import Scored
from coral_core.search.randomness import generator
from coral_core.search.strategy import Search, first_genome, genome_at


class GridSearch(Search):
    """Proposes every combination of heavy genes once, and ends when there is none left."""

    def __init__(self, config: RunConfig, carried: Sequence[Genome] = (), default: HeavyGenes | None = None) -> None:
        super().__init__(config, carried, default)
        self._light = first_genome(config, default).light
        self._cells = self._shuffled_cells()
        self._first: set[str] = set()
        """Adapters of the first genomes that are cells of the grid."""
        self._are_cells: list[bool] = []
        """Whether each genome of the current generation is a cell, by slot."""
        self._tried = 0

    def propose(self) -> Iterable[Genome]:
        genomes: list[Genome] = []
        if self.generation == 0:
            genomes = self.first_genomes()
        self._are_cells = [
            genome.light.digest() == self._light.digest()
            and genome.heavy.repeat == 0
            and genome.heavy.warm_start is None
            for genome in genomes
        ]
        if genomes:
            self._first = {each.heavy.digest() for each, cell in zip(genomes, self._are_cells, strict=True) if cell}
        while len(genomes) < self.config.search.population and (heavy := next(self._cells, None)) is not None:
            if heavy.digest() not in self._first:
                genomes.append(genome_at(self.generation, len(genomes), heavy, self._light, "grid"))
                self._are_cells.append(True)
        return genomes

    def learn(self, results: Sequence[Scored]) -> None:
        self._tried += sum(self._are_cells[: len(results)])

    def stop(self) -> str:
        cells = self._space.adapters
        return f"all {cells} adapters of the grid were tried" if self._tried >= cells else ""

    def _shuffled_cells(self) -> Iterator[HeavyGenes]:
        values = self._space.heavy
        sizes = tuple(len(each) for each in values.values())
        for number in shuffled(math.prod(sizes), generator(self.config.seed, 0, 0, "grid")):
            places = np.unravel_index(number, sizes)
            yield HeavyGenes.model_validate(
                {gene: each[place] for (gene, each), place in zip(values.items(), places, strict=True)}
            )


def shuffled(count: int, rng: np.random.Generator) -> Iterator[int]:
    """The numbers below `count` in random order, in memory proportional to those taken (Fisher and Yates).

    Args:
        count: From 1 to 2**62.
        rng: The stream to draw from.

    Example:
        >>> sorted(shuffled(4, np.random.default_rng(0)))
        [0, 1, 2, 3]
    """
    moved: dict[int, int] = {}
    for place in range(count):
        other = int(rng.integers(place, count))
        yield moved.get(other, other)
        moved[other] = moved.pop(place, place)
