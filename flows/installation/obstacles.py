"""Why flow runs of a deployment do not start: one answer for evolutions, `coral status` and `coral health`.

Reads the deployment and its concurrency limit, its work pool, its work queue, and the pool's workers. Not covered: Prefect's
tag limits, which hold for task runs alone, and what the server does not know, such as a worker's `--limit` or a missing image.
A paused deployment only skips its schedule.
"""

import functools
from collections.abc import Iterator

from pydantic import Field

from coral_core.errors import CoralError
from coral_core.frozen import Frozen
from coral_core.runs.run_folder import latest_runs
from flows.installation.pool_templates import DEPLOYMENTS
from flows.prefect_api.client import ConcurrencyLimit, RestClient, Worker, WorkPool, WorkQueue, flow_run_query

ONLINE_BEATS = 3
"""Heartbeats that a worker may miss before Prefect calls it OFFLINE."""
POLLED_SECONDS = 120.0
"""A worker asks for the flow runs of its queues every few seconds; what nobody asked for so long has no worker."""


class Obstacle(Frozen):
    """One reason why flow runs do not start, and its remedy."""

    key: str = Field(description="Kind and subject; stays the same while the reason lasts, whatever its numbers.")
    text: str
    todo: str
    busy: bool = Field(False, description="All places are in use by others; it passes by itself.")

    def __str__(self) -> str:
        return f"{self.text}. {self.todo}" if self.todo else self.text


class Line(Frozen):
    """State of a work queue or a work pool."""

    name: str
    present: bool = True
    paused: bool = False
    limit: int | None = None
    used: int = Field(0, description="Flow runs that hold a place; counted only where there is a limit.")
    polled: float | None = Field(None, description="Seconds since a worker asked for work of the queue; None: never.")


class DeploymentLook(Frozen):
    """State of a deployment and of everything behind it that decides whether its flow runs start."""

    name: str
    present: bool = True
    paused: bool = Field(False, description="Its schedule is paused; flow runs that are asked for start all the same.")
    pool: Line | None = None
    queue: Line | None = None
    limit: int | None = Field(None, description="Flow runs of the deployment at a time.")
    used: int = 0
    limit_active: bool = True
    workers_online: int = 0
    workers_known: int = 0


class Deployments:
    """Reads the state of deployments; pools and workers that several of them share are requested once."""

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


STARTED = [name for name in DEPLOYMENTS if name != "test-patches/test-patches"]
"""Deployments of `coral setup`; `test-patches` shares pool and queue with evaluations."""
MOST_RUNS = 10


def look_at_deployments(api: RestClient, runs: str) -> Iterator[DeploymentLook]:
    """Deployments of `coral setup` that exist, and all from which running evolutions under `runs` start lanes."""
    used = _in_use(runs)
    seen = Deployments(api)
    for name in dict.fromkeys((*STARTED, *used)):
        look = seen.look(name)
        if look.present or name in used:
            yield look


def _in_use(runs: str) -> list[str]:
    """Deployments of the lanes of running evolutions."""
    found = []
    for folder in latest_runs(runs, MOST_RUNS):
        try:
            infra = folder.config().infra if folder.lives() else None
        except (CoralError, OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # listed as unreadable among the evolutions
        if infra is not None and infra.executor == "work-pools":
            found += [infra.training.deployment, infra.evaluation.deployment]
    return list(dict.fromkeys(found))


def obstacles(look: DeploymentLook) -> tuple[Obstacle, ...]:
    """Everything known that keeps flow runs of the deployment from starting, the most lasting reason first."""
    return tuple(_obstacles(look))


def _obstacles(look: DeploymentLook) -> Iterator[Obstacle]:
    pool, queue = look.pool, look.queue
    if not look.present:
        text = f"waiting for deployment {look.name}: the server has none of that name"
        yield _gone(f"deployment gone {look.name}", text)
    elif pool is None or queue is None:
        text = f"deployment {look.name} has no work pool or queue any more: it was deleted"
        yield _gone(f"no pool {look.name}", text)
    elif not pool.present:
        yield _gone(f"pool gone {pool.name}", f"work pool {pool.name} is gone")
    else:
        lines = _lines(pool, queue)
        closed = [*(each for line in lines for each in _closed(*line)), *_own_limit(look)]
        yield from closed
        yield from _workers(look, pool, queue, open=not closed)
        for _, line, where, *_ in lines:
            if line.limit and line.used >= line.limit:
                yield _taken(where, line.limit, where)
        if look.limit and look.limit_active and look.used >= look.limit:
            yield _taken(look.name, look.limit, f"deployment {look.name}")


def _lines(pool: Line, queue: Line) -> tuple[tuple[str, Line, str, str, str], ...]:
    """Pool and queue, each as key, status, words, command and the arguments that name it there."""
    return (
        (f"pool {{}} {pool.name}", pool, f"work pool {pool.name}", "work-pool", pool.name),
        (
            f"queue {{}} {pool.name}/{queue.name}",
            queue,
            f"work queue {queue.name} of pool {pool.name}",
            "work-queue",
            f"{queue.name} --pool {pool.name}",
        ),
    )


def _closed(key: str, line: Line, where: str, command: str, named: str) -> Iterator[Obstacle]:
    if not line.present:
        yield _gone(key.format("gone"), f"{where} is gone")
    if line.paused:
        todo = f"Resume it with: prefect {command} resume {named}"
        yield Obstacle(key=key.format("paused"), text=f"{where} is paused", todo=todo)
    if line.limit == 0:
        name, _, option = named.partition(" ")
        todo = f"Raise it with: prefect {command} set-concurrency-limit {name} N {option}".rstrip()
        yield Obstacle(key=key.format("limit"), text=f"{where} has a concurrency limit of 0", todo=todo)


def _gone(key: str, text: str) -> Obstacle:
    return Obstacle(key=key, text=text, todo="Run: coral setup")


def _taken(key: str, places: int, where: str) -> Obstacle:
    return Obstacle(key=f"taken {key}", text=f"all {places} places of {where} are taken", todo="", busy=True)


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
