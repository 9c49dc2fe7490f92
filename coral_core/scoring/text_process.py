"""Reads untrusted text in a child process: patch extraction, the interpreter's parser, bandit, ruff.

A text can crash each of these (stack overflow in C), keep it busy for minutes, make it use gigabytes, or leave it in a
state that changes its answer on the next text. Here that costs one process: CPU time is limited per text, memory in all,
and the caller gets a reason instead of an answer.

Protocol: JSON lines. Requests ``{op, ...}``, replies ``{result}`` or ``{raised}`` or ``{missing}``. The process starts
with the first request, and again after it was ended.
"""

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, BinaryIO

from coral_core.errors import JudgeError
from coral_core.parent_process import end_with, take_pipes
from coral_core.scoring.child_process import ChildProcess

CPU_SECONDS = 20.0
"""CPU seconds for one text. An ordinary text takes milliseconds, the slowest known one of the greatest length four seconds."""
PATIENCE = 120.0
"""Wall-clock seconds for one text: the limit on waiting."""
MEMORY_BYTES = 2 << 30
LARGEST_REPLY = 32 << 20
FILE_BYTES = 64 << 20
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Unread:
    """Why there is no answer."""

    reason: str


class _BrokenError(Exception):
    """The process ended, did not answer in time or answered nonsense."""


class TextProcess(ChildProcess):
    """The client of the process; thread-safe, one request at a time."""

    module = "coral_core.scoring.text_process"
    stderr = subprocess.DEVNULL
    killed_error = JudgeError("the process that reads texts was ended")

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()

    def environment(self) -> dict[str, str]:
        return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"PYTHONHASHSEED": "0"}

    def ask(self, request: dict[str, Any], until: float | None = None) -> Any:
        """The result of one request, or `Unread` when it broke the process twice while an ordinary text did not.

        Args:
            request: The operation (extract, facts, ruff) and its text.
            until: When to give up, in `time.monotonic` seconds.

        Raises:
            JudgeError: an ordinary text cannot be read here either, or the process was ended by `kill`.
            TimeoutError: `until` has come.
        """
        with self._lock:
            try:
                return self._once(request, until)
            except _BrokenError:
                pass
            try:
                self._once({"op": "control", "ruff": request["op"] == "ruff"}, until)
            except _BrokenError as error:
                raise JudgeError(
                    f"texts cannot be read on this machine: {error}",
                    remedy="Try: python -m coral_core.scoring.text_process --trial",
                ) from None
            try:
                return self._once(request, until)
            except _BrokenError as error:
                return Unread(str(error))

    def _once(self, request: dict[str, Any], until: float | None) -> Any:
        process = self._running()
        patience = time.monotonic() + PATIENCE
        line = b""
        try:
            assert process.stdout is not None
            self._send(process, request)
            line = _line(process.stdout.fileno(), patience if until is None else min(until, patience))
        except OSError:
            pass
        except BaseException:
            self.close()
            raise
        if not line.endswith(b"\n"):
            late = time.monotonic()
            status = self._end(0.2)
            if self._killed:
                raise self.killed_error
            if until is not None and late >= until:
                raise TimeoutError
            raise _BrokenError("no answer in time" if late >= patience else _how_it_ended(status))
        reply = json.loads(line)
        if "missing" in reply:
            self.close()
            raise JudgeError(
                f"a linter failed: {reply['missing']}",
                remedy="Install the pinned versions: pip install ruff==0.17.6 bandit==1.9.4",
            )
        if "raised" in reply:
            self.close()  # after a MemoryError or a RecursionError its state is unknown
            raise _BrokenError(str(reply["raised"]))  # of the text or, with a full disk, of this machine
        return reply["result"]

    def start(self) -> None:
        """Start the process without waiting: loading bandit takes about as long as a small model takes to generate."""
        with self._lock, contextlib.suppress(JudgeError):
            self._running()


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "the reading process was ended"
    if -status in (signal.SIGPROF, signal.SIGXCPU):
        return f"reading it took more than {CPU_SECONDS:.0f} s of CPU time"
    return f"it ended the process that read it (exit status {status})"


def _line(descriptor: int, until: float) -> bytes:
    """One line, or its beginning when the stream ends, `until` comes or it is too long."""
    parts: list[bytes] = []
    size = 0
    while size < LARGEST_REPLY:
        left = until - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            break
        part = os.read(descriptor, 1 << 16)
        if not part:
            break
        parts.append(part)
        size += len(part)
        if part.endswith(b"\n"):
            break
    return b"".join(parts)


_shared: TextProcess | None = None
_sharing = threading.Lock()


def shared() -> TextProcess:
    """The process shared by callers without one of their own; it ends with this process."""
    global _shared
    with _sharing:
        if _shared is None:
            _shared = TextProcess()
        return _shared


# -- the process itself --------------------------------------------------------------------


def _do(request: dict[str, Any]) -> Any:
    from coral_core.prompting.extraction import extract
    from coral_core.scoring import linters

    if request["op"] == "extract":
        return extract(request["completion"], request["entry_point"]).model_dump(mode="json")
    if request["op"] == "facts":
        found = linters.facts(request["text"])
        if isinstance(found.get("bandit"), str):  # not read: is it the text?
            linters.trial()
        return found
    if request["op"] == "ruff":
        return linters.ruff(request["texts"])
    if request["op"] == "control":
        return linters.trial(ruff_too=bool(request.get("ruff")))
    raise LookupError(request["op"])


def _reply(request: dict[str, Any]) -> dict[str, Any]:
    from coral_core.scoring.linters import LinterMissing

    limit = 0.0 if request["op"] == "ruff" else CPU_SECONDS  # ruff is a process with limits of its own
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        return {"result": _do(request)}
    except LinterMissing as error:
        return {"missing": str(error)}
    except ImportError as error:
        return {"missing": f"{error}"}
    except Exception as error:
        return {"raised": f"reading it raised {type(error).__name__}"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def _serve(reader: BinaryIO, writer: BinaryIO) -> None:
    for line in reader:
        writer.write(json.dumps(_reply(json.loads(line))).encode() + b"\n")
        writer.flush()


def main() -> None:
    """Answer requests until the client hangs up; with ``--trial`` report whether an ordinary text can be read."""
    if sys.argv[1] == "--trial":
        print(json.dumps([_reply({"op": "control"}), _reply({"op": "ruff", "texts": ["x = 1\n"]})]))
        return
    reader, writer = take_pipes()
    end_with(int(sys.argv[1]))
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
    ):
        hard = resource.getrlimit(kind)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (value, value))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    _reply({"op": "control"})  # loads bandit, before the first text comes
    _serve(reader, writer)


if __name__ == "__main__":
    main()
