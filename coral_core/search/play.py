"""Plays a search on a gene table: what a strategy finds, and what that is worth without noise, after every training.

A search sees one replicate of each cell, as an evolution does; which one derives from the seed. What it names is valued by
the mean of the replicates. A play takes milliseconds per training, so strategies can be compared over hundreds of seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from coral_core.digest import seed_from
from coral_core.errors import TableError
from coral_core.genome import Genome, HeavyGenes
from coral_core.search.archive import Scored
from coral_core.search.selection import fitness, hypervolume, objectives, pareto_front
from coral_core.search.strategy import Search
from coral_core.search.tables import Table

IDLE_GENERATIONS = 20
"""Generations in a row without a new training, after which a play ends: the search repeats itself."""


@dataclass(frozen=True)
class PlayStep:
    """Where a play stands when a number of trainings is spent.

    Attributes:
        trainings: Distinct adapters trained so far.
        evaluations: Distinct evaluations so far.
        champion: Genome that the search names by what was observed; None while every genome is infeasible.
        observed: Its fitness as observed; 0 without a champion.
        expected: Its fitness without noise, the mean over the replicates; 0 without a champion.
        unseen: Its fitness in the replicates that the search did not see: unbiased, where `expected` holds a part of the
            luck that it was chosen by, but noisier. 0 without a champion; None when its repeats have seen all replicates.
        hypervolume: Hypervolume of the observed front, each genome of it at its scores without noise.
    """

    trainings: int
    evaluations: int
    champion: Genome | None
    observed: float
    expected: float
    unseen: float | None
    hypervolume: float


@dataclass(frozen=True)
class Play:
    """A search played on a table.

    Attributes:
        steps: One per training spent.
        results: What the search was told, or would have been told next, in order.
        ended: Why there are fewer steps than trainings allowed; empty when there are not.
    """

    steps: tuple[PlayStep, ...]
    results: tuple[Scored, ...]
    ended: str = ""


def replicate_of(table: Table, seed: int, heavy: HeavyGenes) -> int:
    """The replicate of a cell that a seed sees; a repeat of its training sees the next one.

    Args:
        table: Says how many there are.
        seed: Seed of the play.
        heavy: The cell, and the number of the repeat.

    Raises:
        TableError: the cell was not trained so often.
    """
    if heavy.repeat >= (count := table.facts.replicates):
        raise TableError(
            f"repeat {heavy.repeat} of a training: table {table.name} has {count} of each cell",
            remedy="Set search.finalist_share to 0.",
        )
    return (seed_from("replicate", seed, heavy.first().digest()) + heavy.repeat) % count


def play(search: Search, table: Table, seed: int, trainings: int) -> Play:
    """Run a search on a table until a number of adapters is trained.

    A genome whose adapter was trained before costs nothing. The genomes of a generation are evaluated in order; the play
    ends before the first one that would exceed the budget.

    Args:
        search: A search with the genes of the table (`Table.config`) that nothing was told yet. Its number of generations
            should not be what ends it.
        table: A whole table.
        seed: Chooses the replicates that the search sees.
        trainings: Adapters to train, at least 1.

    Raises:
        TableError: the table is not made completely, or the search proposes genes that are no cell.

    Example:
        >>> from coral_core.config.tree import SearchConfig
        >>> from coral_core.search.strategy import make_search
        >>> def best(table: Table, strategy: str, seed: int) -> float:
        ...     search = make_search(table.config(seed, SearchConfig(strategy=strategy, generations=1000)))
        ...     return play(search, table, seed, 32).steps[-1].expected
    """
    if missing := table.missing:
        raise TableError(
            f"table {table.name}: {len(missing)} of {len(table.cells) * table.facts.replicates} rows are missing",
            remedy=f"Make them: make gene-table TABLE={table.name}.",
        )
    trained: set[HeavyGenes] = set()
    evaluated: set[str] = set()
    results: list[Scored] = []
    steps: list[PlayStep] = []
    idle = 0
    while not search.done and idle < IDLE_GENERATIONS:
        before, told = len(trained), []
        for genome in search.ask():
            if trained and genome.heavy not in trained:
                if len(steps) < len(trained):
                    steps.append(_step(search, table, results, seed, len(trained), len(evaluated)))
                if len(trained) == trainings:
                    return Play(tuple(steps), tuple(results))
            told.append(_scored(table, genome, seed))
            results.append(told[-1])
            trained.add(genome.heavy)
            evaluated.add(told[-1].genome.genes_digest())
        search.tell(told)
        idle = 0 if len(trained) > before else idle + 1
    steps.append(_step(search, table, results, seed, len(trained), len(evaluated)))
    ended = search.reason or f"{IDLE_GENERATIONS} generations brought no new training"
    return Play(tuple(steps), tuple(results), "" if len(trained) == trainings else ended)


def _scored(table: Table, genome: Genome, seed: int) -> Scored:
    """The result of a genome, with the light genes that it was evaluated with."""
    placed, replicate = table.placed(genome), replicate_of(table, seed, genome.heavy)
    scores = table.observed(placed, replicate)
    if scores is None:
        return Scored(genome=placed, scores=None, fitness=None, infeasible=table.infeasible(placed, replicate))
    return Scored(genome=placed, scores=scores, fitness=fitness(scores, table.facts.scoring.weights))


def _step(
    search: Search, table: Table, results: Sequence[Scored], seed: int, trainings: int, evaluations: int
) -> PlayStep:
    scoring = table.facts.scoring
    best = search.champion_of(results)
    expected, unseen = None, 0.0 if best is None else None
    if best is not None:
        cell = best.genome.heavy.first()
        seen = {replicate_of(table, seed, item.genome.heavy) for item in results if item.genome.heavy.first() == cell}
        expected, left = table.expected(best.genome), table.expected(best.genome, seen)
        if left is not None or len(seen) < table.facts.replicates:
            unseen = fitness(left or {}, scoring.weights)
    front = [table.expected(item.genome) or {} for item in pareto_front(results, scoring)]
    return PlayStep(
        trainings=trainings,
        evaluations=evaluations,
        champion=best.genome if best else None,
        observed=(best.fitness or 0.0) if best else 0.0,
        expected=fitness(expected or {}, scoring.weights),
        unseen=unseen,
        hypervolume=hypervolume(front, objectives(scoring)),
    )
