"""Prefect's own client, for processes that run flows; commands use `flows.prefect_api.client`, which imports no Prefect.

Prefect's client repeats a failed call by itself, with pauses that double, PREFECT_CLIENT_MAX_RETRIES times (12 as
`coral` sets it: over an hour). That is right for a flow run's own states, and wrong for a loop that also collects
results: its calls are answered within seconds, or fail and are made again at the next look.
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
"""What Prefect's client raises where the API cannot be reached, refuses, or does not know what it was asked about."""
LOST = "Lost"
"""Name of the state of type Crashed that the automation `coral: lost lanes` gives to a run without heartbeats."""


def api_in_use() -> str:
    """URL of the API that Prefect's client in this process uses; empty: none, and Prefect would start a server itself."""
    return PREFECT_API_URL.value() or ""


def short_client() -> SyncPrefectClient:
    """A client of one's own (never that of the flow run around) that waits no longer than `ANSWER_SECONDS`."""
    return get_client(httpx_settings={"timeout": ANSWER_SECONDS}, sync_client=True)


def async_client(answer_seconds: float | None = None) -> PrefectClient:
    """A client for an event loop; waits for an answer as long as Prefect's settings say unless `answer_seconds` is given."""
    return get_client(httpx_settings={"timeout": answer_seconds} if answer_seconds is not None else None)


def sends_logs() -> bool:
    """Does Prefect send log lines of flow runs to its API?"""
    return bool(PREFECT_LOGGING_TO_API_ENABLED.value())


@contextlib.contextmanager
def connected_client() -> Iterator[SyncPrefectClient]:
    """A client of an API that answers. Raises `ApiError`."""
    with get_client(sync_client=True) as client:
        if (error := client.api_healthcheck()) is not None:
            raise api_error(error) or error
        yield client


@contextlib.contextmanager
def retries(most: int) -> Iterator[None]:
    """Within, in this thread, Prefect's client tries a call that failed `most` times again."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: most}):
        yield


def is_missing(error: Exception) -> bool:
    """Does the server not know what it was asked about?"""
    return isinstance(error, ObjectNotFound) or (
        isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 404
    )


def believed_lost(state: "State[Any] | None") -> bool:
    """Was a flow run marked as crashed because its heartbeats did not arrive, and not because its process ended?

    Heartbeats do not arrive while the server is away. When it is back, a run without one for 90 seconds may be marked
    as crashed before its next heartbeat comes; a run that lives corrects that.
    """
    return state is not None and state.is_crashed() and state.name == LOST


def read_flow_runs(client: SyncPrefectClient, states: Sequence[StateType], tags: Sequence[str]) -> list[FlowRun]:
    """All flow runs in one of `states` and with all of `tags`, newest first."""
    wanted: dict[str, Any] = {"state": {"type": {"any_": list(states)}}, "tags": {"all_": list(tags)}}
    return all_pages(
        lambda limit, offset: client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate(wanted),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=limit,
            offset=offset,
        )
    )
