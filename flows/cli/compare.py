"""`coral compare`: search strategies at equal budget over seeds, or two runs with each other."""

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from coral_core.api import run_to_end
from coral_core.comparison.outcomes import Outcome
from coral_core.comparison.page import FILES, comparison_page
from coral_core.comparison.plan import Entrant, Plan
from coral_core.comparison.run_plan import Ended, folder_of, on_table, play_plan, run_plan
from coral_core.comparison.summary import StrategyComparison
from coral_core.config import RunConfig, read_config
from coral_core.durations import clock
from coral_core.errors import ConfigError
from coral_core.evolution.preflight import preflight
from coral_core.report.wording import number as score
from coral_core.runs.run_folder import RunFolder, find_run, identify_run
from coral_core.search.tables import Table
from coral_core.store.store import Store
from flows.cli.markup import echo, print_json, shown_document, words
from flows.cli.places import AsJson, Overrides, Runs
from flows.cli.progress import watched

STRATEGIES = ("evolution", "random")
SEEDS = 5


def compare(
    config: str,
    other: str | None = None,
    /,
    *,
    strategies: Annotated[
        list[str] | None,
        Parameter(
            help=f"What to compare, by default {' '.join(STRATEGIES)}: STRATEGY, STRATEGY:key=value,key=value or NAME=STRATEGY:key=value.",
            consume_multiple=True,
            negative=(),
        ),
    ] = None,
    seeds: Annotated[
        int | None, Parameter(help=f"Number of seeds, from that of CONFIG on; by default {SEEDS}.")
    ] = None,
    budget: Annotated[
        str | None,
        Parameter(
            help="What each strategy may spend with each seed: trainings=32, gpu_seconds=3600 or money=20. By default the trainings that the generations of CONFIG need at most."
        ),
    ] = None,
    baseline: Annotated[
        str | None, Parameter(help="The strategy that others are tested against; by default random, else the last.")
    ] = None,
    table: Annotated[Path | None, Parameter(help="Play on this gene table (a folder) instead of running.")] = None,
    into: Annotated[
        Path | None, Parameter(help="Folder for the page, the data and the runs; by default RUNS/comparisons/NAME-….")
    ] = None,
    set_: Overrides = None,
    executor: Annotated[str | None, Parameter(help="inline, local or work-pools, in place of infra.executor.")] = None,
    html: Annotated[Path | None, Parameter(help="Two runs: write the page to this file.")] = None,
    runs: Runs = "runs",
    as_json: AsJson = False,
) -> None:
    """Compare search strategies at equal budget over seeds; or, with OTHER, two runs.

    `coral compare CONFIG` runs each strategy with each seed on one store, and tests the differences. Run it again to go on:
    finished runs are read, and more seeds or strategies are added to them. `coral compare RUN OTHER` is `coral report RUN OTHER`.

    Args:
        config: The configuration that all strategies share: a file, or quickstart or another that comes with CORAL-X. With
            OTHER: a run.
        other: A second run, to compare the first one with.
    """
    only = {"--strategies": strategies, "--seeds": seeds, "--budget": budget, "--baseline": baseline, "--table": table, "--into": into, "--set": set_, "--executor": executor}  # fmt: skip
    if other is not None:
        if given := [name for name, value in only.items() if value is not None]:
            raise ConfigError(f"{given[0]}: is an option of coral compare CONFIG, and two runs are given", remedy="Leave out the option, or the second run.")  # fmt: skip
        from flows.cli.report import compare_runs_of

        compare_runs_of(find_run(runs, config), find_run(runs, other), html, as_json)
        return
    if html is not None:
        raise ConfigError("--html: is an option of coral compare RUN OTHER", remedy="The page is in the folder that --into names.")  # fmt: skip
    overrides = [*(set_ or []), *([f"infra.executor={executor}"] if executor is not None else [])]
    loaded, places = read_config(Path(config), overrides)
    out = Console(stderr=as_json, highlight=False, soft_wrap=True)
    read = Table.read(table) if table is not None else None
    plan = Plan.make(
        on_table(loaded, read) if read else loaded, strategies or STRATEGIES, SEEDS if seeds is None else seeds, budget, baseline
    )  # fmt: skip
    folder = (into or folder_of(plan, read)).absolute()
    if read is None:
        preflight(loaded, places)
        Store(loaded.store.path).prepare()
    found = play_plan(plan, folder, read, _lines(out, plan)) if read else _live(plan, folder, out)
    if as_json:
        print_json(found)
        return
    echo("", *shown_document(comparison_page(found)))
    echo(words(f"\nfiles     {folder}/ ({', '.join(FILES)})"))


def _live(plan: Plan, folder: Path, out: Console) -> StrategyComparison:
    from flows.cli.evolve import TERMINATED

    pools = plan.config.infra.executor == "work-pools"
    stopped: int | None = None
    found: StrategyComparison | None = None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        found = _on_pools(plan, folder, out) if pools else asyncio.run(_here(plan, folder, out))
    except KeyboardInterrupt:
        stopped = 130
    except SystemExit as end:
        stopped = end.code if isinstance(end.code, int) else 1
    if found is None:
        out.print("[yellow]stopped[/]: finished work is kept. Go on with the same command.")
        raise SystemExit(stopped or 130)
    return found


async def _here(plan: Plan, folder: Path, out: Console) -> StrategyComparison | None:
    """Run all of it on this machine, without Prefect."""

    async def run(config: RunConfig) -> bool:
        with watched(RunFolder.of(config, identify_run(config)), out):
            return await run_to_end(config)

    return await run_plan(plan, folder, run, _lines(out, plan))


def _on_pools(plan: Plan, folder: Path, out: Console) -> StrategyComparison | None:
    """Run it as a flow; lanes need the API of an installation."""
    from flows.installation.local_stack import refuse_without_installation
    from flows.prefect_api.flow_run_process import drain
    from flows.prefect_api.local_server import api
    from flows.prefect_api.settings import QUIET_CONSOLE, export_defaults

    refuse_without_installation()
    export_defaults(QUIET_CONSOLE)
    with api():
        from flows.compare import compare as flow  # late: it imports Prefect, which reads its settings at import

        try:
            return asyncio.run(flow(plan, folder, _lines(out, plan)))
        finally:
            drain()


def _lines(out: Console, plan: Plan) -> Ended:
    """A line before and after each run; of plays one for about each tenth of the seeds."""
    began = time.monotonic()
    started: set[int] = set()
    unit = plan.config.budget.currency if plan.budget.unit == "money" else plan.budget.unit.replace("_", " ")
    each = len(plan.variants) * max(1, len(plan.seeds) // 10)

    def ended(entrant: Entrant, number: int, count: int, outcome: Outcome | None) -> None:
        head = f"[{clock(time.monotonic() - began)}] {number} of {count}: {entrant.variant.name}, seed {entrant.seed}"
        if outcome is None:
            started.add(number)
            out.print(words(head, "bold"))
        elif outcome.run_id or number % each == 0:
            last = outcome.last
            found = f"best fitness {score(last.fitness if last else None)}, hypervolume {score(last.hypervolume if last else None)}"
            read = " (finished before)" if outcome.run_id and number not in started else ""
            out.print(words(f"{head}: {found} after {last.spent if last else 0:,.6g} {unit}{read}"))

    return ended
