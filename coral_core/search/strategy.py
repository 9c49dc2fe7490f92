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
    """Proposes genomes and is told their results. Equal results give equal genomes, in whatever order they are told.

    Args:
        config: The configuration; `config.seed` is the seed of all draws.
        carried: Genomes of an earlier run, best first, whose genes the first population begins with.
        default: The default LoRA of the base model; None: that of Llama-like models.
    """

    def __init__(self, config: RunConfig, carried: Sequence[Genome] = (), default: HeavyGenes | None = None) -> None:
        self._config = config
        self._carried = tuple(carried)
        self._default = default
        self._entries: list[Entry] = []
        """All results, in the order of genome ids."""
        self._distinct: dict[str, Entry] = {}
        """Digest of genes -> the first result of a genome that has them."""
        self._asked: tuple[Genome, ...] | None = None
        self.generation = 0
        """Number of the generation that `ask` gives, from 0."""

    @property
    def reason(self) -> str:
        """Why the search is done, in words; empty while it is not."""
        generations = self._config.search.generations
        return f"all {generations} generations are done" if self.generation >= generations else ""

    @property
    def done(self) -> bool:
        """True when there is no further generation to ask for."""
        return bool(self.reason)

    def ask(self) -> tuple[Genome, ...]:
        """The genomes of the current generation; asking twice gives the same ones."""
        if self._asked is None:
            self._asked = self._propose()
        return self._asked

    @abstractmethod
    def _propose(self) -> tuple[Genome, ...]:
        """Draw the genomes of the current generation."""

    def tell(self, results: Sequence[Scored]) -> None:
        """Take the results of all genomes of the current generation. Raises `ValueError` as `complete`."""
        for scored in complete(results, self.generation, self._config.search.population):
            entry = Entry.of(scored)
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
    """`results` by genome id, when they are those of all genomes of `generation`, each once.

    Raises:
        ValueError: for a missing, foreign or repeated genome: the next generation would silently be another one.
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
    """The genome of a slot, made by `operator`."""
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
    """The default LoRA decoded greedily, or the nearest to it among the candidates (`search.start_with_default`).

    Args:
        config: Holds the candidates.
        default: The default LoRA of the base model; None: that of Llama-like models.

    Example:
        >>> genome = first_genome(RunConfig())
        >>> genome.genome_id, genome.heavy.rank, genome.light.sampling, genome.lineage.operator
        ('g000-000', 8, False, 'default')
    """
    wanted = default or default_lora(config.base_model.name)
    heavy, light = nearest(wanted, neutral(config.genes.light.token_limit.high), config.genes)
    return genome_at(0, 0, heavy, light, "default")


def first_genomes(config: RunConfig, carried: Sequence[Genome] = (), default: HeavyGenes | None = None) -> list[Genome]:
    """The beginning of a first population: the default LoRA, when configured, then genomes of an earlier run.

    `carried` genomes are moved to the nearest candidates of `config` and keep their automata. As many are taken as may
    become parents, each set of genes once. The strategy fills the remaining slots.
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
        config: With target modules of the base model at hand (`coral_core.lm.targets.for_model`).
        carried: As for `Search`.
        default: As for `Search`.

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
