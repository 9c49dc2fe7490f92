"""What ends a job that nothing else ends: in the last resort the lane's whole process.

Engine, judge and plug-ins are processes of their own, which a time limit or a stop ends, and their job fails at once.
What is left is code of the lane's process that does not return: a problem source in an endless loop, a store that
hangs. A job that goes on `SLACK_SECONDS` after its limit is stopped; one that goes on `GRACE_SECONDS` after it was stopped
takes the process with it, so that a lane is never lost to a job, and a cancel never waits for one.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coral_core.lanes.lane import Lane
from coral_core.time_limit import TimeLimit

log = logging.getLogger("coral.lane")

SLACK_SECONDS = 30.0
GRACE_SECONDS = 10.0
LOOK_SECONDS = 0.5


class Backstop:
    """Watches one lane from a thread of its own.

    Args:
        last_words: Puts on record what becomes of the job in flight; it may hang as well, and is then not waited for.
        leave: Ends the process (tests put their own here).
    """

    def __init__(self, last_words: Callable[[TimeLimit | None], None], leave: Callable[[int], None] = os._exit) -> None:
        self._last_words = last_words
        self._leave = leave
        self._lock = threading.Lock()
        self._lane: Lane | None = None
        self._stopped_at: float | None = None
        self.outlasted: TimeLimit | None = None
        """The limit that the job in flight was stopped for; None while it was not."""

    @contextmanager
    def watching(self, lane: Lane) -> Iterator[None]:
        """The job that runs within is `lane`'s."""
        with self._lock:
            self._lane, self._stopped_at, self.outlasted = lane, None, None
        try:
            yield
        finally:
            with self._lock:
                self._lane = None

    def stop(self, lane: Lane) -> None:
        """Stop `lane`'s job in flight, if it is still the one that is watched."""
        with self._lock:
            if lane is not self._lane:
                return
            if self._stopped_at is None:
                self._stopped_at = time.monotonic()
            lane.stop()

    def watch(self, over: threading.Event) -> None:
        """The thread: until `over`."""
        while not over.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """One look at the job in flight."""
        with self._lock:
            lane, stopped_at = self._lane, self._stopped_at
            limit = lane.limit if lane is not None else None
            if stopped_at is None and limit is not None and limit.overdue() > SLACK_SECONDS:
                self.outlasted = limit
        if lane is None:
            return
        if stopped_at is None:
            if self.outlasted is not None:
                log.warning("the job in flight goes on after its time limit and is stopped")
                self.stop(lane)
        elif time.monotonic() - stopped_at > GRACE_SECONDS:
            log.error("the job in flight does not return %.0f s after it was stopped: the lane ends", GRACE_SECONDS)
            words = threading.Thread(target=self._last_words, args=(self.outlasted,), daemon=True)
            words.start()
            words.join(GRACE_SECONDS)
            self._leave(1)
