"""The interface of every search strategy, and the registry of strategies."""

from collections.abc import Callable, Sequence
from typing import Protocol

from coral_core.config import RunConfig
from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from coral_core.genome import Genome, HeavyGenes, Lineage, default_lora, genome_id, neutral
from coral_core.search.expression import nearest


class Scored(Frozen):
    """A genome and what its evaluation said; `infeasible` is a reason, never a score of 0."""

    genome: Genome
    scores: dict[str, float] | None
    fitness: float | None
    infeasible: str | None = None

    @property
    def genome_id(self) -> str:
        return self.genome.genome_id


class Rated(Protocol):
    """What selection looks at: a `Scored`, or what an archive keeps of one."""

    @property
    def genome_id(self) -> str: ...

    @property
    def scores(self) -> dict[str, float] | None: ...

    @property
    def fitness(self) -> float | None: ...


class Search(Protocol):
    """Proposes genomes, hears of results. Equal results give equal genomes, in whatever order they are told."""

    @property
    def generation(self) -> int:
        """Number of the generation that `ask` gives, from 0."""
        ...

    @property
    def done(self) -> bool: ...

    @property
    def reason(self) -> str:
        """Why the search is done, in words; empty while it is not."""
        ...

    def ask(self) -> tuple[Genome, ...]:
        """The genomes of the current generation; asking twice gives the same ones."""
        ...

    def tell(self, results: Sequence[Scored]) -> None:
        """Results of all genomes of the current generation."""
        ...

    def best(self) -> Scored | None:
        """The champion so far: fittest of those that meet the final thresholds (of all, when none does)."""
        ...

    def front(self) -> tuple[Scored, ...]:
        """The Pareto front of everything told so far, by genome id."""
        ...


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


def first_genome(config: RunConfig, default: HeavyGenes | None = None) -> Genome:
    """The default LoRA decoded greedily, or what comes closest to it among the candidates (`search.start_with_default`)."""
    wanted = default or default_lora(config.base_model.name)
    heavy, light = nearest(wanted, neutral(config.genes.light.token_limit.high), config.genes)
    return Genome(
        genome_id=genome_id(0, 0),
        generation=0,
        slot=0,
        heavy=heavy,
        light=light,
        lineage=Lineage(operator="default"),
    )


def first_genomes(config: RunConfig, carried: Sequence[Genome] = (), default: HeavyGenes | None = None) -> list[Genome]:
    """What a first population begins with: the default LoRA, when asked for, then genomes of an earlier run.

    `carried` are moved to the nearest candidates of `config` and keep their automata; as many as may become parents
    are taken, each set of genes once. Whatever slots are left are the strategy's to fill.
    """
    search = config.search
    genomes = [first_genome(config, default)] if search.start_with_default else []
    room = min(search.population, len(genomes) + max(2, int(search.survival_rate * search.population)))
    taken = {genome.genes_digest() for genome in genomes}
    for old in carried:
        heavy, light = nearest(old.heavy, old.light, config.genes)
        genome = Genome(
            genome_id=genome_id(0, len(genomes)),
            generation=0,
            slot=len(genomes),
            heavy=heavy,
            light=light,
            automaton=old.automaton,
            features=old.features,
            lineage=Lineage(parents=(old.genome_id,), operator="carried"),
        )
        if genome.genes_digest() in taken or len(genomes) >= room:
            continue
        taken.add(genome.genes_digest())
        genomes.append(genome)
    return genomes


Strategy = Callable[[RunConfig, Sequence[Genome], HeavyGenes | None], Search]
"""Makes a search from a configuration, the genomes that come along from an earlier run and the default LoRA."""

_STRATEGIES: dict[str, Strategy] = {}


def register(name: str) -> Callable[[Strategy], Strategy]:
    """Class decorator: make a strategy available as `search.strategy: name`."""

    def add(strategy: Strategy) -> Strategy:
        _STRATEGIES[name] = strategy
        return strategy

    return add


def make_search(config: RunConfig, carried: Sequence[Genome] = (), default: HeavyGenes | None = None) -> Search:
    """The strategy that `config.search.strategy` names; `config.seed` is the seed of all its draws.

    Args:
        config: With target modules of the base model at hand (`coral_core.lm.targets.for_model`).
        carried: Genomes of an earlier run, best first, whose genes the first population begins with.
        default: The default LoRA of the base model; else that of Llama-like ones.
    """
    from coral_core.search import evolution, random_search  # noqa: F401  (they register themselves)

    try:
        return _STRATEGIES[config.search.strategy](config, carried, default)
    except KeyError:
        raise ConfigError(
            f"search.strategy: {config.search.strategy}: unknown", remedy=f"Known: {', '.join(sorted(_STRATEGIES))}."
        ) from None
