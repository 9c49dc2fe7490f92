"""State of the work pools, from the API: waiting and running flow runs, workers and their heartbeats."""

from typing import Literal

from flows.installation.pool_templates import POOLS
from flows.prefect_api.client import RestClient, StateType, Worker, WorkPool, flow_run_query

QueueName = Literal["training", "evaluation"]
QUEUES: dict[str, QueueName] = {"coral-a100": "training", "coral-a10g": "evaluation"}
"""Pool -> the queue that its lanes serve."""
WAITING: tuple[StateType, ...] = ("SCHEDULED", "PENDING")
RUNNING: tuple[StateType, ...] = ("RUNNING", "CANCELLING")


class PoolStatus(WorkPool):
    """One pool of `coral setup` as the server sees it."""

    present: bool = True
    queued: int = 0
    running: int = 0
    workers: tuple[Worker, ...] = ()

    @property
    def queue(self) -> QueueName | None:
        return QUEUES.get(self.name)

    @property
    def workers_online(self) -> int:
        return sum(worker.is_online for worker in self.workers)


def read_pools(api: RestClient) -> tuple[PoolStatus, ...]:
    """All pools of `coral setup`. Raises `ApiError` when the API does not answer."""
    found = {pool.name: pool for pool in api.work_pools()}
    return tuple(
        _status(api, found[spec.name]) if spec.name in found else PoolStatus(name=spec.name, present=False)
        for spec in POOLS
    )


def _status(api: RestClient, pool: WorkPool) -> PoolStatus:
    return PoolStatus(
        **pool.model_dump(),
        queued=api.count_flow_runs(flow_run_query(states=WAITING, pools=[pool.name])),
        running=api.count_flow_runs(flow_run_query(states=RUNNING, pools=[pool.name])),
        workers=tuple(api.workers(pool.name)),
    )
