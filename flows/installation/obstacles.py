"""Reasons why flow runs of a deployment do not start; used by evolutions, `coral status` and `coral health`.

Reads the deployment and its concurrency limit, its work pool, its work queue, and the pool's workers. Not covered: Prefect's
tag limits, which apply to task runs only, and what the server does not know, such as a worker's `--limit` or a missing image.
A paused deployment is no obstacle: it only skips its schedule.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum

from pydantic import Field

from coral_core.frozen import Frozen
from flows.installation.pool_templates import DEPLOYMENTS
from flows.prefect_api.client import ConcurrencyLimit, Deployment, RestClient, WorkPool, WorkQueue, flow_run_query

POLLED_SECONDS = 120.0
"""A queue that was not polled for this long has no worker; a worker polls its queues every few seconds."""
LANE_STARTS = [name for name in DEPLOYMENTS if name != "test-patches/test-patches"]
"""Deployments of `coral setup`; `test-patches` shares pool and queue with evaluations."""


class Reason(StrEnum):
    """Kind of reason why flow runs do not start."""

    GONE = "gone"
    PAUSED = "paused"
    LIMIT_ZERO = "limit-zero"
    LIMIT_OFF = "limit-off"
    NO_WORKER = "no-worker"
    NOT_POLLED = "not-polled"
    BUSY = "busy"


class Obstacle(Frozen):
    """One reason why flow runs do not start, and its remedy."""

    reason: Reason
    subject: str = Field(description="The object concerned, for example `work pool coral-a100`.")
    problem: str
    remedy: str = ""

    @property
    def key(self) -> str:
        """Identifies reason and subject; the same while the reason lasts, whatever numbers `problem` contains."""
        return f"{self.reason} {self.subject}"

    @property
    def is_busy(self) -> bool:
        """All places are in use; this ends by itself."""
        return self.reason is Reason.BUSY

    def __str__(self) -> str:
        return f"{self.problem}. {self.remedy}" if self.remedy else self.problem


class DeploymentStatus(Deployment):
    """A deployment and everything behind it that decides whether its flow runs start."""

    name: str
    present: bool = True
    pool: WorkPool | None = None
    queue: WorkQueue | None = None
    pool_used: int = Field(0, description="Flow runs that hold a place of the pool; counted only where it has a limit.")
    queue_used: int = Field(0, description="The same of the queue.")
    workers_online: int = 0
    workers_known: int = 0


def read_deployments(api: RestClient, names: Iterable[str] = LANE_STARTS) -> tuple[DeploymentStatus, ...]:
    """Read deployments from the server.

    Args:
        api: A client of the server.
        names: Full names (flow/deployment).

    Raises:
        ApiError: The API cannot be reached or refuses.
    """
    return tuple(read_deployment(api, name) for name in names)


def read_deployment(api: RestClient, name: str) -> DeploymentStatus:
    """Read one deployment with its pool, queue and workers.

    Args:
        api: A client of the server.
        name: Full name (flow/deployment).

    Returns:
        Its state; with `present` False when the server has no deployment of that name.

    Raises:
        ApiError: The API cannot be reached or refuses.
    """
    deployment = api.deployment(name)
    if deployment is None:
        return DeploymentStatus(name=name, present=False)
    pool, queue = deployment.work_pool_name or "", deployment.work_queue_name or ""
    of_pool = api.work_pool(pool) if pool else None
    of_queue = api.work_queue(pool, queue) if pool and queue else None
    workers = api.workers(pool) if pool else []
    return DeploymentStatus(
        **deployment.model_dump(),
        name=name,
        pool=of_pool,
        queue=of_queue,
        pool_used=_used(api, of_pool, pool),
        queue_used=_used(api, of_queue, pool, queue),
        workers_online=sum(worker.is_online for worker in workers),
        workers_known=len(workers),
    )


def _used(api: RestClient, found: WorkPool | WorkQueue | None, pool: str, queue: str = "") -> int:
    if found is None or not found.concurrency_limit:
        return 0
    return api.count_flow_runs(flow_run_query(states=["PENDING", "RUNNING"], pools=[pool], queue=queue))


def obstacles(found: DeploymentStatus) -> tuple[Obstacle, ...]:
    """Everything known that keeps flow runs of the deployment from starting; permanent reasons before full places."""
    deployment, pool, queue = f"deployment {found.name}", found.work_pool_name, found.work_queue_name
    if not found.present:
        return (_gone(deployment, f"waiting for {deployment}: the server has none of that name"),)
    if not pool or not queue:
        return (_gone(deployment, f"{deployment} has no work pool or queue any more: it was deleted"),)
    label, start = f"work pool {pool}", f"prefect worker start --pool {pool}"
    if found.pool is None:
        return (_gone(label, f"{label} is gone"),)
    own = found.global_concurrency_limit or ConcurrencyLimit()
    lasting = [
        *_closed(label, found.pool, f"prefect work-pool resume {pool}"),
        *_closed(f"work queue {queue} of pool {pool}", found.queue, f"prefect work-queue resume {queue} --pool {pool}"),
        *_closed(deployment, WorkQueue(concurrency_limit=own.limit), ""),
    ]
    if own.limit and not own.active:
        words = "has a concurrency limit that is switched off, so Prefect gives none of its places away"
        lasting.append(_obstacle(Reason.LIMIT_OFF, deployment, words, "Switch it on in the Prefect UI (Concurrency)"))
    polled = found.queue.polled if found.queue else None
    if not found.workers_online:
        silent = f" ({found.workers_known} that were there are silent)" if found.workers_known else ""
        words = f"has no worker online{silent}"
        lasting.append(_obstacle(Reason.NO_WORKER, label, words, f"Start one with: {start}"))
    elif not lasting and (polled is None or polled > POLLED_SECONDS):
        since = "" if polled is None else f" since {polled:.0f} s ago"
        words = f"has {found.workers_online} workers online, and none is known to have asked for work of its queue {queue}{since}"
        remedy = f"See their logs, and coral doctor: they may have been killed just now, or serve other queues ({start} serves all)"
        lasting.append(_obstacle(Reason.NOT_POLLED, label, words, remedy))
    places = (
        (label, found.pool.concurrency_limit, found.pool_used),
        (f"work queue {queue} of pool {pool}", found.queue and found.queue.concurrency_limit, found.queue_used),
        (deployment, own.limit, own.active_slots),
    )
    busy = [
        Obstacle(reason=Reason.BUSY, subject=subject, problem=f"all {limit} places of {subject} are taken")
        for subject, limit, used in places
        if limit and used >= limit
    ]
    return (*lasting, *busy)


def _closed(subject: str, found: WorkPool | WorkQueue | None, resume: str) -> Iterator[Obstacle]:
    if found is None:
        yield _gone(subject, f"{subject} is gone")
        return
    if found.is_paused:
        yield _obstacle(Reason.PAUSED, subject, "is paused", f"Resume it with: {resume}")
    if found.concurrency_limit == 0:
        yield _obstacle(Reason.LIMIT_ZERO, subject, "has a concurrency limit of 0", "Raise it in the Prefect UI")


def _obstacle(reason: Reason, subject: str, words: str, remedy: str) -> Obstacle:
    return Obstacle(reason=reason, subject=subject, problem=f"{subject} {words}", remedy=remedy)


def _gone(subject: str, problem: str) -> Obstacle:
    return Obstacle(reason=Reason.GONE, subject=subject, problem=problem, remedy="Run: coral setup")
