"""Sobol search: genomes from a scrambled Sobol sequence, which fills the space more evenly than random draws.

The points are those of `scipy.stats.qmc` (Sobol 1967, scrambled after Matousek 1998), scrambled by the run seed.
"""

from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version

from coral_core.config import RunConfig
from coral_core.config.ranges import Range
from coral_core.config.tree import GenesConfig
from coral_core.genome import Genome, HeavyGenes
from coral_core.search.expression import GENES, Positions
from coral_core.search.randomness import generator
from coral_core.search.strategy import Search


class SobolSearch(Search):
    """Proposes the points of one sequence, one after the other; no generation depends on earlier results."""

    def __init__(self, config: RunConfig, carried: Sequence[Genome] = (), default: HeavyGenes | None = None) -> None:
        super().__init__(config, carried, default)
        self._points = sobol_positions(config.genes, config.seed)
        self.version = "scipy " + version("scipy")

    def propose(self) -> Iterable[Genome]:
        genomes = self.first_genomes() if self.generation == 0 else []
        for slot in range(len(genomes), self.config.search.population):
            genomes.append(self.genome(slot, next(self._points), "sobol"))
        return genomes


def sobol_positions(genes: GenesConfig, seed: int) -> Iterator[Positions]:
    """Positions of all genes along a scrambled Sobol sequence; endless.

    Args:
        genes: A gene with a single value is no dimension of the sequence; its position is 0.5.
        seed: Seed of the scrambling.

    Example:
        >>> points = sobol_positions(GenesConfig(), 0)
        >>> len(next(points)) == len(GENES)
        True
    """
    from scipy.stats import qmc  # takes a second to import

    varied = [gene for gene in GENES if _varies(gene, genes)]
    sequence = qmc.Sobol(max(1, len(varied)), scramble=True, rng=generator(seed, 0, 0, "sobol"))
    while True:
        point = sequence.random(1)[0]
        yield dict.fromkeys(GENES, 0.5) | dict(zip(varied, map(float, point), strict=False))


def _varies(gene: str, genes: GenesConfig) -> bool:
    space = getattr(genes.heavy, gene, None) or getattr(genes.light, gene)
    return space.low < space.high if isinstance(space, Range) else len(space) > 1
