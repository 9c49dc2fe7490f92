"""Looks at the house's pools through the API: queue depth, what runs, workers that are online."""

from typing import Literal

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

from coral_core.frozen import Frozen
from flows.api import api_error
from flows.installation.pools import POOLS

QUEUES: dict[str, Literal["training", "evaluation"]] = {"coral-a100": "training", "coral-a10g": "evaluation"}


class PoolLook(Frozen):
    """One pool as the server sees it."""

    name: str
    present: bool = True
    queue: Literal["training", "evaluation"] | None = None
    limit: int | None = None
    paused: bool = False
    queued: int = 0
    running: int = 0
    workers_online: int = 0


def look_at_pools() -> list[PoolLook]:
    """All pools of the house. Raises `ApiError` when the API does not answer."""
    try:
        with get_client(sync_client=True) as client:
            return [_look(client, pool.name) for pool in POOLS]
    except (httpx.HTTPError, RuntimeError) as error:
        raise api_error(error) or error from None


def _look(client: SyncPrefectClient, name: str) -> PoolLook:
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        return PoolLook(name=name, present=False, queue=QUEUES.get(name))
    workers = client.read_workers_for_work_pool(name)
    return PoolLook(
        name=name,
        queue=QUEUES.get(name),
        limit=pool.concurrency_limit,
        paused=pool.is_paused,
        queued=_count(client, name, [StateType.SCHEDULED, StateType.PENDING]),
        running=_count(client, name, [StateType.RUNNING, StateType.CANCELLING]),
        workers_online=sum(worker.status == "ONLINE" for worker in workers),
    )


def _count(client: SyncPrefectClient, pool: str, states: list[StateType]) -> int:
    return client.count_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
    )
