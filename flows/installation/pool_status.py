"""Looks at the house's pools through the API: queue depth, what runs, which workers still beat."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from coral_core.frozen import Frozen
from flows.installation.pool_templates import POOLS
from flows.prefect_api.rest_client import PlainApi

QUEUES: dict[str, Literal["training", "evaluation"]] = {"coral-a100": "training", "coral-a10g": "evaluation"}
LANE_FLOWS: dict[str, Literal["training", "evaluation"]] = {
    "train-adapters": "training",
    "evaluate-genomes": "evaluation",
}
"""Flow -> the queue that its runs serve, whatever deployment and pool they run on."""
WAITING = ["SCHEDULED", "PENDING"]
RUNNING = ["RUNNING", "CANCELLING"]
SILENT_BEATS = 5 / 3
"""Beats of a worker that may be missing. Prefect waits for 3 before it calls the worker OFFLINE; a beat comes every 30 s,
so that we say so 50 s after the last one."""


class WorkerLook(Frozen):
    """One worker of a pool. Prefect goes on listing workers that are gone."""

    name: str
    silent: float = Field(description="Seconds since its last heartbeat, by the server's clock.")
    interval: float = Field(30.0, gt=0, description="Seconds between its heartbeats.")
    status: str = Field("ONLINE", description="What Prefect says: ONLINE until 3 heartbeats are missing.")

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


def look_at_pools(api: PlainApi) -> list[PoolLook]:
    """All pools of the house. Raises `ApiError` when the API does not answer."""
    found = {pool["name"]: pool for pool in api.find_all("work_pools/filter")}
    return [_look(api, spec.name, found.get(spec.name)) for spec in POOLS]


def queues_behind(api: PlainApi, pool: str) -> set[Literal["training", "evaluation"]]:
    """The queues whose lanes run on `pool`, by its deployments. Raises `ApiError`."""
    flows = api.find_all("flows/filter", {"flows": {"name": {"any_": list(LANE_FLOWS)}}})
    queues = {flow["id"]: LANE_FLOWS[flow["name"]] for flow in flows}
    found = api.find_all("deployments/filter", {"work_pools": {"name": {"any_": [pool]}}})
    return {queues[deployment["flow_id"]] for deployment in found if deployment["flow_id"] in queues}


def _look(api: PlainApi, name: str, pool: dict[str, Any] | None) -> PoolLook:
    if pool is None:
        return PoolLook(name=name, present=False, queue=QUEUES.get(name))
    workers = api.find_all(f"work_pools/{name}/workers/filter")
    return PoolLook(
        name=name,
        queue=QUEUES.get(name),
        type=pool["type"],
        limit=pool["concurrency_limit"],
        paused=pool["is_paused"],
        queued=_count(api, name, WAITING),
        running=_count(api, name, RUNNING),
        workers=tuple(_worker(each, api.now()) for each in workers if each.get("last_heartbeat_time")),
        template=pool["base_job_template"],
    )


def _worker(worker: dict[str, Any], now: float) -> WorkerLook:
    return WorkerLook(
        name=worker["name"],
        silent=max(0.0, now - datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp()),
        interval=worker.get("heartbeat_interval_seconds") or 30.0,
        status=worker["status"],
    )


def _count(api: PlainApi, pool: str, states: list[str]) -> int:
    query = {"flow_runs": {"state": {"type": {"any_": states}}}, "work_pools": {"name": {"any_": [pool]}}}
    return int(api.find("flow_runs/count", query) or 0)
