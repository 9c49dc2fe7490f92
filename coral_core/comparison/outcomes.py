"""The outcome of one run of a comparison: what it had found at each amount spent, read from its history or from a play."""

import itertools
from collections.abc import Sequence

from pydantic import Field

from coral_core.comparison.plan import Budget, Entrant
from coral_core.config import RunConfig
from coral_core.config.scoring_config import ScoringConfig
from coral_core.errors import StoreError
from coral_core.evolution.charges import Charged, Charges
from coral_core.evolution.job_runner import Planner
from coral_core.frozen import Frozen
from coral_core.genome import HeavyGenes
from coral_core.report.history_records import History
from coral_core.runs.records import GenomeRecord, RunRecord
from coral_core.runs.run_folder import RunFolder
from coral_core.search.archive import Scored
from coral_core.search.play import play
from coral_core.search.selection import champion, hypervolume, objectives, pareto_front
from coral_core.search.strategy import make_search
from coral_core.search.tables import Table
from coral_core.store.store import Store

DIGITS = 9
"""Decimals of values that are kept."""


INFEASIBLE = "no genome was feasible"


class Point(Frozen):
    """What was found once an amount was spent."""

    spent: float = Field(description="In the unit of the budget.")
    fitness: float | None = Field(
        description="Live the highest that was measured so far, among genomes that meet the thresholds if any does; on a table that of the "
        "champion which the search names, without noise. Null: none yet."
    )
    hypervolume: float = Field(description="Of the front so far; on a table its genomes at their scores without noise.")


class Outcome(Frozen):
    """What one variant found with one seed, within the budget."""

    variant: str
    seed: int
    run_id: str = Field("", description="Empty on a table.")
    points: tuple[Point, ...] = Field(
        description="By `spent`, which rises: the first, and each at which a value changes."
    )
    first_generation: float | None = Field(description="`fitness` after generation 0.")
    held_out: float | None = Field(None, description="pass@1 of the champion on the held-out split; null on a table.")
    repeats: float | None = Field(
        None, description="Mean fitness of the champion trained anew (search.champion_repeats); null without repeats."
    )
    charged: Charged = Field(description="Within the budget.")
    ended: str = Field(
        "", description="Why it spent less than the budget, or has no values (no genome was feasible); empty else."
    )

    @property
    def last(self) -> Point | None:
        """What was found with the whole budget; None when no genome fitted into it."""
        return self.points[-1] if self.points else None


def outcome_of_run(entrant: Entrant, budget: Budget, folder: RunFolder, store: Store) -> Outcome:
    """The outcome of a run that has ended: finished, or without a champion because all genomes were infeasible.

    Genomes count in the order in which the search asked for them, up to the first that exceeds the budget.

    Args:
        entrant: The run.
        budget: What it may spend.
        folder: Its folder.
        store: Its store, which knows what each result first cost.

    Raises:
        StoreError: the history is broken; or the budget is not in trainings, and a result has left the store.
    """
    history = History.of(folder)
    final = history.final
    scoring, price = entrant.config.scoring, entrant.config.budget.price
    charges = Charges(store, price, lambda heavy: _training_digest(entrant.config, history.run, heavy))
    told: list[Scored] = []
    points: list[Point] = []
    first: float | None = None
    within, over = Charged(), False
    for record in itertools.chain.from_iterable(history.populations):
        charged = charges.add(record)
        spent = getattr(charged, budget.unit)
        if spent is None:
            raise StoreError(
                f"{folder.path}: genome {record.genome.genome_id} cannot be charged: its adapter or evaluation has left the store",
                remedy="Remove this folder and run the comparison again, or give a budget in trainings.",
            )
        if over := spent > budget.amount:
            break
        within = charged
        told.append(_scored(record))
        best = champion(told, scoring)
        _add(
            points,
            Point(spent=spent, fitness=_rounded(best.fitness if best else None), hypervolume=_front(told, scoring)),
        )
        if record.genome.generation == 0:
            first = points[-1].fitness
    held_out = history.held_out("champion")
    repeated = [repeat.fitness for repeat in (final.repeats if final else ()) if repeat.fitness is not None]
    reason = final.reason if final else "no genome could be trained and evaluated"
    return Outcome(
        variant=entrant.variant.name,
        seed=entrant.seed,
        run_id=folder.run_id,
        points=_changes(points),
        first_generation=first,
        held_out=held_out.pass_at_1 if held_out else None,
        repeats=_rounded(sum(repeated) / len(repeated)) if repeated else None,
        charged=within,
        ended=_ended(points, "" if over or getattr(within, budget.unit) >= budget.amount else reason),
    )


def outcome_on_table(entrant: Entrant, budget: Budget, table: Table) -> Outcome:
    """Play a variant on a gene table.

    Args:
        entrant: Its configuration has the genes and the scoring of the table.
        budget: In trainings.
        table: A whole table.

    Raises:
        TableError: the table is not complete, or has not the genes that the search proposes.
    """
    played = play(make_search(entrant.config), table, entrant.seed, int(budget.amount))
    points = [
        Point(spent=step.trainings, fitness=_rounded(step.expected) if step.champion else None, hypervolume=round(step.hypervolume, DIGITS))
        for step in played.steps
    ]  # fmt: skip
    first = {scored.genome.heavy.digest() for scored in played.results if scored.genome.generation == 0}
    last = played.steps[-1]
    return Outcome(
        variant=entrant.variant.name,
        seed=entrant.seed,
        points=_changes(points),
        first_generation=points[len(first) - 1].fitness,
        charged=Charged(trainings=last.trainings, evaluations=last.evaluations, gpu_seconds=None, money=None),
        ended=_ended(points, played.ended),
    )


def _training_digest(config: RunConfig, run: RunRecord | None, heavy: HeavyGenes) -> str:
    if run is None:
        raise StoreError("a history holds genomes, and no record of its run", remedy="Run the comparison again.")
    return Planner.of_run(config, run).training(heavy).digest()


def _scored(record: GenomeRecord) -> Scored:
    scores = None if record.infeasible else record.scores
    return Scored(genome=record.genome, scores=scores, fitness=record.fitness, infeasible=record.infeasible)


def _front(told: Sequence[Scored], scoring: ScoringConfig) -> float:
    points = [scored.scores or {} for scored in pareto_front(told, scoring)]
    return round(hypervolume(points, objectives(scoring)), DIGITS)


def _add(points: list[Point], point: Point) -> None:
    """Append a point, in place of the last one if nothing was spent since."""
    if points and points[-1].spent == point.spent:
        points.pop()
    points.append(point)


def _changes(points: Sequence[Point]) -> tuple[Point, ...]:
    """The first point and those at which a value changes: between them a curve is flat. None where no genome was feasible."""
    if all(point.fitness is None for point in points):
        return ()
    kept = list(points[:1])
    for point in points[1:]:
        if (point.fitness, point.hypervolume) != (kept[-1].fitness, kept[-1].hypervolume):
            kept.append(point)
    return tuple(kept)


def _ended(points: Sequence[Point], reason: str) -> str:
    """Why a run has no values, or spent less than the budget; empty when it has and did not."""
    return INFEASIBLE if points and all(point.fitness is None for point in points) else reason


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
