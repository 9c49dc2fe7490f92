"""The interface of every search strategy (ask and tell), and the first genomes of a run."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from coral_core.config import RunConfig
from coral_core.genome import (
    Automaton,
    Features,
    Genome,
    HeavyGenes,
    LightGenes,
    Lineage,
    default_lora,
    genome_id,
    neutral,
)
from coral_core.search.archive import Entry, Scored
from coral_core.search.expression import nearest
from coral_core.search.selection import champion, pareto_front

__all__ = ["Scored", "Search", "complete", "first_genome", "first_genomes", "make_search"]


class Search(ABC):
    """Proposes genomes (ask) and learns from their results (tell), one generation after the other.

    Equal configurations and equal results give equal genomes, in whatever order the results of a generation are told.

    Args:
        config: The configuration; `config.seed` is the seed of all draws.
        carried: Genomes of an earlier run, best first, whose genes the first population begins with.
        default: The default LoRA of the base model; None stands for that of Llama-like models.
    """

    def __init__(self, config: RunConfig, carried: Sequence[Genome] = (), default: HeavyGenes | None = None) -> None:
        self._config = config
        self._carried = tuple(carried)
        self._default = default
        self._entries: list[Entry] = []
        """All results, in the order of genome ids."""
        self._distinct: dict[str, Entry] = {}
        """Digest of genes -> the first result of a genome that has them."""
        self._adapters: set[str] = set()
        """Digests of the heavy genes of all results: the trainings that were spent."""
        self._asked: tuple[Genome, ...] | None = None
        self.generation = 0
        """Number of the generation that `ask` gives, from 0."""

    @property
    def reason(self) -> str:
        """Why the search is done, in words; empty while it is not."""
        search = self._config.search
        if search.trainings is not None and len(self._adapters) >= search.trainings:
            return f"all {search.trainings} trainings are spent"
        return f"all {search.generations} generations are done" if self.generation >= search.generations else ""

    @property
    def done(self) -> bool:
        """True when there is no further generation to ask for."""
        return bool(self.reason)

    def ask(self) -> tuple[Genome, ...]:
        """The genomes of the current generation; asking twice gives the same ones.

        With `search.trainings` the last generation ends before the first genome that would need one adapter too many.
        """
        if self._asked is None:
            self._asked = self._affordable(self._propose())
        return self._asked

    def _affordable(self, genomes: tuple[Genome, ...]) -> tuple[Genome, ...]:
        if (limit := self._config.search.trainings) is None:
            return genomes
        adapters = set(self._adapters)
        for slot, genome in enumerate(genomes):
            adapters.add(genome.heavy.digest())
            if len(adapters) > limit:
                return genomes[:slot]
        return genomes

    @abstractmethod
    def _propose(self) -> tuple[Genome, ...]:
        """Draw the genomes of the current generation."""

    def tell(self, results: Sequence[Scored]) -> None:
        """Add the results of the current generation; `ask` then gives the next one.

        Args:
            results: One result for each genome that `ask` gave, in any order.

        Raises:
            ValueError: a genome is missing, unknown or repeated.
        """
        population = self._config.search.population if self._asked is None else len(self._asked)
        for scored in complete(results, self.generation, population):
            entry = Entry.of(scored)
            self._adapters.add(scored.genome.heavy.digest())
            self._entries.append(entry)
            self._distinct.setdefault(entry.genes, entry)
        self.generation += 1
        self._asked = None

    def best(self) -> Scored | None:
        """The champion so far: fittest of those that meet the final thresholds (of all, when none does)."""
        best = self._champion()
        return best.scored() if best else None

    def front(self) -> tuple[Scored, ...]:
        """The Pareto front of everything told so far, by genome id."""
        return tuple(entry.scored() for entry in pareto_front(self._entries, self._config.scoring))

    def _champion(self) -> Entry | None:
        return champion(self._entries, self._config.scoring)


def complete(results: Sequence[Scored], generation: int, population: int) -> list[Scored]:
    """Check that the results of a generation are complete, and sort them by genome id.

    Args:
        results: In any order.
        generation: Number of the generation, from 0.
        population: Genomes of this generation.

    Raises:
        ValueError: a genome is missing, of another generation, or repeated. Without this check the next generation would
            silently differ.
    """
    ordered = sorted(results, key=lambda item: item.genome_id)
    expected = sorted(genome_id(generation, slot) for slot in range(population))
    given = [item.genome_id for item in ordered]
    if given != expected:
        wrong = sorted(set(given) ^ set(expected)) or sorted({name for name in given if given.count(name) > 1})
        raise ValueError(
            f"generation {generation} has {population} genomes and {len(given)} results; missing, foreign or "
            f"repeated: {', '.join(wrong[:5])}. Tell the results of exactly the genomes that ask() gave."
        )
    return ordered


def genome_at(
    generation: int,
    slot: int,
    heavy: HeavyGenes,
    light: LightGenes,
    operator: str,
    parents: tuple[str, ...] = (),
    automaton: Automaton | None = None,
    features: Features | None = None,
) -> Genome:
    """The genome of one slot of a generation.

    Args:
        generation: Number of the generation, from 0.
        slot: Place in the generation, from 0.
        heavy: Its heavy genes.
        light: Its light genes.
        operator: Name of the operator that made it (`Lineage.operator`).
        parents: Genome ids of its parents; empty for a seed or a random genome.
        automaton: The automaton that expresses its genes; None when there is none.
        features: Features of that automaton.
    """
    return Genome(
        genome_id=genome_id(generation, slot),
        generation=generation,
        slot=slot,
        heavy=heavy,
        light=light,
        automaton=automaton,
        features=features,
        lineage=Lineage(parents=parents, operator=operator),
    )


def first_genome(config: RunConfig, default: HeavyGenes | None = None) -> Genome:
    """The default LoRA with greedy decoding, moved to the nearest candidates (`search.start_with_default`).

    Args:
        config: Holds the candidates.
        default: The default LoRA of the base model; None stands for that of Llama-like models.

    Example:
        >>> genome = first_genome(RunConfig())
        >>> genome.genome_id, genome.heavy.rank, genome.light.sampling, genome.lineage.operator
        ('g000-000', 8, False, 'default')
    """
    wanted = default or default_lora(config.base_model.name)
    heavy, light = nearest(wanted, neutral(config.genes.light.token_limit.high), config.genes)
    return genome_at(0, 0, heavy, light, "default")


def first_genomes(config: RunConfig, carried: Sequence[Genome] = (), default: HeavyGenes | None = None) -> list[Genome]:
    """The first genomes of a first population: the default LoRA, if configured, then genomes of an earlier run.

    The strategy fills the remaining slots.

    Args:
        config: Holds the candidates and the population size.
        carried: Genomes of an earlier run, best first. They move to the nearest candidates and keep their automata; equal
            genes are taken once, and no more than `survival_rate` of the population (at least 2).
        default: The default LoRA of the base model; None stands for that of Llama-like models.
    """
    search = config.search
    genomes = [first_genome(config, default)] if search.start_with_default else []
    room = min(search.population, len(genomes) + max(2, int(search.survival_rate * search.population)))
    taken = {genome.genes_digest() for genome in genomes}
    for old in carried:
        heavy, light = nearest(old.heavy, old.light, config.genes)
        genome = genome_at(0, len(genomes), heavy, light, "carried", (old.genome_id,), old.automaton, old.features)
        if genome.genes_digest() in taken or len(genomes) >= room:
            continue
        taken.add(genome.genes_digest())
        genomes.append(genome)
    return genomes


def make_search(config: RunConfig, carried: Sequence[Genome] = (), default: HeavyGenes | None = None) -> Search:
    """The strategy that `config.search.strategy` names.

    Args:
        config: Configuration whose target modules are those of the base model (`coral_core.lm.targets.for_model`).
        carried: Genomes of an earlier run, best first, whose genes the first population begins with.
        default: The default LoRA of the base model; None stands for that of Llama-like models.

    Example:
        >>> from coral_core.config import parse_config
        >>> search = make_search(parse_config("search: {population: 4, generations: 1}", "example"))
        >>> genomes = search.ask()
        >>> search.tell([Scored(genome=genome, scores={"bugfix": 0.5}, fitness=0.5) for genome in genomes])
        >>> len(genomes), search.done, search.reason
        (4, True, 'all 1 generations are done')
    """
    from coral_core.search.evolution import EvolutionSearch
    from coral_core.search.random_search import RandomSearch

    strategies = {"evolution": EvolutionSearch, "random": RandomSearch}
    return strategies[config.search.strategy](config, carried, default)
