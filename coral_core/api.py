"""The Python API of an evolution: run one, or open one that is on disk.

Needs neither Prefect nor a server: jobs run on this machine (`infra.executor` local or inline). The same run can go on
with ``coral evolve``, and the other way round: both do what is missing of the folder ``runs/<run id>/``.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from coral_core.config import RunConfig
from coral_core.evolution.listener import Listener
from coral_core.evolution.loop import Evolution, failure_recorded
from coral_core.evolution.preflight import preflight
from coral_core.evolution.warm_start import freeze_start
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
from coral_core.store.store import Store

Result = TypeVar("Result")


class EvolutionResult(Frozen):
    """What a run has found, finished or not.

    Attributes:
        run_id: Name of the run, ``<name>-<10 hex digits>-e<edition>``.
        status: ``running``, ``finished``, ``stopped`` or ``failed`` (a text that is also an enum).
        champion: The best genome (the best so far while the run is not finished) with its scores; None before there is one.
        front: The Pareto front of everything evaluated so far.
        held_out: The final table: champion, base model, default LoRA and the median of generation 0 on the sealed split;
            empty before the end.
        history: All records of history.jsonl, in order.
        folder: The run's folder.
        report: The page of the finished run; None before the end.
        adapter: The champion as a folder that PEFT loads; None before the end.
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
    """Search for the best adapter; run it again to go on, or to get the result of a run that is finished.

    Works until the search is done; Ctrl-C stops it (KeyboardInterrupt). Whatever ended a session, also a kill, finished
    work is in the store and is never done again. In a notebook the evolution runs in a thread of its own, and the cell
    waits for it.

    Args:
        config: The whole configuration: `coral_core.load_config`, or `RunConfig` itself.
        edition: 1 to 999,999,999,999; another number makes a new run with other seeds, a repeat of a number is a replay.
        progress: Is called with where the run stands, at the start, about every second and at the end, in the evolution's event
            loop; it must return at once. What it raises ends the evolution.

    Returns:
        The result of the finished run.

    Raises:
        ConfigError: the configuration cannot work; another session works on this run; `infra.executor` is work-pools,
            which needs Prefect.
        CoralError: the base model, a problem, a job, the store or the run's folder failed for good.

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
    """What the run in the folder `path` has found, also while it is under way.

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


class _Callback(Listener):
    """Calls a function with the progress."""

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
"""Runs the evolution it is given; False when somebody stopped it."""


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
    """Begin a run, or go on with it, from what is in its folder and in the store; at its end write report and champion.

    Args:
        config: The whole configuration, after `preflight`.
        edition: Of the run.
        conduct: Runs the evolution, with whatever shows it.
        make_executor: Called with configuration, store and run id.
        overrides: What ``--set`` changed, kept with the run.
        flow_run_id: Prefect's flow run of this session.
        api: Of the Prefect server.
        scheduled: The start that a schedule made the run for (`coral_core.runs.editions`).

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
        with contextlib.ExitStack() as lasting:
            with failure_recorded(folder):
                start = await asyncio.to_thread(freeze_start, folder, config)
                made = await asyncio.to_thread(make_executor, config, store, identity.run_id)
                executor = lasting.enter_context(made)
            if not await conduct(Evolution(config, identity, folder, store, executor, start)):
                return None
        report = await asyncio.to_thread(write_report, folder, store)
        await asyncio.to_thread(export_champion, folder, store, report)
    return folder


def _waited_for(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`; where this thread runs an event loop (a notebook), it is done in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = Future()

    async def main() -> Result:
        begun.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    with ThreadPoolExecutor(1, thread_name_prefix="evolution") as thread:
        done = thread.submit(lambda: asyncio.run(main()))
        try:
            return done.result()
        except BaseException:  # Ctrl-C arrives here
            loop, task = begun.result()
            if task is not None and not done.done():
                loop.call_soon_threadsafe(task.cancel)
            raise
