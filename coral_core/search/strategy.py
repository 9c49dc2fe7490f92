"""The interface of every search strategy (ask and tell), and the first genomes of a run."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from coral_core.config import RunConfig
from coral_core.config.gene_space import module_names
from coral_core.errors import CoralError
from coral_core.genome import (
    USUAL_RANKS,
    Automaton,
    Features,
    Genome,
    HeavyGenes,
    LightGenes,
    Lineage,
    default_lora,
    genome_id,
    neutral,
    usual_learning_rates,
)
from coral_core.search.archive import Entry, Scored
from coral_core.search.expression import Positions, SearchSpace, heavy_genes, light_genes, nearest
from coral_core.search.selection import R, champion, pareto_front
from coral_core.untrusted import in_a_line, visible

__all__ = ["Scored", "Search", "StrategyError", "complete", "first_genome", "first_genomes", "make_search"]


class StrategyError(CoralError):
    """A strategy failed, or proposed what it may not; or the run was begun with another version of it."""

    exit_code = 4


class Search(ABC):
    """Proposes genomes (ask) and learns from their results (tell), one generation after the other.

    Equal configurations and equal results give equal genomes, in whatever order the results of a generation are told. A
    run resumes by telling a new object the recorded results, so everything that `propose` depends on follows from the
    configuration and from what was told.

    A strategy implements `propose`, and `learn` and `stop` where it needs them. `ask` refuses proposals outside the
    search space, so that nothing is trained that the configuration does not allow.
    `coral_core.search.strategy_conformance` checks a strategy.

    Args:
        config: The configuration; `config.seed` is the seed of all draws.
        carried: Genomes of an earlier run, best first, whose genes the first population begins with.
        default: The default LoRA of the base model; None stands for that of Llama-like models.

    Attributes:
        version: A text that changes when equal results may give other genomes; part of the history of a run. Plug-ins
            need one.
        smallest_population: Smallest `search.population` that the strategy works with.
        config: As given.
        carried: As given.
        default: As given.
        generation: Number of the generation that `ask` gives, from 0.
    """

    version: str = ""
    smallest_population: ClassVar[int] = 1
    plugin: str = ""
    """Name and entry point, for errors; empty for a strategy of this package."""

    def __init__(self, config: RunConfig, carried: Sequence[Genome] = (), default: HeavyGenes | None = None) -> None:
        self.config = config
        self.carried = tuple(carried)
        self.default = default
        self.generation = 0
        self._entries: list[Entry] = []
        """All results, by generation and slot."""
        self._distinct: dict[str, Entry] = {}
        """Digest of genes -> the first result of a genome that has them."""
        self._adapters: set[str] = set()
        """Digests of the heavy genes of all results, and of those they go on with: the trainings that were spent."""
        self._asked: tuple[Genome, ...] | None = None
        self._stopped = ""
        self._space = SearchSpace(config.genes)

    @property
    def reason(self) -> str:
        """Why the search is done, in words; empty while it is not."""
        search = self.config.search
        if search.trainings is not None and len(self._adapters) >= search.trainings:
            return f"all {search.trainings} trainings are spent"
        return (
            f"all {search.generations} generations are done" if self.generation >= search.generations else self._stopped
        )

    @property
    def done(self) -> bool:
        """True when there is no further generation to ask for."""
        return bool(self.reason)

    def ask(self) -> tuple[Genome, ...]:
        """The genomes of the current generation, at most `search.population`; asking twice gives the same ones.

        With `search.trainings` the last generation ends before the first genome that would need one adapter too many.

        Raises:
            ValueError: the search is done.
            StrategyError: the strategy is of a plug-in and failed; or it proposed no genomes, too many, or genomes with
                wrong ids or with genes outside the search space.
        """
        if self.done:
            raise ValueError(f"ask() after the end of the search ({self.reason}): look at `done` first")
        if self._asked is None:
            with self._plugin_errors():
                proposed = tuple(self.propose())
            self._check(proposed)
            self._asked = self._affordable(proposed)
        return self._asked

    def _affordable(self, genomes: tuple[Genome, ...]) -> tuple[Genome, ...]:
        if (limit := self.config.search.trainings) is None:
            return genomes
        affordable = self._within(genomes, limit)
        if not affordable:  # of a plug-in: in this package a genome needs one more at most
            raise StrategyError(
                f"search.strategy: {self.plugin or self.config.search.strategy}: {genomes[0].genome_id} needs "
                f"{len(_trainings(genomes[0]) - self._adapters)} trainings, and search.trainings leaves {limit - len(self._adapters)}",
                remedy="Raise search.trainings, or propose genomes with fewer warm starts.",
            )
        return affordable

    def _within(self, genomes: tuple[Genome, ...], limit: int) -> tuple[Genome, ...]:
        """The genomes before the first one with which more than `limit` trainings would be spent."""
        adapters = set(self._adapters)
        for slot, genome in enumerate(genomes):
            adapters |= _trainings(genome)
            if len(adapters) > limit:
                return genomes[:slot]
        return genomes

    @abstractmethod
    def propose(self) -> Iterable[Genome]:
        """The genomes of the current generation: 1 to `search.population` of them, in the order of their slots."""

    def learn(self, results: Sequence[Scored]) -> None:  # noqa: B027 (a strategy need not learn)
        """Called with the results of a generation once they are complete.

        Args:
            results: Results of the generation before `self.generation`, in the order of slots. With `search.trainings` the
                last generation may be shorter than what `propose` gave.
        """

    def stop(self) -> str:
        """Called after `learn`: why the search ends before `search.generations`, in words; empty to go on."""
        return ""

    def tell(self, results: Sequence[Scored]) -> None:
        """Add the results of the current generation; `ask` then gives the next one.

        Args:
            results: One result for each genome that `ask` gave, in any order.

        Raises:
            ValueError: a genome is missing, unknown, repeated or of another adapter; a score is no number; the search is done.
                Nothing is added then.
            StrategyError: the strategy is of a plug-in and failed.
        """
        ordered = complete(results, self.ask())
        for scored in ordered:
            entry = Entry.of(scored)
            self._adapters |= _trainings(scored.genome)
            self._entries.append(entry)
            self._distinct.setdefault(entry.genes, entry)
        self.generation += 1
        self._asked = None
        with self._plugin_errors():
            self.learn(ordered)
            self._stopped = visible(str(self.stop()))[:300]

    def told(self) -> tuple[Scored, ...]:
        """All results so far, by generation and slot."""
        return tuple(entry.scored() for entry in self._entries)

    def best(self) -> Scored | None:
        """The champion of everything told so far (`champion_of`); None when every genome is infeasible."""
        best = self.champion_of(list(self._distinct.values()))
        return best.scored() if best else None

    def champion_of(self, results: Sequence[R]) -> R | None:
        """The champion among results: the fittest that meets the final thresholds; the fittest of all when none does.

        Args:
            results: Results of genomes that this search proposed, or entries of its archive.
        """
        return champion(results, self.config.scoring)

    def front(self) -> tuple[Scored, ...]:
        """The Pareto front of everything told so far, by genome id."""
        return tuple(entry.scored() for entry in pareto_front(self._entries, self.config.scoring))

    def first_genomes(self) -> list[Genome]:
        """What a first population begins with (`first_genomes`)."""
        return first_genomes(self.config, self.carried, self.default)

    def genome(self, slot: int, place: Positions, operator: str, parents: tuple[str, ...] = ()) -> Genome:
        """A genome of the current generation from positions of its genes (`coral_core.search.expression`).

        Args:
            slot: Place in the generation, from 0.
            place: Gene name -> position in [0, 1], for every gene in `coral_core.search.expression.GENES`.
            operator: Name of how it was made, for lineage and report.
            parents: Genome ids of its parents.
        """
        genes = self.config.genes
        return genome_at(self.generation, slot, heavy_genes(place, genes), light_genes(place, genes), operator, parents)

    def _check(self, proposed: Sequence[Genome]) -> None:
        """Refuse a generation that the configuration does not allow."""
        population, wrong = self.config.search.population, ""
        if not 1 <= len(proposed) <= population:
            wrong = f"proposed {len(proposed)} genomes, and search.population is {population}"
        for slot, genome in enumerate(proposed):
            expected = genome_id(self.generation, slot)
            if not isinstance(genome, Genome):
                wrong = f"proposed a {type(genome).__name__} in place of genome {expected}"
            elif (genome.genome_id, genome.generation, genome.slot) != (expected, self.generation, slot):
                wrong = (
                    f"proposed {genome.genome_id} in slot {slot} of generation {self.generation}, which is {expected}"
                )
            elif outside := self._space.outside(genome):
                wrong = f"proposed {expected} outside the search space ({outside})"
            if wrong:
                break
        if wrong:
            raise StrategyError(
                f"search.strategy: {self.plugin or self.config.search.strategy}: {wrong}",
                remedy="Repair it: coral_core.search.strategy_conformance shows what is wrong.",
            )

    @contextmanager
    def _plugin_errors(self) -> Iterator[None]:
        """Turn the errors of a plug-in into `StrategyError`; those of this package stay what they are."""
        try:
            yield
        except CoralError:
            raise
        except (Exception, SystemExit) as error:
            if not self.plugin:
                raise
            raise StrategyError(
                f"search.strategy: {self.plugin} failed in generation {self.generation} ({error_text(error)})",
                remedy="Repair it.",
            ) from error


def _trainings(genome: Genome) -> set[str]:
    """Digests of the heavy genes of each training behind a genome. Parents in the run are spent; carried ones are not."""
    return {heavy.digest() for heavy in genome.heavy.chain()}


def error_text(error: BaseException) -> str:
    """Class and message of a plug-in's error; its message may fail, too."""
    try:
        return in_a_line(error)
    except Exception:
        return type(error).__name__


def complete(results: Sequence[Scored], asked: Sequence[Genome]) -> list[Scored]:
    """Check the results of a generation, and sort them by slot.

    Args:
        results: In any order. Light genes may be those that a genome was evaluated with instead of those that were asked
            for (`coral_core.search.play`).
        asked: The genomes that were asked for.

    Raises:
        ValueError: a genome is missing, was not asked for, is repeated or has other heavy genes, or a score is no number.
            Without this check the next generation would silently differ.
    """
    genomes = {genome.genome_id: genome for genome in asked}
    given = [item.genome_id for item in results]
    if sorted(given) != sorted(genomes):
        wrong = sorted(set(given) ^ set(genomes)) or sorted({name for name in given if given.count(name) > 1})
        raise ValueError(
            f"generation {asked[0].generation} has {len(asked)} genomes and {len(given)} results; missing, foreign or "
            f"repeated: {', '.join(wrong[:5])}. Tell the results of exactly the genomes that ask() gave."
        )
    for item in results:
        genome = genomes[item.genome_id]
        if item.genome is not genome and item.genome.heavy != genome.heavy:
            raise ValueError(
                f"{item.genome_id}: the result is of another adapter than ask() gave: tell each search its own results"
            )
        if (item.scores is None) != (item.fitness is None) or (item.infeasible and item.scores is not None):
            raise ValueError(f"{item.genome_id}: a result has scores and fitness, or neither when it is infeasible")
        numbers = [item.fitness, *(item.scores or {}).values()]
        if not all(value is None or math.isfinite(value) for value in numbers):
            raise ValueError(f"{item.genome_id}: a score is no finite number: {item.scores}. Report it as infeasible.")
    return sorted(results, key=lambda item: item.genome.slot)


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


def usual_loras(config: RunConfig, default: HeavyGenes) -> list[HeavyGenes]:
    """Adapters that an engineer would try next to the default LoRA, likeliest first (`search.usual_loras`).

    They are on the largest set of target modules, of rank 16 and then 8, with alpha of twice the rank. The learning rate of
    the default LoRA comes first, then the others of `usual_learning_rates`, the lowest first: it gains less at once, and
    more where an adapter is trained further. Where that set is all linear modules, `search.baselines: tuned` tries them too.

    Args:
        config: Holds the candidates; target modules are names of the base model's modules.
        default: The default LoRA of the base model.

    Example:
        >>> from coral_core.genome import DEFAULT_LORA
        >>> [(each.rank, each.learning_rate) for each in usual_loras(RunConfig(), DEFAULT_LORA)][:3]
        [(16, 0.005), (16, 0.002), (16, 0.01)]
    """
    largest = max(map(module_names, config.genes.heavy.target_modules), key=len)
    rates = sorted(usual_learning_rates(config.base_model.name), key=lambda rate: (rate != default.learning_rate, rate))
    return [
        default.model_copy(update={"rank": rank, "alpha": 2.0 * rank, "target_modules": largest, "learning_rate": rate})
        for rank in reversed(USUAL_RANKS)
        for rate in rates
    ]


def first_genomes(config: RunConfig, carried: Sequence[Genome] = (), default: HeavyGenes | None = None) -> list[Genome]:
    """The first genomes of a first population: the default LoRA, if configured, genomes of an earlier run, then usual LoRAs.

    The strategy fills the remaining slots.

    Args:
        config: Holds the candidates and the population size.
        carried: Genomes of an earlier run, best first. They move to the nearest candidates and keep their automata; equal
            genes are taken once, and no more than `survival_rate` of the population (at least 2). They keep their warm
            starts only if `search.variation.warm_start_rate` is above 0 and `search.trainings` suffices for the population.
        default: The default LoRA of the base model; None stands for that of Llama-like models.
    """
    search = config.search
    genomes = [first_genome(config, default)] if search.start_with_default else []
    taken = {genome.genes_digest() for genome in genomes}
    room = min(search.population, len(genomes) + max(2, int(search.survival_rate * search.population)))
    for old in carried:
        heavy, light = nearest(
            old.heavy.first(), old.light, config.genes
        )  # a repeat is another draw of the earlier run
        trainings = set[str]().union(*map(_trainings, genomes), (each.digest() for each in heavy.chain()))
        others = search.population - len(genomes) - 1
        if not search.variation.warm_start_rate or len(trainings) + others > (search.trainings or math.inf):
            heavy = heavy.model_copy(update={"warm_start": None})
        genome = genome_at(0, len(genomes), heavy, light, "carried", (old.genome_id,), old.automaton, old.features)
        if genome.genes_digest() in taken or len(genomes) >= room:
            continue
        taken.add(genome.genes_digest())
        genomes.append(genome)
    most = min(search.population, len(genomes) + search.usual_loras)
    greedy = neutral(config.genes.light.token_limit.high)
    for usual in usual_loras(config, default or default_lora(config.base_model.name)):
        genome = genome_at(0, len(genomes), *nearest(usual, greedy, config.genes), "usual")
        if len(genomes) < most and genome.genes_digest() not in taken:
            taken.add(genome.genes_digest())
            genomes.append(genome)
    return genomes


def make_search(config: RunConfig, carried: Sequence[Genome] = (), default: HeavyGenes | None = None) -> Search:
    """The strategy that `config.search.strategy` names.

    Args:
        config: Configuration whose target modules are those of the base model (`coral_core.lm.targets.for_model`).
        carried: Genomes of an earlier run, best first, whose genes the first population begins with.
        default: The default LoRA of the base model; None stands for that of Llama-like models.

    Raises:
        ConfigError: there is no such strategy, a package that it needs is missing, or the population is too small for it.
        StrategyError: the strategy is of a plug-in and failed.

    Example:
        >>> from coral_core.config import parse_config
        >>> search = make_search(parse_config("search: {population: 4, generations: 1}", "example"))
        >>> genomes = search.ask()
        >>> search.tell([Scored(genome=genome, scores={"bugfix": 0.5}, fitness=0.5) for genome in genomes])
        >>> len(genomes), search.done, search.reason
        (4, True, 'all 1 generations are done')
    """
    from coral_core.search.strategies import check_strategy

    return check_strategy(config.search)(config, carried, default)
