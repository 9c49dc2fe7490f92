"""The interface of every search strategy, and the registry of strategies."""

from collections.abc import Callable, Sequence
from typing import Protocol

from coral_core.config import RunConfig
from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from coral_core.genome import Genome, Lineage, default_lora, genome_id, neutral
from coral_core.search.expression import nearest


class Scored(Frozen):
    """A genome and what its evaluation said; `infeasible` is a reason, never a score of 0."""

    genome: Genome
    scores: dict[str, float] | None
    fitness: float | None
    infeasible: str | None = None


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
    ordered = sorted(results, key=lambda item: item.genome.genome_id)
    expected = sorted(genome_id(generation, slot) for slot in range(population))
    given = [item.genome.genome_id for item in ordered]
    if given != expected:
        wrong = sorted(set(given) ^ set(expected)) or sorted({name for name in given if given.count(name) > 1})
        raise ValueError(
            f"generation {generation} has {population} genomes and {len(given)} results; missing, foreign or "
            f"repeated: {', '.join(wrong[:5])}. Tell the results of exactly the genomes that ask() gave."
        )
    return ordered


def first_genome(config: RunConfig) -> Genome:
    """The default LoRA decoded greedily, or what comes closest to it among the candidates (`search.start_with_default`)."""
    heavy, light = nearest(
        default_lora(config.base_model.name), neutral(config.genes.light.token_limit.high), config.genes
    )
    return Genome(
        genome_id=genome_id(0, 0),
        generation=0,
        slot=0,
        heavy=heavy,
        light=light,
        lineage=Lineage(operator="default"),
    )


_STRATEGIES: dict[str, Callable[[RunConfig], Search]] = {}


def register(name: str) -> Callable[[Callable[[RunConfig], Search]], Callable[[RunConfig], Search]]:
    """Class decorator: make a strategy available as `search.strategy: name`."""

    def add(strategy: Callable[[RunConfig], Search]) -> Callable[[RunConfig], Search]:
        _STRATEGIES[name] = strategy
        return strategy

    return add


def make_search(config: RunConfig) -> Search:
    """The strategy that `config.search.strategy` names; `config.seed` is the seed of all its draws."""
    from coral_core.search import evolution, random_search  # noqa: F401  (they register themselves)

    try:
        return _STRATEGIES[config.search.strategy](config)
    except KeyError:
        raise ConfigError(
            f"search.strategy: {config.search.strategy}: unknown. Known: {', '.join(sorted(_STRATEGIES))}."
        ) from None
