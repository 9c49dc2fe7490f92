"""The time limit of one job: what is left of it, and the error when nothing is.

It counts work and nothing else: its clock starts when problems and base model are in memory, which a lane does for
many jobs, and no job waits in a lane.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from coral_core.errors import EngineTimeOutError

LOADING_SECONDS = 3600.0
"""Most that problems and base model may take to be there, before whoever watches the lane takes it for stuck."""


class TimeLimit:
    """One job's limit of `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._made = time.monotonic()
        self._begun: float | None = None

    def begin(self) -> None:
        """The work begins."""
        self._begun = time.monotonic()

    def left(self) -> float:
        """Seconds of work that are left; all of them before it has begun."""
        return self.seconds if self._begun is None else self._begun + self.seconds - time.monotonic()

    def overdue(self) -> float:
        """Seconds since somebody should have ended the job; negative while it may go on."""
        if self._begun is None:
            return time.monotonic() - self._made - LOADING_SECONDS
        return -self.left()

    def over(self, what: str) -> EngineTimeOutError:
        """The error of a job whose time ran out during `what`."""
        return EngineTimeOutError(
            f"{what} took longer than what was left of the job's {self.seconds:.0f} s and was ended. Raise infra minutes, or lower the "
            "work per job."
        )

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Turn a `TimeoutError` from within into the job's own time-out."""
        try:
            yield
        except TimeoutError:
            raise self.over(what) from None
