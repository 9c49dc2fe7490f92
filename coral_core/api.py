"""The Python API: run an evolution, open one that is on disk, compare strategies.

It needs neither Prefect nor a server: jobs run on this machine (`infra.executor` local or inline). ``coral evolve`` can
continue a run that was begun here, and the other way round: both do the missing part of ``runs/<run id>/``.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from coral_core.comparison.plan import Plan
from coral_core.comparison.run_plan import Ended, folder_of, on_table, play_plan, run_plan
from coral_core.comparison.summary import StrategyComparison
from coral_core.config import RunConfig
from coral_core.evolution.listener import Listener
from coral_core.evolution.loop import Evolution, failure_recorded
from coral_core.evolution.preflight import preflight
from coral_core.evolution.start_from import freeze_start
from coral_core.execution import make_executor, no_work_pools
from coral_core.execution.executor import Executor
from coral_core.frozen import Frozen
from coral_core.report.export import export_champion
from coral_core.report.history_records import History
from coral_core.report.report_files import write_report
from coral_core.runs.editions import check_edition
from coral_core.runs.progress import Progress
from coral_core.runs.records import GenomeRecord, HeldOut, Outcome, Record
from coral_core.runs.run_folder import RunFolder, find_run, identify_run
from coral_core.runs.run_lock import hold
from coral_core.runs.sessions import RunState, WorkDone, run_state
from coral_core.search.tables import Table
from coral_core.store.store import Store

Result = TypeVar("Result")


class EvolutionResult(Frozen):
    """The results of a run, finished or not.

    Attributes:
        run_id: Name of the run, ``<name>-<10 hex digits>-e<edition>``.
        status: ``running``, ``finished``, ``stopped`` or ``failed`` (a text that is also an enum).
        champion: The best genome (the best so far while the run is not finished) with its scores; None before there is one.
        front: The Pareto front of everything evaluated so far.
        held_out: The final table: champion, baselines (`search.baselines`) and the median of generation 0 on the sealed split;
            empty before the end.
        history: All records of history.jsonl, in order.
        folder: The run's folder.
        report: The HTML report of the finished run; None before the end.
        adapter: Folder of the champion's adapter, which PEFT loads; None before the end.
    """

    run_id: str
    status: RunState
    champion: GenomeRecord | None
    front: tuple[GenomeRecord, ...]
    held_out: tuple[HeldOut, ...]
    history: tuple[Record, ...]
    folder: Path
    report: Path | None
    adapter: Path | None


def evolve(
    config: RunConfig,
    *,
    edition: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> EvolutionResult:
    """Search for the best adapter. Call it again to continue a stopped run, or to get the result of a finished one.

    Ctrl-C stops it (KeyboardInterrupt). Finished work is in the store and is not done again, however a session ended. In a
    notebook the evolution runs in its own thread, and the cell waits for it.

    Args:
        config: The whole configuration: `coral_core.load_config`, or `RunConfig` itself.
        edition: From 1 to 999,999,999,999; another number is a new run with other seeds, the same number a replay.
        progress: Called with the progress of the run at the start, about every second, and at the end. It runs in the
            evolution's event loop and must return at once; an exception that it raises ends the evolution.

    Returns:
        The result of the finished run.

    Raises:
        ConfigError: the configuration is invalid, another session works on this run, or `infra.executor` is work-pools,
            which needs Prefect.
        CoralError: a base model, problem, store or run's folder cannot be used, or a job failed in all its attempts.

    Example:
        >>> import tempfile
        >>> runs = tempfile.mkdtemp()
        >>> config = RunConfig.model_validate({
        ...     "name": "example", "runs": runs, "store": {"path": f"{runs}/store"},
        ...     "base_model": {"name": "rehearsal"},  # stands in for a model: takes no time
        ...     "infra": {"executor": "inline"},
        ...     "search": {"generations": 2, "population": 4, "elites": 1},
        ...     "problems": {"fitness": 8, "retention": 4, "monitor": 4, "held_out": 8, "pairs": 16},
        ... })
        >>> result = evolve(config)
        >>> result.status.value, result.champion.fitness > 0, len(result.held_out)
        ('finished', True, 4)
        >>> evolve(config) == result  # nothing is done twice
        True
    """
    if config.infra.executor == "work-pools":
        raise no_work_pools()
    check_edition(edition)
    preflight(config)
    folder = RunFolder.of(config, identify_run(config, edition))

    async def conduct(evolution: Evolution) -> bool:
        evolution.listeners += [_Callback(progress)] if progress is not None else []
        await evolution.run()
        return True

    _waited_for(run_evolution(config, edition, conduct))
    return _result(folder)


def open_run(path: str | Path) -> EvolutionResult:
    """The results of a run on disk, also while it is under way.

    Args:
        path: Folder of a run; or, below the folder of all runs, a unique beginning of a run id or ``latest``.

    Raises:
        ConfigError: there is no such run, or there are several.
        StoreError: a record of its history is broken.

    Example:
        >>> open_run("runs/no-such-run")
        Traceback (most recent call last):
        coral_core.errors.ConfigError: no-such-run: no such run in runs...
    """
    path = Path(path)
    return _result(find_run(path.parent, str(path) if (path / "run.json").exists() else path.name))


def compare(
    config: RunConfig,
    strategies: Sequence[str],
    *,
    seeds: int,
    budget: str | None = None,
    baseline: str | None = None,
    table: Path | None = None,
    into: Path | None = None,
    ended: Ended = lambda entrant, number, count, outcome: None,
) -> StrategyComparison:
    """Compare search strategies at equal budget over seeds. Call it again to go on; finished runs are not run again.

    All runs share the store of `config`. A result that another run left there is charged what it first cost.

    Args:
        config: What all strategies share: problems, judge, base model, genes, sizes. Seeds count from its `seed`.
        strategies: At least two: ``evolution``, or changed and with a name, ``no elites=evolution:search.elites=0``.
        seeds: Number of seeds, from 1; 6 or more for a test, 20 or more to see differences of medium size.
        budget: For each strategy with each seed: ``trainings=32``, ``gpu_seconds=3600`` or ``money=20``. None: the
            trainings that the generations of `config` need at most.
        baseline: The strategy that the others are tested against. None: ``random``, else the last.
        table: Folder of a gene table to play on instead of running; genes and scoring are then those of the table.
        into: Folder for comparison.html, .md and .json, and for the runs. None: one below ``RUNS/comparisons``.
        ended: Called before each run (without an outcome) and after it.

    Raises:
        ConfigError: nothing can be compared so; or `infra.executor` is work-pools, which needs Prefect (flows/compare.py).
        CoralError: as `evolve`.

    Example:
        >>> import tempfile
        >>> runs = tempfile.mkdtemp()
        >>> config = RunConfig.model_validate({
        ...     "name": "example", "runs": runs, "store": {"path": f"{runs}/store"},
        ...     "base_model": {"name": "rehearsal"}, "infra": {"executor": "inline"},
        ...     "search": {"generations": 2, "population": 4, "elites": 1},
        ...     "problems": {"fitness": 8, "retention": 4, "monitor": 4, "held_out": 8, "pairs": 16},
        ... })
        >>> found = compare(config, ["evolution", "random"], seeds=2, budget="trainings=6")
        >>> found.baseline, [test.verdict.value for test in found.tests if test.measure == "fitness"]
        ('random', ['too few seeds'])
        >>> {outcome.charged.trainings for outcome in found.outcomes}
        {6}
    """
    if table is not None:
        read = Table.read(table)
        plan = Plan.make(on_table(config, read), strategies, seeds, budget, baseline)
        return play_plan(plan, into or folder_of(plan, read), read, ended)
    if config.infra.executor == "work-pools":
        raise no_work_pools()
    plan = Plan.make(config, strategies, seeds, budget, baseline)

    found = _waited_for(run_plan(plan, into or folder_of(plan), run_to_end, ended))
    assert found is not None, "no run here is stopped without an exception"
    return found


async def run_to_end(config: RunConfig) -> bool:
    """Run the first edition of a configuration, or continue it, without anybody listening. False when it was stopped."""

    async def conduct(evolution: Evolution) -> bool:
        await evolution.run()
        return True

    return await run_evolution(config, 1, conduct) is not None


class _Callback(Listener):
    """Calls a function with the progress at the start, at each change and at a successful end."""

    def __init__(self, progress: Callable[[Progress], None]) -> None:
        self._progress = progress

    def started(self, progress: Progress, start: str) -> None:
        self._progress(progress)

    def changed(self, progress: Progress) -> None:
        self._progress(progress)

    def ended(self, progress: Progress, outcome: Outcome, error: str) -> None:
        if outcome == "finished":
            self._progress(progress)


def _result(folder: RunFolder) -> EvolutionResult:
    history = History.of(folder)
    final = history.final
    front = history.generations[-1].front if history.generations else ()
    report, adapter = folder.path / "report.html", folder.path / "champion"
    return EvolutionResult(
        run_id=folder.run_id,
        status=run_state(folder, WorkDone.of(folder)),
        champion=history.genomes.get(history.champion or ""),
        front=tuple(history.genomes[genome_id] for genome_id in front),
        held_out=final.held_out if final else (),
        history=tuple(folder.history()),
        folder=folder.path,
        report=report if final and report.exists() else None,
        adapter=adapter if final and adapter.exists() else None,
    )


Conduct = Callable[[Evolution], Awaitable[bool]]
"""Runs the evolution that it is given; returns False when it was stopped."""


async def run_evolution(
    config: RunConfig,
    edition: int,
    conduct: Conduct,
    make_executor: Callable[[RunConfig, Store, str], Executor] = make_executor,
    *,
    overrides: Sequence[str] = (),
    flow_run_id: str = "",
    api: str = "",
    scheduled: str = "",
) -> RunFolder | None:
    """Begin or continue a run under its lock; when it is finished, write its report and export its champion.

    Args:
        config: The whole configuration, after `preflight`.
        edition: Edition of the run.
        conduct: Runs the evolution, with the listeners that show it.
        make_executor: Called with configuration, store and run id.
        overrides: Differences from the configuration file (``--set``), kept with the run.
        flow_run_id: Prefect's flow run of this session; empty without Prefect.
        api: Address of the Prefect server; empty without Prefect.
        scheduled: Scheduled start of the run (`coral_core.runs.editions.stamp`); empty for a run by hand.

    Returns:
        The run's folder; None when it was stopped.

    Raises:
        ConfigError: another session works on this run.
        CoralError: as `Evolution.run`.
    """
    identity = identify_run(config, edition)
    store = Store(config.store.path)
    store.prepare()
    with hold(RunFolder.of(config, identity).path):
        folder = RunFolder.create(config, identity, overrides, flow_run_id, api, scheduled)
        with contextlib.ExitStack() as stack:
            with failure_recorded(folder):
                start = await asyncio.to_thread(freeze_start, folder, config)
                opened = await asyncio.to_thread(make_executor, config, store, identity.run_id)
                executor = stack.enter_context(opened)
            if not await conduct(Evolution(config, identity, folder, store, executor, start)):
                return None
        report = await asyncio.to_thread(write_report, folder, store)
        await asyncio.to_thread(export_champion, folder, store, report)
    return folder


def _waited_for(work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` to its end and return its result; in another thread if this one runs an event loop (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = Future()

    async def main() -> Result:
        started.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    with ThreadPoolExecutor(1, thread_name_prefix="evolution") as thread:
        done = thread.submit(lambda: asyncio.run(main()))
        try:
            return done.result()
        except BaseException:  # Ctrl-C arrives here
            loop, task = started.result()
            if task is not None and not done.done():
                loop.call_soon_threadsafe(task.cancel)
            raise
