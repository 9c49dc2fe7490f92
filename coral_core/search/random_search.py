"""Random search: the baseline that every strategy must beat at equal budget (Bergstra and Bengio 2012)."""

from collections.abc import Iterable

from coral_core.genome import Genome
from coral_core.search.expression import GENES
from coral_core.search.randomness import generator
from coral_core.search.strategy import Search


class RandomSearch(Search):
    """Draws every gene uniformly over its candidates or its range; no generation depends on earlier results."""

    def propose(self) -> Iterable[Genome]:
        genomes = self.first_genomes() if self.generation == 0 else []
        for slot in range(len(genomes), self.config.search.population):
            rng = generator(self.config.seed, self.generation, slot, "random")
            genomes.append(self.genome(slot, {gene: float(rng.random()) for gene in GENES}, "random"))
        return genomes
