"""Random search: the baseline that every strategy must beat at equal budget."""

from collections.abc import Sequence

from coral_core.config import RunConfig
from coral_core.genome import Genome, HeavyGenes, Lineage, genome_id
from coral_core.search.archive import Archive
from coral_core.search.expression import GENES, heavy_genes, light_genes
from coral_core.search.randomness import generator
from coral_core.search.selection import champion, pareto_front
from coral_core.search.strategy import Scored, complete, first_genomes, register


@register("random")
class RandomSearch:
    """Every gene uniform over its candidates or range, every generation anew; the first may be the default LoRA and what an earlier run left."""

    def __init__(self, config: RunConfig, carried: Sequence[Genome] = (), default: HeavyGenes | None = None) -> None:
        self._config = config
        self._carried = tuple(carried)
        self._default = default
        self._archive = Archive()
        self._generation = 0

    @property
    def generation(self) -> int:
        return self._generation

    @property
    def done(self) -> bool:
        return self._generation >= self._config.search.generations

    @property
    def reason(self) -> str:
        return f"all {self._config.search.generations} generations are done" if self.done else ""

    def ask(self) -> tuple[Genome, ...]:
        genomes = first_genomes(self._config, self._carried, self._default) if self._generation == 0 else []
        for slot in range(len(genomes), self._config.search.population):
            rng = generator(self._config.seed, self._generation, slot, "random")
            place = {gene: float(rng.random()) for gene in GENES}
            genomes.append(
                Genome(
                    genome_id=genome_id(self._generation, slot),
                    generation=self._generation,
                    slot=slot,
                    heavy=heavy_genes(place, self._config.genes),
                    light=light_genes(place, self._config.genes),
                    lineage=Lineage(operator="random"),
                )
            )
        return tuple(genomes)

    def tell(self, results: Sequence[Scored]) -> None:
        self._archive.add(complete(results, self._generation, self._config.search.population))
        self._generation += 1

    def best(self) -> Scored | None:
        best = champion(self._archive.entries(), self._config.scoring)
        return best.scored() if best else None

    def front(self) -> tuple[Scored, ...]:
        return tuple(entry.scored() for entry in pareto_front(self._archive.entries(), self._config.scoring))
