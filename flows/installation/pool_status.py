"""State of the work pools, from the API: waiting and running flow runs, workers and their heartbeats."""

from typing import Any, Literal

from pydantic import Field

from coral_core.frozen import Frozen
from flows.installation.pool_templates import POOLS
from flows.prefect_api.client import RestClient, StateType, WorkPool, flow_run_query

QUEUES: dict[str, Literal["training", "evaluation"]] = {"coral-a100": "training", "coral-a10g": "evaluation"}
LANE_FLOWS: dict[str, Literal["training", "evaluation"]] = {
    "train-adapters": "training",
    "evaluate-genomes": "evaluation",
}
"""Flow to the queue that its runs serve, on any deployment and pool."""
WAITING: tuple[StateType, ...] = ("SCHEDULED", "PENDING")
RUNNING: tuple[StateType, ...] = ("RUNNING", "CANCELLING")
SILENT_BEATS = 5 / 3
"""Heartbeat intervals after which a worker counts as silent: 50 s at the usual 30 s. Prefect waits for 3 before OFFLINE."""


class WorkerLook(Frozen):
    """One worker of a pool. Prefect keeps listing workers that are gone."""

    name: str
    silent: float = Field(description="Seconds since its last heartbeat, by the server's clock.")
    interval: float = Field(30.0, gt=0, description="Seconds between its heartbeats.")
    status: str = Field("ONLINE", description="Prefect's status: ONLINE until 3 heartbeats are missing.")

    @property
    def responsive(self) -> bool:
        return self.silent <= SILENT_BEATS * self.interval


class PoolLook(Frozen):
    """One pool as the server sees it."""

    name: str
    present: bool = True
    queue: Literal["training", "evaluation"] | None = None
    type: str = ""
    limit: int | None = None
    paused: bool = False
    queued: int = 0
    running: int = 0
    workers: tuple[WorkerLook, ...] = ()
    template: dict[str, Any] = Field({}, description="Its base job template.")

    @property
    def workers_online(self) -> int:
        return sum(worker.responsive for worker in self.workers)


def look_at_pools(api: RestClient) -> list[PoolLook]:
    """All pools of `coral setup`. Raises `ApiError` when the API does not answer."""
    found = {pool.name: pool for pool in api.work_pools()}
    return [_look(api, spec.name, found.get(spec.name)) for spec in POOLS]


def queues_behind(api: RestClient, pool: str) -> set[Literal["training", "evaluation"]]:
    """The queues whose lanes run on `pool`, by its deployments. Raises `ApiError`."""
    return {LANE_FLOWS[flow] for flow in api.flows_deployed_to(pool, list(LANE_FLOWS))}


def _look(api: RestClient, name: str, pool: WorkPool | None) -> PoolLook:
    if pool is None:
        return PoolLook(name=name, present=False, queue=QUEUES.get(name))
    return PoolLook(
        name=name,
        queue=QUEUES.get(name),
        type=pool.type,
        limit=pool.concurrency_limit,
        paused=pool.is_paused,
        queued=api.count_flow_runs(flow_run_query(states=WAITING, pools=[name])),
        running=api.count_flow_runs(flow_run_query(states=RUNNING, pools=[name])),
        workers=tuple(
            WorkerLook(
                name=worker.name,
                silent=api.age(worker.last_heartbeat_time),
                interval=worker.heartbeat_interval_seconds or 30.0,
                status=worker.status,
            )
            for worker in api.workers(name)
            if worker.last_heartbeat_time is not None
        ),
        template=pool.base_job_template,
    )
