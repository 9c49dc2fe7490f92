"""Ends flow runs in order: nothing is killed that could finish, nothing is left running."""

import time
from collections.abc import Iterator

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelled, Cancelling

from coral_core.errors import ConfigError
from flows.dispatch.fleet import LIVING
from flows.installation.pools import POOLS

CANCEL_SECONDS = 30.0


def cancel_everything() -> int:
    """Cancel all flow runs on the house's pools and wait until they have ended; returns how many there were."""
    names = [pool.name for pool in POOLS]
    try:
        with get_client(sync_client=True) as client:
            runs = _living(client, names)
            for run in runs:
                _cancel(client, run)
            deadline = time.monotonic() + CANCEL_SECONDS
            while runs and _living(client, names) and time.monotonic() < deadline:
                time.sleep(0.5)
            return len(runs)
    except (httpx.HTTPError, PrefectHTTPStatusError, RuntimeError):
        return 0  # the server is gone already; its workers are ended with what they run


def drain(pool: str, seconds: float) -> Iterator[str]:
    """Pause `pool` and wait until nothing runs there; yields what it sees. Raises `ConfigError`."""
    with get_client(sync_client=True) as client:
        _pause(client, pool, True)
        yield f"paused {pool}"
        deadline = time.monotonic() + seconds
        left: set[str] | None = None
        while running := {run.name for run in _living(client, [pool]) if run.state_type != StateType.SCHEDULED}:
            if running != left:
                left = running
                yield f"waiting for {', '.join(sorted(running))}"
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{pool}: {len(running)} flow runs still work after {seconds / 60:.0f} minutes. Raise --minutes, or: coral cancel"
                )
            time.sleep(1)


def undo_drain(pool: str) -> None:
    """Let workers take flow runs of `pool` again. Raises `ConfigError`."""
    with get_client(sync_client=True) as client:
        _pause(client, pool, False)


def _pause(client: SyncPrefectClient, pool: str, paused: bool) -> None:
    try:
        client.update_work_pool(pool, WorkPoolUpdate(is_paused=paused))
    except ObjectNotFound:
        raise ConfigError(f"{pool}: no such work pool. Known: {', '.join(p.name for p in POOLS)}.") from None


def _cancel(client: SyncPrefectClient, run: FlowRun) -> None:
    """Runs that no worker has taken are over at once; others are told to end."""
    waiting = run.state_type == StateType.SCHEDULED
    try:
        client.set_flow_run_state(run.id, Cancelled() if waiting else Cancelling(), force=waiting)
    except (ObjectNotFound, PrefectHTTPStatusError):
        return


def _living(client: SyncPrefectClient, pools: list[str]) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=LIVING))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=pools)),
        limit=200,
    )
