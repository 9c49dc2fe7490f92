"""What keeps flow runs of a deployment from starting, as the server's own state says: one answer for evolutions, status and health.

Looked at are the deployment and its concurrency limit, its work pool, its work queue, and the pool's workers. Prefect's tag
limits hold for task runs, of which lanes have none; a deployment that is paused only skips its schedule. Not known to the
server, and so not to this: how many flow runs a worker takes (`--limit`), and whether it gets its processes or containers.
"""

import functools
from collections.abc import Iterator

from pydantic import Field

from coral_core.errors import CoralError
from coral_core.frozen import Frozen
from coral_core.runs.run_folder import latest_runs
from flows.prefect_api.client import ConcurrencyLimit, RestClient, Worker, WorkPool, WorkQueue, flow_run_query

ONLINE_BEATS = 3
"""Heartbeats that a worker may miss before Prefect calls it OFFLINE."""
POLLED_SECONDS = 120.0
"""A worker asks for the flow runs of its queues every few seconds; what nobody asked for so long has no worker."""


class Obstacle(Frozen):
    """One reason, and the remedy."""

    key: str = Field(description="Names kind and subject; the same for as long as the reason is, whatever its numbers.")
    text: str
    todo: str
    busy: bool = Field(False, description="Others use what there is; it passes by itself.")

    def __str__(self) -> str:
        return f"{self.text}. {self.todo}" if self.todo else self.text


class Line(Frozen):
    """A work queue or a work pool."""

    name: str
    present: bool = True
    paused: bool = False
    limit: int | None = None
    used: int = Field(0, description="Flow runs that hold a place; counted only where there is a limit.")
    polled: float | None = Field(None, description="Seconds since a worker asked for work of the queue; None: never.")


class DeploymentLook(Frozen):
    """A deployment, and everything behind it that decides whether its flow runs start."""

    name: str
    present: bool = True
    paused: bool = Field(False, description="Its schedule is: flow runs that are asked for start all the same.")
    pool: Line | None = None
    queue: Line | None = None
    limit: int | None = Field(None, description="Flow runs of the deployment at a time.")
    used: int = 0
    limit_active: bool = True
    workers_online: int = 0
    workers_known: int = 0


class Deployments:
    """Looks at deployments; pools and workers that several of them share are asked for once."""

    def __init__(self, api: RestClient) -> None:
        self._api = api
        self.look = functools.cache(self._look)
        self._pool = functools.cache(api.work_pool)
        self._queue = functools.cache(api.work_queue)
        self._workers = functools.cache(api.workers)

    def _look(self, name: str) -> DeploymentLook:
        """One deployment by its full name. Raises `ApiError`."""
        found = self._api.deployment(name)
        if found is None:
            return DeploymentLook(name=name, present=False)
        pool, queue = found.work_pool_name or "", found.work_queue_name or ""
        own = found.global_concurrency_limit or ConcurrencyLimit()
        workers = self._workers(pool) if pool else []
        return DeploymentLook(
            name=name,
            paused=found.paused,
            pool=self._line(pool, self._pool(pool)) if pool else None,
            queue=self._line(pool, self._queue(pool, queue), queue) if pool and queue else None,
            limit=own.limit,
            used=own.active_slots,
            limit_active=own.active,
            workers_online=sum(self._beats(worker) for worker in workers),
            workers_known=len(workers),
        )

    def _line(self, pool: str, found: WorkPool | WorkQueue | None, queue: str = "") -> Line:
        if found is None:
            return Line(name=queue or pool, present=False)
        limit, polled = found.concurrency_limit, found.last_polled if isinstance(found, WorkQueue) else None
        held = flow_run_query(states=["PENDING", "RUNNING"], pools=[pool], queue=queue)
        return Line(
            name=queue or pool,
            paused=found.is_paused,
            limit=limit,
            used=self._api.count_flow_runs(held) if limit else 0,
            polled=self._api.age(polled) if polled is not None else None,
        )

    def _beats(self, worker: Worker) -> bool:
        beat = worker.last_heartbeat_time
        return beat is not None and self._api.age(beat) <= ONLINE_BEATS * (worker.heartbeat_interval_seconds or 30.0)


HOUSE = ("evolve/evolve", "train-adapters/train-adapters", "evaluate-genomes/evaluate-genomes")
"""What `coral setup` makes; `test-patches` shares pool and queue with evaluations."""
MOST_RUNS = 10


def look_at_deployments(api: RestClient, runs: str) -> Iterator[DeploymentLook]:
    """The deployments of the house that are there, and all that evolutions under `runs` that work now ask lanes of."""
    used = in_use(runs)
    seen = Deployments(api)
    for name in dict.fromkeys((*HOUSE, *used)):
        look = seen.look(name)
        if look.present or name in used:
            yield look


def in_use(runs: str) -> list[str]:
    """Deployments of the lanes of evolutions that work now; of those whose configuration can be read."""
    found = []
    for folder in latest_runs(runs, MOST_RUNS):
        try:
            infra = folder.config().infra if folder.lives() else None
        except (CoralError, OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # it is named as unreadable where evolutions are listed
        if infra is not None and infra.executor == "work-pools":
            found += [infra.training.deployment, infra.evaluation.deployment]
    return list(dict.fromkeys(found))


def obstacles(look: DeploymentLook) -> tuple[Obstacle, ...]:
    """Everything that keeps flow runs of the deployment from starting, the most lasting first; empty when nothing is known to."""
    return tuple(_obstacles(look))


def _obstacles(look: DeploymentLook) -> Iterator[Obstacle]:
    if not look.present:
        yield missing(look.name)
        return
    pool, queue = look.pool, look.queue
    if pool is None or queue is None:
        yield Obstacle(
            key=f"no pool {look.name}",
            text=f"deployment {look.name} has no work pool or queue any more: it was deleted",
            todo="Run: coral setup",
        )
        return
    if not pool.present:
        yield Obstacle(key=f"pool gone {pool.name}", text=f"work pool {pool.name} is gone", todo="Run: coral setup")
        return
    closed = [*_pool(pool), *_queue(pool, queue), *_own_limit(look)]
    yield from closed
    yield from _workers(look, pool, queue, open=not closed)
    yield from _taken(look, pool, queue)


def missing(deployment: str) -> Obstacle:
    """The deployment is not there."""
    return Obstacle(
        key=f"deployment gone {deployment}",
        text=f"waiting for deployment {deployment}: the server has none of that name",
        todo="Run: coral setup",
    )


def _pool(pool: Line) -> Iterator[Obstacle]:
    if pool.paused:
        yield Obstacle(
            key=f"pool paused {pool.name}",
            text=f"work pool {pool.name} is paused",
            todo=f"Resume it with: prefect work-pool resume {pool.name}",
        )
    if pool.limit == 0:
        yield Obstacle(
            key=f"pool limit {pool.name}",
            text=f"work pool {pool.name} has a concurrency limit of 0",
            todo=f"Raise it with: prefect work-pool set-concurrency-limit {pool.name} N",
        )


def _queue(pool: Line, queue: Line) -> Iterator[Obstacle]:
    where = f"work queue {queue.name} of pool {pool.name}"
    if not queue.present:
        yield Obstacle(key=f"queue gone {pool.name}/{queue.name}", text=f"{where} is gone", todo="Run: coral setup")
        return
    if queue.paused:
        yield Obstacle(
            key=f"queue paused {pool.name}/{queue.name}",
            text=f"{where} is paused",
            todo=f"Resume it with: prefect work-queue resume {queue.name} --pool {pool.name}",
        )
    if queue.limit == 0:
        yield Obstacle(
            key=f"queue limit {pool.name}/{queue.name}",
            text=f"{where} has a concurrency limit of 0",
            todo=f"Raise it with: prefect work-queue set-concurrency-limit {queue.name} N --pool {pool.name}",
        )


def _own_limit(look: DeploymentLook) -> Iterator[Obstacle]:
    if look.limit == 0:
        yield Obstacle(
            key=f"deployment limit {look.name}",
            text=f"deployment {look.name} has a concurrency limit of 0",
            todo="Raise it in the Prefect UI (Deployments), or run: coral setup",
        )
    elif look.limit is not None and not look.limit_active:
        yield Obstacle(
            key=f"deployment limit {look.name}",
            text=f"the concurrency limit of deployment {look.name} is switched off, so Prefect gives none of its places away",
            todo="Switch it on in the Prefect UI (Concurrency)",
        )


def _workers(look: DeploymentLook, pool: Line, queue: Line, open: bool) -> Iterator[Obstacle]:
    if not look.workers_online:
        silent = f" ({look.workers_known} that were there are silent)" if look.workers_known else ""
        yield Obstacle(
            key=f"no worker {pool.name}",
            text=f"work pool {pool.name} has no worker online{silent}",
            todo=f"Start one with: prefect worker start --pool {pool.name}",
        )
    elif open and (queue.polled is None or queue.polled > POLLED_SECONDS):
        since = "" if queue.polled is None else f" since {queue.polled:.0f} s ago"
        yield Obstacle(
            key=f"queue not polled {pool.name}/{queue.name}",
            text=f"workers of pool {pool.name} are online ({look.workers_online}), and the server knows of none that asked for work of its queue {queue.name}{since}",
            todo=f"See their logs, and coral doctor: they may have been killed just now, or serve other queues (prefect worker start --pool {pool.name} serves all)",
        )


def _taken(look: DeploymentLook, pool: Line, queue: Line) -> Iterator[Obstacle]:
    """Places that others have."""
    lines = ((pool, f"work pool {pool.name}"), (queue, f"work queue {queue.name} of pool {pool.name}"))
    for line, where in lines:
        if line.limit and line.used >= line.limit:
            text = f"all {line.limit} places of {where} are taken"
            yield Obstacle(key=f"taken {where}", text=text, todo="", busy=True)
    if look.limit and look.limit_active and look.used >= look.limit:
        text = f"all {look.limit} places of deployment {look.name} are taken"
        yield Obstacle(key=f"taken {look.name}", text=text, todo="", busy=True)
