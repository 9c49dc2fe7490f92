"""Random search: the baseline that every strategy must beat at equal budget (Bergstra and Bengio 2012)."""

from coral_core.genome import Genome, Lineage, genome_id
from coral_core.search.expression import GENES, heavy_genes, light_genes
from coral_core.search.randomness import generator
from coral_core.search.strategy import Search, first_genomes


class RandomSearch(Search):
    """Draws every gene uniformly over its candidates or range, in every generation anew."""

    def _propose(self) -> tuple[Genome, ...]:
        genomes = first_genomes(self._config, self._carried, self._default) if self.generation == 0 else []
        for slot in range(len(genomes), self._config.search.population):
            rng = generator(self._config.seed, self.generation, slot, "random")
            place = {gene: float(rng.random()) for gene in GENES}
            genomes.append(
                Genome(
                    genome_id=genome_id(self.generation, slot),
                    generation=self.generation,
                    slot=slot,
                    heavy=heavy_genes(place, self._config.genes),
                    light=light_genes(place, self._config.genes),
                    lineage=Lineage(operator="random"),
                )
            )
        return tuple(genomes)
