"""A child process that does not read its request is ended at the deadline, as one that does not answer."""

import subprocess
import sys
import time
from typing import Any

import pytest

from coral_core import child_process
from coral_core.child_process import ChildProcess
from coral_core.errors import EngineError

SLEEPER = "import time; time.sleep(1000)"


class Child(ChildProcess):
    module = "unused"
    killed_error = EngineError("killed")


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_request_that_is_not_read_ends_at_its_deadline(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def started(command: list[str], **rest: Any) -> "subprocess.Popen[bytes]":
        return real([sys.executable, "-c", SLEEPER], **rest)

    monkeypatch.setattr(child_process.subprocess, "Popen", started)
    child = Child()
    with pytest.raises(TimeoutError):
        child.exchange({"text": "x" * size}, time.monotonic() + 1)
    assert child.pid is None
