"""Prefect's own client, for processes that run flows; commands use `flows.prefect_api.client`, which imports no Prefect.

Prefect's client retries a failed call PREFECT_CLIENT_MAX_RETRIES times (12 as `coral` sets it), with pauses that double:
over an hour in all. That is right for the states of a flow run, and wrong for a loop that also collects results: its
calls must be answered within seconds, or fail and be repeated at the next look.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient, SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)

from flows.prefect_api.client import all_pages, api_error

ANSWER_SECONDS = 10.0
"""Longest wait for one answer."""
API_FAILURES = (httpx.HTTPError, PrefectHTTPStatusError, ObjectNotFound, RuntimeError)
"""Exceptions of Prefect's client where the API cannot be reached, refuses, or does not have the object."""
LOST = "Lost"
"""Name of the state of type Crashed that the automation `coral: lost lanes` gives to a run without heartbeats."""


def api_in_use() -> str:
    """URL of the API that Prefect's client in this process uses; "": none, and Prefect would start its own server."""
    return PREFECT_API_URL.value() or ""


def short_client() -> SyncPrefectClient:
    """A new client (never that of the surrounding flow run) that waits at most `ANSWER_SECONDS` for an answer."""
    return get_client(httpx_settings={"timeout": ANSWER_SECONDS}, sync_client=True)


def async_client(answer_seconds: float | None = None) -> PrefectClient:
    """A new asynchronous client.

    Args:
        answer_seconds: Longest wait for one answer, in seconds; None: as Prefect's settings say.
    """
    return get_client(httpx_settings={"timeout": answer_seconds} if answer_seconds is not None else None)


def sends_logs() -> bool:
    """Whether Prefect sends log lines of flow runs to its API."""
    return bool(PREFECT_LOGGING_TO_API_ENABLED.value())


@contextlib.contextmanager
def connected_client() -> Iterator[SyncPrefectClient]:
    """A client of the API in use, which has answered a health check. Raises `ApiError`."""
    with get_client(sync_client=True) as client:
        if (error := client.api_healthcheck()) is not None:
            raise api_error(error) or error
        yield client


@contextlib.contextmanager
def retries(most: int) -> Iterator[None]:
    """While the body runs, Prefect's client in this thread retries a failed call at most `most` times."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: most}):
        yield


def is_missing(error: Exception) -> bool:
    """Whether `error` says that the server does not have the object (404)."""
    return isinstance(error, ObjectNotFound) or (
        isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 404
    )


def believed_lost(state: "State[Any] | None") -> bool:
    """Whether a flow run was marked as crashed because its heartbeats were missing, not because its process ended.

    Heartbeats do not arrive while the server is down. When it is back, it may mark a run without a heartbeat for 90
    seconds as crashed before the next one arrives. A living run corrects that.
    """
    return state is not None and state.is_crashed() and state.name == LOST


def read_flow_runs(client: SyncPrefectClient, states: Sequence[StateType], tags: Sequence[str]) -> list[FlowRun]:
    """Read all matching flow runs, newest first.

    Args:
        client: A client of the server.
        states: Types of state, one of which a run has.
        tags: Tags, all of which a run has.
    """
    wanted: dict[str, Any] = {"state": {"type": {"any_": list(states)}}, "tags": {"all_": list(tags)}}
    return all_pages(
        lambda limit, offset: client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate(wanted),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=limit,
            offset=offset,
        )
    )
