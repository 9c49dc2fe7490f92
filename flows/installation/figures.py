"""State of an installation (pools, lanes, jobs, store, evolutions), as `coral status` and the metrics endpoint show it.

When the Prefect API cannot be reached, values from the API are null and values from the store's files are still read.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from coral_core.errors import CoralError
from coral_core.frozen import Frozen
from coral_core.jobs.jobs import DeviceTime
from coral_core.ledger import Ledger
from coral_core.runs.run_folder import RunFolder, latest_runs
from coral_core.runs.run_line import RunLine, run_line
from coral_core.store.store import Store
from flows.installation.obstacles import obstacles, read_deployments
from flows.installation.pool_status import QUEUES, PoolStatus, read_pools
from flows.installation.pool_templates import POOLS
from flows.installation.queue_status import QueueStatus, read_queues
from flows.prefect_api.api_errors import ApiError
from flows.prefect_api.client import ANSWER_SECONDS, RestClient

FRESH_SECONDS = 30.0
"""A lane whose note is older counts as offline."""
MOST_EVOLUTIONS = 10
UNREADABLE = (CoralError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""Exceptions that reading a damaged run folder may raise."""


class ApiFigures(Frozen):
    """The Prefect API, and whether it answered."""

    url: str | None = None
    reachable: bool = False
    problem: str = Field("", description="Reason why it cannot be used.")
    remedy: str = Field("", description="Remedy for the problem.")

    @classmethod
    def of_error(cls, url: str | None, error: CoralError) -> "ApiFigures":
        """The state of an API that cannot be used.

        Args:
            url: Its URL; None when none is configured.
            error: Why it cannot be used; gives problem and remedy.
        """
        return cls(url=url, problem=error.problem, remedy=error.remedy)


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
    device: DeviceTime | None = Field(
        None, description="Seconds of the lanes of the last 24 hours by what their devices did, each since its start."
    )

    def device_share(self, state: str) -> float | None:
        """Share of these seconds, as `DeviceTime.shares` names them; None when there are none."""
        return None if self.device is None else self.device.shares().get(state)


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

    paused: str = Field("", description="Reason why its budget allows no new job.")
    gpu_hours: float | None = Field(None, description="Lane hours so far; null without a ledger.")
    money: float | None = Field(None, description="Their price.")
    currency: str | None = None
    budget_used: float | None = Field(None, description="Largest share of a limit that is spent; 0 without limits.")


class Unreadable(Frozen):
    """A run whose files cannot be read."""

    run_id: str
    problem: str


class StartObstacle(Frozen):
    """The reason why flow runs of a deployment do not start."""

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
    place: str, runs: str, url: str | None, error: CoralError | None = None, answer_seconds: float = ANSWER_SECONDS
) -> Figures:
    """Read the state of an installation.

    Args:
        place: Path of the store.
        runs: Directory of the runs.
        url: URL of the Prefect API; None when none is configured.
        error: Why there is none; read only where `url` is None.
        answer_seconds: Longest wait for one answer of the API, in seconds.

    Returns:
        The state; an API that does not answer is recorded in it and raises nothing.
    """
    store = Store(place)
    pools: tuple[PoolStatus, ...] = ()
    found: list[StartObstacle] = []
    api = ApiFigures.of_error(url, error or CoralError())
    if url is not None:
        try:
            with RestClient(url, answer_seconds) as client:
                pools, found = read_pools(client), _obstacles(client)
            api = ApiFigures(url=url, reachable=True)
        except ApiError as unreachable:
            api = ApiFigures.of_error(url, unreachable)
    queues = {queue.name: queue for queue in read_queues(store)} if store.is_prepared else {}
    by_name = {pool.name: pool for pool in pools}
    evolutions, unreadable = _evolutions(runs, store)
    return Figures(
        api=api,
        pools=tuple(_pool(spec.name, by_name.get(spec.name), queues) for spec in POOLS),
        store=_store(store),
        evolutions=tuple(evolutions),
        obstacles=tuple(found),
        unreadable=tuple(unreadable),
    )


def _obstacles(client: RestClient) -> list[StartObstacle]:
    """Obstacles of the deployments of `coral setup`; none when it was never run, so that no deployment exists."""
    deployments = read_deployments(client)
    return [
        StartObstacle(deployment=deployment.name, text=obstacle.problem, todo=obstacle.remedy)
        for deployment in deployments
        for obstacle in obstacles(deployment)
        if not obstacle.is_busy and any(each.present for each in deployments)
    ]


def _pool(name: str, pool: PoolStatus | None, queues: Mapping[str, QueueStatus]) -> PoolFigures:
    queue = QUEUES.get(name)
    seen: dict[str, object] = {"name": name}
    if pool is not None:
        seen |= {"present": pool.present, "limit": pool.concurrency_limit, "paused": pool.is_paused}
        seen |= {"workers_online": pool.workers_online, "workers_silent": len(pool.workers) - pool.workers_online}
        if queue is None:
            seen |= {"queued": pool.queued, "running": pool.running, "lanes_online": pool.running}
        else:
            seen["lanes_starting"] = pool.queued
    if queue is not None and queue in queues:
        seen |= _jobs(queues[queue])
    running = seen.get("running")
    if pool is not None and pool.concurrency_limit and isinstance(running, int):
        seen["utilisation"] = round(running / pool.concurrency_limit, 3)
    return PoolFigures.model_validate(seen)


def _jobs(queue: QueueStatus) -> dict[str, object]:
    waited, worked = [job.waited for job in queue.jobs], [job.seconds for job in queue.jobs]
    return {
        "queued": queue.waiting,
        "running": queue.claims,
        "lanes_online": sum(lane.age < FRESH_SECONDS for lane in queue.lanes),
        "completed_last_hour": queue.done_last_hour,
        "failed_last_hour": queue.tries_failed_last_hour,
        "failed": queue.failed,
        "uncollected": len(queue.uncollected),
        "jobs_measured": len(queue.jobs),
        "device": queue.device,
        "waiting_seconds_mean": mean(waited),
        "waiting_seconds_p95": percentile(waited, 0.95),
        "work_seconds_mean": mean(worked),
        "work_seconds_p95": percentile(worked, 0.95),
        "latency_seconds_mean": mean([w + s for w, s in zip(waited, worked, strict=True)]),
    }


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean of `values`, rounded to 3 decimals; None for an empty sequence."""
    return round(statistics.fmean(values), 3) if values else None


def percentile(values: Sequence[float], share: float) -> float | None:
    """Percentile of `values` by the nearest-rank method, rounded to 3 decimals.

    Args:
        values: In any order.
        share: In (0, 1]; 0.95 is the 95th percentile.

    Returns:
        The smallest value that at least `share` of `values` do not exceed; None for an empty sequence.

    Example:
        >>> percentile([4.0, 1.0, 3.0, 2.0], 0.75)
        3.0
    """
    return round(sorted(values)[math.ceil(share * len(values)) - 1], 3) if values else None


def _store(store: Store) -> StoreFigures:
    if not store.is_prepared:
        return StoreFigures(path=str(store.root), present=False)
    found = store.size()
    return StoreFigures(
        path=str(store.root), present=True, bytes_exact=found.exact, **found.model_dump(exclude={"exact"})
    )


def _evolutions(runs: str, store: Store) -> tuple[list[EvolutionFigures], list[Unreadable]]:
    ledger = Ledger(store)
    lines, unreadable = [], []
    for folder in latest_runs(runs, MOST_EVOLUTIONS):
        try:
            lines.append(EvolutionFigures(**run_line(folder).model_dump(), **_spent(ledger, folder, store)))
        except UNREADABLE as error:
            unreadable.append(Unreadable(run_id=folder.run_id, problem=first_line(folder, error)))
    return lines, unreadable


def first_line(folder: RunFolder, error: Exception) -> str:
    """One line that says what is wrong with the files of a run.

    Args:
        folder: The run.
        error: Raised while its files were read.

    Returns:
        First line of the error of its configuration where that cannot be read either, else of `error`.
    """
    try:
        folder.config()
    except (CoralError, OSError, ValueError) as better:
        error = better
    return (str(error).splitlines() or [type(error).__name__])[0]


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
