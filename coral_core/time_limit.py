"""The time limit of one job: the time left, and the error when it is exceeded.

The limit covers the work on the job only. Its clock starts when problems and base model are in memory, since a lane loads
them once for many jobs.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from coral_core.errors import EngineTimeOutError

LOADING_SECONDS = 3600.0
"""Longest time to load problems and base model, before the supervisor of the lane takes it for stuck."""


class TimeLimit:
    """Time limit of one job.

    Args:
        seconds: Seconds of work that the job may take.

    Example:
        >>> TimeLimit(60).left()
        60
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._made = time.monotonic()
        self._begun: float | None = None

    def begin(self) -> None:
        """Start the clock, when the work on the job begins."""
        self._begun = time.monotonic()

    def left(self) -> float:
        """Seconds of work that are left, negative when exceeded; the whole limit before `begin`."""
        return self.seconds if self._begun is None else self._begun + self.seconds - time.monotonic()

    def overdue(self) -> float:
        """Seconds since the job should have been ended; negative within the limit. Before `begin`, `LOADING_SECONDS` is the limit."""
        if self._begun is None:
            return time.monotonic() - self._made - LOADING_SECONDS
        return -self.left()

    def over(self, what: str) -> EngineTimeOutError:
        """The error of a job that exceeded its limit during `what`, a noun phrase."""
        return EngineTimeOutError(
            f"{what} took longer than what was left of the job's {self.seconds:.0f} s and was ended. Raise infra minutes, or lower the "
            "work per job."
        )

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Turn a `TimeoutError` raised inside the ``with`` block into the error of `over`."""
        try:
            yield
        except TimeoutError:
            raise self.over(what) from None
