"""State of an installation (pools, lanes, jobs, store, evolutions), as `coral status` and the metrics endpoint show it.

Values from the store's files are there also when the Prefect API cannot be reached; values from the API are null then.
"""

import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from coral_core.bounded_read import read_file
from coral_core.config.yaml_document import read_document
from coral_core.errors import CoralError
from coral_core.frozen import Frozen
from coral_core.ledger import Ledger
from coral_core.queue import JobQueue, LaneNote
from coral_core.report.content import RunLine
from coral_core.runs.run_folder import CONFIG_BYTES, RunFolder, latest_runs
from coral_core.runs.sessions import run_state, session_error, sessions, totals
from coral_core.store.store import Store
from flows.installation.obstacles import look_at_deployments, obstacles
from flows.installation.pool_status import QUEUES, PoolLook, look_at_pools
from flows.installation.pool_templates import POOLS
from flows.prefect_api.api_errors import ApiError
from flows.prefect_api.client import ANSWER_SECONDS, RestClient

HOUR = 3600.0
FRESH_SECONDS = 30.0
"""A lane whose note is older counts as offline."""
MOST_EVOLUTIONS = 10


class ApiFigures(Frozen):
    """The Prefect API, and whether it answered."""

    url: str | None = None
    reachable: bool = False
    problem: str = Field("", description="Why not, and what to do.")


class PoolFigures(Frozen):
    """One pool. Null: unknown, because the API cannot be reached or the pool has no queue of jobs."""

    name: str
    present: bool = True
    limit: int | None = Field(None, description="Largest number of lanes.")
    paused: bool | None = None
    workers_online: int | None = Field(None, description="Workers with recent heartbeats.")
    workers_silent: int | None = Field(None, description="Workers that Prefect lists, without recent heartbeats.")
    queued: int | None = Field(None, description="Waiting jobs (coral-control: evolutions).")
    running: int | None = Field(None, description="Jobs in lanes (coral-control: evolutions).")
    lanes_online: int | None = None
    lanes_starting: int | None = None
    utilisation: float | None = Field(None, description="Working lanes over the limit, now.")
    completed_last_hour: int | None = None
    failed_last_hour: int | None = Field(None, description="Failed attempts; most are retried.")
    failed: int | None = Field(None, description="Jobs that failed for good and were not cleared.")
    uncollected: int | None = Field(None, description="Results in the store that no evolution has collected.")
    jobs_measured: int | None = Field(
        None, description="Jobs behind the next five values: of the last hour, at most 64 per lane."
    )
    waiting_seconds_mean: float | None = Field(None, description="From ticket to claim.")
    waiting_seconds_p95: float | None = None
    work_seconds_mean: float | None = Field(None, description="From claim to result.")
    work_seconds_p95: float | None = None
    latency_seconds_mean: float | None = Field(None, description="Waiting plus work.")


class StoreFigures(Frozen):
    """Contents of the store."""

    path: str
    present: bool
    adapters: int = 0
    evaluations: int = 0
    bytes: int = 0
    bytes_exact: bool = Field(True, description="False: estimated from a sample of the entries.")


class EvolutionFigures(RunLine):
    """One run and what it has spent."""

    paused: str = Field("", description="Why it starts no new job (its budget).")
    gpu_hours: float | None = Field(None, description="Lane hours so far; null without a ledger.")
    money: float | None = Field(None, description="Their price.")
    currency: str | None = None
    budget_used: float | None = Field(None, description="Largest share of a limit that is spent; 0 without limits.")


class Unreadable(Frozen):
    """A run whose files cannot be read."""

    run_id: str
    problem: str


class StartObstacle(Frozen):
    """Why flow runs of a deployment do not start."""

    deployment: str
    text: str
    todo: str = ""


class Figures(Frozen):
    """The whole installation at one moment."""

    schema_version: int = 1
    api: ApiFigures
    pools: tuple[PoolFigures, ...]
    store: StoreFigures
    evolutions: tuple[EvolutionFigures, ...]
    obstacles: tuple[StartObstacle, ...] = Field(
        (), description="Why lanes or evolutions do not start; also empty when the API cannot be reached."
    )
    unreadable: tuple[Unreadable, ...] = Field((), description="Runs whose files cannot be read.")


def figures(
    place: str, runs: str, url: str | None, problem: str = "", answer_seconds: float = ANSWER_SECONDS
) -> Figures:
    """Read the state of an installation.

    Args:
        place: Path of the store.
        runs: Directory of the runs.
        url: URL of the Prefect API; None when none is configured.
        problem: Why there is none.
        answer_seconds: Longest wait for one answer of the API, in seconds.
    """
    store = Store(place)
    looks, found, api = _ask(url, problem, runs, answer_seconds)
    notes = list(JobQueue(store, "training").lanes.notes(since=time.time() - HOUR))
    by_name = {look.name: look for look in looks}
    evolutions, unreadable = _evolutions(runs, store)
    return Figures(
        api=api,
        pools=tuple(_pool(spec.name, by_name.get(spec.name), store, notes) for spec in POOLS),
        store=_store(store),
        evolutions=tuple(evolutions),
        obstacles=tuple(found),
        unreadable=tuple(unreadable),
    )


def _ask(
    url: str | None, problem: str, runs: str, answer_seconds: float
) -> tuple[list[PoolLook], list[StartObstacle], ApiFigures]:
    if url is None:
        return [], [], ApiFigures(problem=problem)
    try:
        with RestClient(url, answer_seconds) as api:
            found = [
                StartObstacle(deployment=look.name, text=obstacle.text, todo=obstacle.todo)
                for look in look_at_deployments(api, runs)
                for obstacle in obstacles(look)
                if not obstacle.busy
            ]
            return look_at_pools(api), found, ApiFigures(url=url, reachable=True)
    except ApiError as error:
        return [], [], ApiFigures(url=url, problem=str(error))


def _pool(name: str, look: PoolLook | None, store: Store, notes: Sequence[LaneNote]) -> PoolFigures:
    queue = QUEUES.get(name)
    seen: dict[str, object] = {"name": name}
    if look is not None:
        seen |= {"present": look.present, "limit": look.limit, "paused": look.paused}
        seen |= {"workers_online": look.workers_online, "workers_silent": len(look.workers) - look.workers_online}
        if queue is None:
            seen |= {"queued": look.queued, "running": look.running, "lanes_online": look.running}
        else:
            seen["lanes_starting"] = look.queued
    if queue is not None and store.is_prepared:
        seen |= _jobs(JobQueue(store, queue), [note for note in notes if note.queue == queue])
    running = seen.get("running")
    if look is not None and look.limit and isinstance(running, int):
        seen["utilisation"] = round(running / look.limit, 3)
    return PoolFigures.model_validate(seen)


def _jobs(queue: JobQueue, notes: Sequence[LaneNote]) -> dict[str, object]:
    """Values from the files of the queue and the notes of its lanes."""
    now = time.time()
    claims = {claim.digest for claim in queue.claims()}
    hours = [note.recent.last_hour(now) for note in notes]
    jobs = [job for note in notes for job in note.recent.jobs if not job.failed and now - job.ended < HOUR]
    waited, worked = [job.waited for job in jobs], [job.seconds for job in jobs]
    return {
        "queued": len(queue.open_digests() - claims),
        "running": len(claims),
        "lanes_online": sum(note.state != "ended" and queue.lanes.age(note.lane) < FRESH_SECONDS for note in notes),
        "completed_last_hour": sum(hour.done for hour in hours),
        "failed_last_hour": sum(hour.failed for hour in hours),
        "failed": len(queue.all_failed()),
        "uncollected": len(queue.uncollected()),
        "jobs_measured": len(jobs),
        "waiting_seconds_mean": mean(waited),
        "waiting_seconds_p95": percentile(waited, 0.95),
        "work_seconds_mean": mean(worked),
        "work_seconds_p95": percentile(worked, 0.95),
        "latency_seconds_mean": mean([w + s for w, s in zip(waited, worked, strict=True)]),
    }


def mean(values: Sequence[float]) -> float | None:
    """To the millisecond; None of nothing."""
    return round(statistics.fmean(values), 3) if values else None


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of `values` do not exceed (nearest rank); None of nothing."""
    return round(sorted(values)[math.ceil(share * len(values)) - 1], 3) if values else None


def _store(store: Store) -> StoreFigures:
    if not store.is_prepared:
        return StoreFigures(path=str(store.root), present=False)
    found = store.size()
    return StoreFigures(
        path=str(store.root),
        present=True,
        adapters=found.adapters,
        evaluations=found.evaluations,
        bytes=found.bytes,
        bytes_exact=found.exact,
    )


def _evolutions(runs: str, store: Store) -> tuple[list[EvolutionFigures], list[Unreadable]]:
    ledger = Ledger(store)
    lines, unreadable = [], []
    for folder in latest_runs(runs, MOST_EVOLUTIONS):
        try:
            lines.append(EvolutionFigures(**_line(folder), **_spent(ledger, folder, store)))
        except (
            CoralError,
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            unreadable.append(Unreadable(run_id=folder.run_id, problem=_problem(folder, error)))
    return lines, unreadable


def _problem(folder: RunFolder, error: Exception) -> str:
    """What is wrong, in one line; where the configuration itself is broken, its reader's message."""
    try:
        folder.config()
    except (CoralError, OSError, ValueError) as better:
        error = better
    return (str(error).splitlines() or [type(error).__name__])[0]


def _line(folder: RunFolder) -> dict[str, object]:
    """The keys of a `RunLine`, from the last records alone: a run of 200 generations has a history of megabytes."""
    work = sessions(folder.timings())
    spent = totals(work)
    final, last = folder.last("final"), folder.last("generation")
    state = run_state(folder, work)
    held_out = [line.pass_at_1 for line in final.held_out if line.name == "champion"] if final is not None else []
    config, _ = read_document(read_file(folder.path / "config.yaml", CONFIG_BYTES).decode(), "config.yaml")
    return {
        "run_id": folder.run_id,
        "status": state,
        "error": session_error(state, work),
        "generation": last.generation if last is not None else None,
        "generations": config["search"]["generations"],
        "best_fitness": last.best_fitness if last is not None else None,
        "champion": final.champion if final is not None else last.best if last is not None else None,
        "champion_held_out_pass_at_1": held_out[0] if held_out else None,
        "started": folder.made(),
        "seconds": spent.seconds,
        "cpu_seconds": spent.cpu_seconds,
        "trainings": spent.trainings,
        "evaluations": spent.evaluations,
        "path": str(folder.path),
    }


def _spent(ledger: Ledger, folder: RunFolder, store: Store) -> dict[str, object]:
    if not (Path(store.root) / "ledger" / "budgets" / f"{folder.run_id}.json").exists():
        return {}
    try:
        standing = ledger.standing(folder.run_id)
    except CoralError as error:
        return {"paused": str(error)}
    return {
        "paused": str(standing.closed or ""),
        "gpu_hours": round(standing.spent.gpu_hours, 4),
        "money": round(standing.spent.money, 4),
        "currency": standing.currency,
        "budget_used": round(standing.used, 4),
    }
