"""Ends flow runs in order: nothing is killed that could finish, nothing is left running."""

import time
from collections.abc import Iterator
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Cancelling
from pydantic import Field

from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from flows.installation.pool_templates import POOLS
from flows.prefect_api.api_errors import api_error
from flows.prefect_api.pages import all_pages
from flows.prefect_api.rest_client import refuse_what_is_no_api
from flows.work_pools.fleet import LIVING

CANCEL_SECONDS = 30.0


class Ended(Frozen):
    """What was told to end."""

    on_pools: int = Field(0, description="Flow runs on the house's pools.")
    evolutions: tuple[str, ...] = Field((), description="Evolutions that run elsewhere, as in a terminal.")
    hanging: tuple[str, ...] = Field((), description="Those of them that still had not ended after half a minute.")
    problem: str = Field("", description="Why nothing could be told to end, where the server answered and refused.")


def cancel_everything(leave_local: bool) -> Ended:
    """Cancel all flow runs on the house's pools and evolutions that need them from elsewhere; wait until they have ended.

    Args:
        leave_local: Evolutions that run on no pool at all (`infra.executor` is not work-pools) may go on: the server stays.
    """
    names = [pool.name for pool in POOLS]
    try:
        with get_client(sync_client=True) as client:
            runs, elsewhere = _living(client, names), _elsewhere(client, leave_local)
            for run in [*runs, *elsewhere]:
                _cancel(client, run)
            told = {run.id for run in elsewhere}
            deadline = time.monotonic() + CANCEL_SECONDS
            while (runs or told) and time.monotonic() < deadline:
                if not _living(client, names) and not _still(client, told, leave_local):
                    break
                time.sleep(0.5)
            hanging = _still(client, told, leave_local)
            for run in hanging:  # its process is gone, most likely: nobody else would put that on record
                client.set_flow_run_state(run.id, Cancelled(message="coral down"), force=True)
            return Ended(
                on_pools=len(runs),
                evolutions=tuple(run.name for run in elsewhere),
                hanging=tuple(run.name for run in hanging),
            )
    except PrefectHTTPStatusError as error:
        return Ended(problem=str(api_error(error) or ""))
    except (httpx.HTTPError, RuntimeError):
        return Ended()  # the server is gone already; its workers are ended with what they run


def _elsewhere(client: SyncPrefectClient, leave_local: bool) -> list[FlowRun]:
    """Living evolutions that no worker has started."""
    found = all_pages(
        lambda limit, offset: client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["evolve"])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=LIVING))),
            limit=limit,
            offset=offset,
        )
    )
    return [run for run in found if not run.work_pool_name and not (leave_local and _executor(run) != "work-pools")]


def _executor(run: FlowRun) -> str:
    try:
        return str(run.parameters["config"]["infra"]["executor"])
    except (KeyError, TypeError):
        return "work-pools"


def _still(client: SyncPrefectClient, told: set[UUID], leave_local: bool) -> list[FlowRun]:
    return [run for run in _elsewhere(client, leave_local) if run.id in told] if told else []


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
        refuse_what_is_no_api(str(PREFECT_API_URL.value()))
        raise ConfigError(f"{pool}: no such work pool. Known: {', '.join(p.name for p in POOLS)}.") from None


def _cancel(client: SyncPrefectClient, run: FlowRun) -> None:
    """Runs that no worker has taken are over at once; others are told to end."""
    waiting = run.state_type == StateType.SCHEDULED
    try:
        client.set_flow_run_state(run.id, Cancelled() if waiting else Cancelling(), force=waiting)
    except (ObjectNotFound, PrefectHTTPStatusError):
        return


def _living(client: SyncPrefectClient, pools: list[str]) -> list[FlowRun]:
    return all_pages(
        lambda limit, offset: client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=LIVING))),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=pools)),
            limit=limit,
            offset=offset,
        )
    )
