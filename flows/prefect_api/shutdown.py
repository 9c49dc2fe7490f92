"""How an evolution leaves that was told to end, or whose last words to the Prefect server cannot be delivered.

Prefect's client would try for over an hour to tell a server that is away, and the process would not end.
"""

import contextlib
import os
import sys

DRAIN_SECONDS = 5.0


class _Leaving:
    """Of this process."""

    def __init__(self) -> None:
        self.told: BaseException | None = None
        self.undelivered = False
        self.for_good = contextlib.ExitStack()


_leaving = _Leaving()


def hurry(told: BaseException) -> None:
    """Who was told to end, by `told`, waits no longer for a server that is away: from here on calls in this context are tried
    twice, Prefect's last word on the flow run included."""
    from flows.prefect_api.short_calls import retries

    _leaving.told = told
    _leaving.for_good.enter_context(retries(1))


def told_to_end() -> BaseException | None:
    """What the evolution was told to end by (Ctrl-C, SIGTERM); None when it was not."""
    return _leaving.told


def drain() -> None:
    """Let Prefect send its last log lines and events while the server is still there."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        outcome = worker.drain_all(timeout=DRAIN_SECONDS)
        if isinstance(outcome, tuple) and outcome[1]:
            _leaving.undelivered = True


def leave(code: int) -> None:
    """End the process here when there is something that Prefect would wait for to the end of its tries; else return."""
    if _leaving.undelivered:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
