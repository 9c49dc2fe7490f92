"""Random search: the baseline that every strategy must beat at equal budget (Bergstra and Bengio 2012)."""

from coral_core.genome import Genome
from coral_core.search.expression import GENES, heavy_genes, light_genes
from coral_core.search.randomness import generator
from coral_core.search.strategy import Search, first_genomes, genome_at


class RandomSearch(Search):
    """Draws every gene uniformly over its candidates or its range; no generation depends on earlier results."""

    def _propose(self) -> tuple[Genome, ...]:
        genomes = first_genomes(self._config, self._carried, self._default) if self.generation == 0 else []
        for slot in range(len(genomes), self._config.search.population):
            rng = generator(self._config.seed, self.generation, slot, "random")
            place = {gene: float(rng.random()) for gene in GENES}
            heavy, light = heavy_genes(place, self._config.genes), light_genes(place, self._config.genes)
            genomes.append(genome_at(self.generation, slot, heavy, light, "random"))
        return tuple(genomes)
