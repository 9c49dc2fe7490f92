"""Where the seconds of a lane go: its device computes, loads a model, or waits."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from coral_core.jobs.jobs import DeviceTime

State = Literal["computing", "loading", "judging"]


class DeviceClock:
    """Books each second of a lane to one state: computing, loading, judging, and idle outside of these.

    One thread may call `during` and `since_last_job`, any thread `life`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spent: dict[str, float] = dict.fromkeys(DeviceTime.model_fields, 0.0)
        self._state: State | Literal["idle"] = "idle"
        self._since = time.monotonic()
        self._reported = DeviceTime()

    @contextmanager
    def during(self, state: State) -> Iterator[None]:
        """Book the time within the context to `state`, and what follows to idle."""
        self._switch(state)
        try:
            yield
        finally:
            self._switch("idle")

    def life(self) -> DeviceTime:
        """All seconds since the clock was made."""
        with self._lock:
            latest = self._spent[self._state] + time.monotonic() - self._since
            return DeviceTime(**self._spent | {self._state: latest})

    def since_last_job(self) -> DeviceTime:
        """The seconds since this method was called last, or since the clock was made."""
        life = self.life()
        found, self._reported = life.minus(self._reported), life
        return found

    def _switch(self, state: State | Literal["idle"]) -> None:
        with self._lock:
            now = time.monotonic()
            self._spent[self._state] += now - self._since
            self._state, self._since = state, now
