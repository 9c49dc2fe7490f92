"""The parent's side of the sandbox: starts zygotes, feeds children, owns the clock.

A child's answer is data: at most `output_kb` of JSON lines, checked field by field in
`judge`. Whatever a patch writes, it can only change its own verdict.
"""

import array
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coral_core.errors import JudgeError
from coral_core.scoring.sandbox.layers import landlock_abi, seccomp_known

BASE_LAYERS = ("landlock", "seccomp")
_HERE = Path(__file__).parent
START_SECONDS = 60.0
ISOLATED = ("-s", "-S", "-P")
"""No user site, no site, no script folder on the path. Not -I: it would drop PYTHONHASHSEED, and with it the fixed
order of sets of strings that makes a verdict repeat; the environment is ours alone anyway."""


@dataclass(frozen=True)
class Answer:
    """What came out of one child."""

    lines: tuple[bytes, ...]
    status: int
    timed_out: bool
    overflowed: bool
    seconds: float


def detect_layers() -> dict[str, bool]:
    """Which base layers this kernel and machine offer."""
    return {"landlock": landlock_abi() >= 1, "seccomp": seccomp_known()}


def layers_in_use(accepted: Sequence[str] = ()) -> tuple[str, ...]:
    """The base layers to use. Raises `JudgeError` when one is missing and not accepted by name."""
    found = detect_layers()
    missing = [name for name in BASE_LAYERS if not found[name] and name not in accepted]
    if missing:
        raise JudgeError(
            f"sandbox: {' and '.join(missing)} missing on this machine, so patches would not be contained. Use a kernel that has it, or accept "
            f"the risk by name with --set 'scoring.judge.allow_missing_layers=[{', '.join(missing)}]'"
        )
    return tuple(name for name in BASE_LAYERS if found[name])


class Zygote:
    """One zygote process; judges one patch at a time, from any one thread."""

    def __init__(self, layers: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self._control = ours
        self._process = subprocess.Popen(
            [
                sys.executable,
                *ISOLATED,
                str(_HERE / "zygote.py"),
                str(theirs.fileno()),
                str(_HERE.parent / "values.py"),
                ",".join(layers),
            ],
            env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"},
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        theirs.close()
        ours.settimeout(START_SECONDS)
        try:
            if ours.recv(1) != b"r":
                raise OSError("it ended at once")
        except OSError as error:
            self.close()
            raise JudgeError(
                f"sandbox: the zygote did not start: {error}. See `coral doctor`, or try python -I -S on this machine."
            ) from None

    def run(self, request: dict[str, Any], wall_seconds: float, output_bytes: int) -> Answer:
        """Run one request in a child of its own. Raises `JudgeError` when the sandbox itself fails."""
        started = time.monotonic()
        request_read, request_write = os.pipe()
        result_read, result_write = os.pipe()
        try:
            handles = array.array("i", [request_read, result_write])
            try:
                self._control.sendmsg([b"f"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handles)])
            finally:
                os.close(request_read)
                os.close(result_write)
            struct.unpack("<i", self._exactly(4))
            os.set_blocking(request_write, False)
            os.set_blocking(result_read, False)
            writer = request_write
            request_write = -1
            data, timed_out, overflowed = _exchange(
                writer, result_read, json.dumps(request).encode(), started + wall_seconds, output_bytes
            )
            self._control.sendall(b"k")
            (status,) = struct.unpack("<i", self._exactly(4))
        except OSError as error:
            raise JudgeError(f"sandbox: the zygote failed: {error}") from None
        finally:
            if request_write >= 0:
                os.close(request_write)
            os.close(result_read)
        return Answer(tuple(data.split(b"\n")[:-1]), status, timed_out, overflowed, time.monotonic() - started)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._control.recv(count - len(data))
            if not part:
                raise OSError("it ended")
            data += part
        return data

    def close(self) -> None:
        self._control.close()
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except OSError:
            self._process.kill()
        self._process.wait()


def _exchange(writer: int, reader: int, request: bytes, deadline: float, most: int) -> tuple[bytes, bool, bool]:
    """Feed `request`, read until the end, the deadline or `most` bytes; closes `writer`."""
    data = bytearray()
    left = memoryview(request)
    open_writer = True
    try:
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return bytes(data), True, False
            readable, writable, _ = select.select([reader], [writer] if open_writer else [], [], remaining)
            if writable:
                try:
                    left = left[os.write(writer, left[: 1 << 16]) :]
                except BrokenPipeError:
                    left = left[:0]
                if not left:
                    os.close(writer)
                    open_writer = False
            if readable:
                part = os.read(reader, 1 << 16)
                if not part:
                    return bytes(data), False, False
                data += part
                if len(data) > most:
                    return bytes(data[:most]), False, True
    finally:
        if open_writer:
            os.close(writer)


class Pool:
    """A fixed number of zygotes shared by threads."""

    def __init__(self, workers: int, layers: Sequence[str]) -> None:
        self._layers = tuple(layers)
        self._free: list[Zygote] = []
        self._count = 0
        self._workers = workers
        self._changed = threading.Condition()
        self._closed = False

    def run(self, request: dict[str, Any], wall_seconds: float, output_bytes: int) -> Answer:
        """Run `request` in the next free zygote; a zygote that failed is replaced and the request tried again.

        All zygotes may have died at once (out of memory), hence one try more than there are.
        """
        for attempt in range(self._workers + 1):
            zygote = self._take()
            try:
                answer = zygote.run(request, wall_seconds, output_bytes)
            except JudgeError:
                self._drop(zygote)
                if attempt == self._workers:
                    raise
            else:
                self._give(zygote)
                return answer
        raise AssertionError("unreachable")

    def _take(self) -> Zygote:
        with self._changed:
            while not self._free and self._count >= self._workers:
                self._changed.wait()
            if self._closed:
                raise JudgeError("the judge is closed")
            if self._free:
                return self._free.pop()
            self._count += 1
        try:
            return Zygote(self._layers)
        except BaseException:
            with self._changed:
                self._count -= 1
                self._changed.notify()
            raise

    def _give(self, zygote: Zygote) -> None:
        with self._changed:
            if not self._closed:
                self._free.append(zygote)
                self._changed.notify()
                return
        zygote.close()

    def _drop(self, zygote: Zygote) -> None:
        zygote.close()
        with self._changed:
            self._count -= 1
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            free, self._free = self._free, []
            self._changed.notify_all()
        for zygote in free:
            zygote.close()
