"""A child process that answers requests by JSON lines: the parent's side and the child's.

An answer is one line. An engine sends parts of its answer before it, each a line of its own, as they become ready.

Engines, linters and plug-ins run in such children. If a request crashes, hangs or takes too much memory, only the child is
lost: the parent ends it and starts another one for the next request.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, ClassVar

from coral_core.errors import CoralError

PATIENCE = 1.0
"""Seconds to wait for the exit status of a process that has closed its pipe."""


class ProcessEndedError(Exception):
    """The process ended, or wrote too much, during a request.

    Args:
        status: Exit status, negative for a signal; None when it did not end by itself.
    """

    def __init__(self, status: int | None) -> None:
        known = f"signal {signal.Signals(-status).name}" if status and status < 0 else f"exit status {status}"
        super().__init__("no exit status" if status is None else known)
        self.status = status


class ChildProcess:
    """Runs ``python -m module PARENT_PID`` as a child and exchanges JSON lines with it, one request at a time.

    The process starts with the first request, and again with the next request after it has ended. Subclasses set `module`
    and `killed_error`.
    """

    module: ClassVar[str]
    """Name of the module that the child runs; it calls `serve`."""
    stderr: ClassVar[int | None] = None
    """Where the child's standard error goes, as for `subprocess.Popen`; None inherits it."""
    largest_reply: ClassVar[int] = 1 << 30
    """Largest reply in bytes, its parts included."""
    killed_error: ClassVar[CoralError]
    """Raised for a request after `kill`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._killed = False

    @property
    def pid(self) -> int | None:
        """Process id; None while there is no process."""
        return self._process.pid if self._process else None

    def environment(self) -> dict[str, str]:
        """Variables of the child, but for those that `command` needs."""
        return dict(os.environ)

    def command(self) -> tuple[list[str], dict[str, str]]:
        """The command that starts the child, without the id of this process, and variables that it needs.

        `-P`: files of the working directory, which may be somebody's project, are no modules of the child.
        """
        return [sys.executable, "-P", "-m", self.module], {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def exchange(
        self, request: dict[str, Any], until: float, take_part: Callable[[bytes], bool] = lambda line: False
    ) -> bytes:
        """Send a request and return the line that answers it. After an error the process has been ended.

        Args:
            request: JSON data.
            until: Deadline, in `time.monotonic` seconds.
            take_part: Called with each line as it comes. True: the line was a part of the answer, and more follow. False: the
                line is the answer. What it raises ends the process.

        Returns:
            The line; with it what the process wrote after it by mistake, which makes it invalid.

        Raises:
            CoralError: `kill` was called; the error is `killed_error`.
            TimeoutError: no complete reply came before `until`.
            ProcessEndedError: the process ended or its reply was too long.
        """
        process = self._running()
        line, unread, size = b"", bytearray(), 0
        try:
            assert process.stdin is not None and process.stdout is not None
            with (
                contextlib.suppress(OSError),
                _killed_at(until, process),
            ):  # writing blocks while the child does not read
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            while True:
                line = _line(process.stdout.fileno(), until, self.largest_reply - size, unread)
                size += len(line)
                if not line.endswith(b"\n") or not take_part(line):
                    break
        except BaseException:  # interrupted: a late reply would be taken for that of the next request
            self.close()
            raise
        if line.endswith(b"\n"):
            return line + unread
        is_late = time.monotonic() >= until
        status = self._end(0.0 if is_late else PATIENCE)
        if self._killed:
            raise self.killed_error
        if is_late:
            raise TimeoutError
        raise ProcessEndedError(status)

    def kill(self) -> None:
        """End the process and with it a request under way; later requests fail. May be called from any thread."""
        with self._lock:
            self._killed = True
            process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process; a later request starts another."""
        self._end()

    def _running(self) -> "subprocess.Popen[bytes]":
        """The process, started where needed. Raises `killed_error`."""
        if self._process is not None and self._process.poll() is not None:
            self._end()
        with self._lock:
            if self._killed:
                raise self.killed_error
            if self._process is None:
                command, variables = self.command()
                self._process = subprocess.Popen(
                    [*command, str(os.getpid())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self.stderr,
                    env=self.environment() | variables,
                    start_new_session=True,
                )
            return self._process

    def _end(self, patience: float = 0.0) -> int | None:
        """End the process; return its exit status if it ended by itself within `patience` seconds."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return None
        status: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(patience)
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        return status


@contextlib.contextmanager
def _killed_at(until: float, process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Kill `process` if the body has not ended at `until`, in `time.monotonic` seconds."""
    timer = threading.Timer(max(0.0, until - time.monotonic()), process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _line(descriptor: int, until: float, largest: int, unread: bytearray) -> bytes:
    """One line, or its beginning if the stream ends, the deadline `until` passes or it has `largest` bytes.

    `unread` holds what was read and not yet returned, before the call and after it.
    """
    searched = 0
    while (end := unread.find(b"\n", searched)) < 0 and len(unread) < largest:
        searched = len(unread)
        left = until - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            break
        part = os.read(descriptor, 1 << 20)
        if not part:
            break
        unread += part
    line = bytes(unread[: end + 1]) if 0 <= end < largest else bytes(unread[:largest])
    del unread[: len(line)]
    return line


# -- the child's side ----------------------------------------------------------------------


Send = Callable[[dict[str, Any]], None]
"""Sends one line of JSON data to the parent."""


def serve(
    answer: Callable[[dict[str, Any], Send], dict[str, Any]], prepare: Callable[[], object] = lambda: None
) -> None:
    """Answer requests until the parent closes the pipe or ends.

    Args:
        answer: Returns the reply to a request; both are JSON data. Its second argument sends parts of the reply before it.
        prepare: Called once, before the first request is read.
    """
    reader, writer = take_pipes()
    end_with(int(sys.argv[1]))
    prepare()

    def send(data: dict[str, Any]) -> None:
        writer.write(json.dumps(data).encode() + b"\n")
        writer.flush()

    for line in reader:
        send(answer(json.loads(line), send))


def error_reply(error: CoralError) -> dict[str, Any]:
    """An error as JSON data, for a parent that raises it again: name of its class, problem and remedy."""
    return {"error": type(error).__name__, "problem": error.problem, "remedy": error.remedy}


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Reserve standard input and output for requests and replies, and return them.

    Other code of this process reads an empty standard input, and its prints go to standard error.
    """
    reader, writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    return reader, writer


def end_with(parent: int) -> None:
    """End this process when its parent process (id `parent`) has ended; polls once a second.

    PDEATHSIG is no alternative: it follows the thread that started this process, which may end before the parent does.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
