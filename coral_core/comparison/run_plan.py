"""Carries out the plan of a comparison: one run after the other, finished ones are read and not run again."""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from coral_core.comparison.outcomes import Outcome, outcome_of_run, outcome_on_table
from coral_core.comparison.page import write_comparison
from coral_core.comparison.plan import Entrant, Plan
from coral_core.comparison.summary import StrategyComparison, summarise
from coral_core.config import RunConfig
from coral_core.digest import digest
from coral_core.errors import ConfigError
from coral_core.evolution.loop import NoChampionError
from coral_core.evolution.preflight import preflight
from coral_core.jobs.job_content import problem_set
from coral_core.report.history_records import History
from coral_core.runs.run_folder import RunFolder, identify_run
from coral_core.search.tables import Table
from coral_core.store.store import Store

log = logging.getLogger("coral.compare")

Run = Callable[[RunConfig], Awaitable[bool]]
"""Runs an evolution to its end, or continues it; False when it was stopped."""
Ended = Callable[[Entrant, int, int, Outcome | None], None]
"""Called before an entrant runs (without an outcome) and after it: entrant, its number from 1, number of all, outcome."""


def folder_of(plan: Plan, table: Table | None = None) -> Path:
    """Where a comparison is kept: ``RUNS/comparisons/<name>-<10 hex digits>``.

    Variants, seeds and baseline may be added without another folder: what was run is not run again. The budget, the
    table and the configuration give another one.
    """
    shared = identify_run(plan.config.model_copy(update={"seed": 0})).config_digest
    name = digest({"config": shared, "budget": plan.budget.model_dump(), "table": table.name if table else ""})
    return Path(plan.config.runs).expanduser().absolute() / "comparisons" / f"{plan.config.name}-{name[:10]}"


def prepared(plan: Plan, folder: Path) -> list[Entrant]:
    """The runs of a plan, with their folders below `folder`, after the checks that an evolution makes before it starts.

    Raises:
        ConfigError: as `preflight`.
        CoralError: as `preflight`.
    """
    checked: set[str] = set()
    entrants = []
    for entrant in plan.entrants():
        config = entrant.config.model_copy(update={"runs": str(folder / "runs")})
        if entrant.variant.name not in checked:
            preflight(config)
            checked.add(entrant.variant.name)
        entrants.append(entrant._replace(config=config))
    return entrants


async def run_plan(plan: Plan, folder: Path, run: Run, ended: Ended) -> StrategyComparison | None:
    """Run all entrants that are not finished, and write the page after each seed.

    Args:
        plan: What to compare.
        folder: Receives the page, the data and the folders of the runs.
        run: Runs one configuration.
        ended: Is notified before and after each run.

    Returns:
        The comparison; None when a run was stopped.

    Raises:
        ConfigError: the budget is below the cost of the first genome; or as `prepared`.
        CoralError: as an evolution.
    """
    entrants = prepared(plan, folder)
    counts = _problems(plan)
    outcomes: list[Outcome] = []
    for number, entrant in enumerate(entrants, 1):
        place = RunFolder.of(entrant.config, identify_run(entrant.config))
        if not _is_finished(place):
            ended(entrant, number, len(entrants), None)
            try:
                if not await run(entrant.config):
                    return None
            except NoChampionError as error:  # an outcome, too: this variant found nothing with this seed
                log.warning("%s, seed %d: %s", entrant.variant.name, entrant.seed, error)
        outcomes.append(outcome_of_run(entrant, plan.budget, place, Store(entrant.config.store.path)))
        ended(entrant, number, len(entrants), outcomes[-1])
        if not outcomes[-1].points and not outcomes[-1].ended:
            raise ConfigError(
                f"--budget {plan.budget}: the first genome of {entrant.variant.name} with seed {entrant.seed} cost more",
                remedy="Give a larger budget; what was trained is kept.",
            )
        if number % len(plan.variants) == 0:
            comparison = summarise(plan, outcomes, "live", counts)
            write_comparison(comparison, folder)
    return comparison


def play_plan(plan: Plan, folder: Path, table: Table, ended: Ended) -> StrategyComparison:
    """Play all entrants on a gene table, and write the page.

    Args:
        plan: What to compare, made from a configuration with the genes and the scoring of the table.
        folder: Receives the page and the data.
        table: A whole table.
        ended: Is notified after each play.

    Raises:
        ConfigError: the budget is not in trainings.
        TableError: the table is not complete.
    """
    if plan.budget.unit != "trainings":
        raise ConfigError(
            f"--budget {plan.budget}: a play on a table is charged trainings", remedy="Write --budget trainings=32."
        )
    entrants = plan.entrants()
    outcomes = []
    for number, entrant in enumerate(entrants, 1):
        outcomes.append(outcome_on_table(entrant, plan.budget, table))
        ended(entrant, number, len(entrants), outcomes[-1])
    bugs = sum(not problem.retention for problem in table.facts.problems)
    counts: dict[str, int | str] = {
        "source": "the table",
        "fitness": bugs,
        "retention": len(table.facts.problems) - bugs,
    }
    comparison = summarise(plan, outcomes, table.name, counts)
    write_comparison(comparison, folder)
    return comparison


def on_table(config: RunConfig, table: Table) -> RunConfig:
    """`config` with the genes, the scoring and the base model of a table, which a play on it needs."""
    own = table.config(config.seed, config.search)
    return config.model_copy(update={"genes": own.genes, "scoring": own.scoring, "base_model": own.base_model})


def _is_finished(folder: RunFolder) -> bool:
    return (folder.path / "history.jsonl").exists() and History.of(folder).final is not None


def _problems(plan: Plan) -> dict[str, int | str]:
    problems = problem_set(plan.config.problems)
    return {
        "source": plan.config.problems.source,
        "fitness": len(problems.fitness),
        "monitor": len(problems.monitor),
        "held_out": len(problems.held_out),
    }
