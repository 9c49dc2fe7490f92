"""Calls of the Prefect API for loops that must go on: answered within seconds, or failed and made again at the next look.

Prefect's client tries again by itself, with pauses that double, PREFECT_CLIENT_MAX_RETRIES times (12 as `coral` sets it:
over an hour). That is right for a flow run's own states, and wrong for a loop that also collects results.
"""

import contextlib
from collections.abc import Iterator

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

ANSWER_SECONDS = 10.0
"""Longest wait for one answer."""


def short_client() -> SyncPrefectClient:
    """A client of one's own (never that of the flow run around) that waits no longer than `ANSWER_SECONDS`."""
    return get_client(httpx_settings={"timeout": ANSWER_SECONDS}, sync_client=True)


@contextlib.contextmanager
def retries(most: int) -> Iterator[None]:
    """Within, in this thread, Prefect's client tries a call that failed `most` times again."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: most}):
        yield
