"""The parent's side of one zygote: starts it, sends requests to its children, reads their answers, ends them.

A child's answer is data: a limited number of bytes in lines, checked field by field in `judge.answers`. A patch that
writes to it can change its own verdict only.
"""

import array
import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from coral_core.errors import JudgeError
from coral_core.judge.sandbox.child_clock import Allowance, Stop, Watch

START_SECONDS = 60.0
ISOLATED = ("-s", "-S", "-P")
"""No user site, no site, no script folder on the path. Not -I: it would drop PYTHONHASHSEED, and with it the fixed
order of sets of strings that makes a verdict repeat; the environment is ours alone anyway."""
READY = b'{"ready": true}'
_HERE = Path(__file__).parent
_STATUS = struct.Struct("<id")
_REMEDY = "See `coral doctor`; judge the patch again."


@dataclass(frozen=True)
class Answer:
    """The output of one child and how it ended."""

    lines: tuple[bytes, ...]
    """Complete lines after the first, which said that the patch's turn had come."""
    status: int
    """Wait status."""
    ended: Stop | None
    """Why the parent ended it; None: it ended by itself."""
    seconds: float
    cpu_seconds: float
    waited: float | None
    """Seconds it waited for a CPU; None when the kernel does not say."""


class Zygote:
    """One zygote process. It judges one patch at a time; calls may come from any thread, but not at once.

    Args:
        layers: Names of the layers to ask for, as `layers_in_use` gives them.
        hash_seed: PYTHONHASHSEED of its children, which orders sets of strings.

    Raises:
        JudgeError: the process did not start.
    """

    def __init__(self, layers: Sequence[str], hash_seed: int = 0) -> None:
        ours, theirs = socket.socketpair()
        self._control = ours
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        values = _HERE.parents[1] / "problems" / "values.py"
        script = [str(_HERE / "zygote.py"), str(theirs.fileno()), str(values), ",".join(layers)]
        self._process = subprocess.Popen(
            [sys.executable, *ISOLATED, *script],
            env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": str(hash_seed)},
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        theirs.close()
        ours.settimeout(START_SECONDS)
        try:
            greeting = b""
            while not greeting.endswith(b"\n"):
                greeting += self._exactly(1)
            self.layers: tuple[str, ...] = tuple(json.loads(greeting))
        except (OSError, ValueError) as error:
            self.close()
            raise JudgeError(
                f"sandbox: the zygote did not start: {error}",
                remedy="See `coral doctor`, or try python -s -S -P on this machine.",
            ) from None

    def run(self, request: dict[str, Any], allowance: Allowance, output_bytes: int) -> Answer:
        """Run one request in a new child.

        Args:
            request: The patch, its cases and limits (see `zygote.run_patch`).
            allowance: Seconds that the child may sleep and compute.
            output_bytes: Bytes that are read of it at most.

        Raises:
            JudgeError: the sandbox failed, or the child ended before it ran the patch.
        """
        started = time.monotonic()
        with contextlib.ExitStack() as pipes:
            (request_read, writer), (reader, result_write) = (
                [pipes.enter_context(FileIO(end, mode)) for end, mode in zip(os.pipe(), "rw", strict=True)]
                for _ in ("request", "result")
            )
            try:
                handles = array.array("i", [request_read.fileno(), result_write.fileno()])
                self._control.sendmsg([b"f"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handles)])
                request_read.close()
                result_write.close()
                watch = Watch(self._pid_of_child(), allowance)
                os.set_blocking(writer.fileno(), False)
                data, overflowed = _exchange(writer, reader, json.dumps(request).encode(), watch, output_bytes)
                watch.finish()
                self._control.sendall(b"k")
                status, cpu_seconds = _STATUS.unpack(self._exactly(_STATUS.size))
            except OSError as error:
                raise JudgeError(
                    f"sandbox: the zygote failed: {error}. The patch was not judged", remedy=_REMEDY
                ) from None
        ready, *lines = data.split(b"\n")[:-1] or [b""]
        if ready != READY and watch.ended != Stop.STARVED:
            raise JudgeError(
                f"sandbox: a child ended before it could run the patch (wait status {status})", remedy=_REMEDY
            )
        ended = watch.ended or (Stop.OUTPUT if overflowed else None)
        return Answer(tuple(lines), status, ended, time.monotonic() - started, cpu_seconds, watch.waited)

    def _pid_of_child(self) -> int:
        """The child's pid as this process sees it: the kernel attaches it to the message of the child."""
        data, extra, _, _ = self._control.recvmsg(1, socket.CMSG_SPACE(12))
        if data != b"p":
            raise OSError("it ended")
        for _, kind, content in extra:
            if kind == socket.SCM_CREDENTIALS:
                return int(struct.unpack("iII", content[:12])[0])
        return 0

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._control.recv(count - len(data))
            if not part:
                raise OSError("it ended")
            data += part
        return data

    def kill(self) -> None:
        """Kill the zygote and its children, from any thread. A request in progress fails."""
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill the zygote and its children, and release the socket."""
        self._control.close()
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except OSError:
            self._process.kill()
        self._process.wait()


def _exchange(writer: FileIO, reader: FileIO, request: bytes, watch: Watch, most: int) -> tuple[bytes, bool]:
    """Feed `request`, read until the end, a limit of `watch` or `most` bytes.

    Returns:
        What was read, and whether there was more than `most`.
    """
    data = bytearray()
    left = memoryview(request)
    while (remaining := watch.seconds_left(data.count(b"\n"))) > 0:
        readable, writable, _ = select.select([reader], [] if writer.closed else [writer], [], remaining)
        if writable:
            try:
                left = left[writer.write(left[: 1 << 16]) or 0 :]
            except BrokenPipeError:
                left = left[:0]
            if not left:
                writer.close()
        if readable:
            part = os.read(reader.fileno(), 1 << 16)
            data += part
            if not part or len(data) > most:
                break
    return bytes(data[:most]), len(data) > most
