"""The client's side of a child process that answers one JSON line per request: for texts and for plug-ins."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from typing import Any, ClassVar

from coral_core.errors import CoralError


class ChildProcess:
    """Runs ``python -m module PARENT_PID`` from the first request on, and again after it ended."""

    module: ClassVar[str]
    """Reads requests from its standard input, answers on its standard output."""
    stderr: ClassVar[int | None] = None
    killed_error: ClassVar[CoralError]
    """Raised for a request after `kill`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._killed = False

    def environment(self) -> dict[str, str]:
        """Environment of the process, without PYTHONPATH, which is the import path of this process."""
        return dict(os.environ)

    def _running(self) -> "subprocess.Popen[bytes]":
        """The process, started where needed. Raises `killed_error`."""
        if self._process is not None and self._process.poll() is not None:
            self._end()
        with self._starting:
            if self._killed:
                raise self.killed_error
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", self.module, str(os.getpid())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self.stderr,
                    env=self.environment() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    start_new_session=True,
                )
            return self._process

    @staticmethod
    def _send(process: "subprocess.Popen[bytes]", request: dict[str, Any]) -> None:
        """Write one request. Raises `OSError` when the process has ended."""
        assert process.stdin is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()

    def kill(self) -> None:
        """End the request under way, from any thread; no other process will start."""
        with self._starting:
            self._killed = True
            process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process; a later request starts another."""
        self._end()

    def _end(self, patience: float = 0.0) -> int | None:
        """As `close`. Returns the exit status, when the process ended by itself within `patience` seconds."""
        with self._starting:
            process, self._process = self._process, None
        if process is None:
            return None
        try:
            status: int | None = process.wait(patience)
        except subprocess.TimeoutExpired:
            status = None
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        return status
