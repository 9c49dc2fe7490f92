"""Untrusted text is read in a process of its own: extraction, the interpreter's parser, bandit, ruff.

Each of these can be brought down by a text (a stack overflow in C, minutes, gigabytes) or put into
a state in which it says something else of the next one. Here that costs one process: CPU time is
limited for each text, memory for all, and who asked gets a reason instead of an answer.

Protocol: JSON lines. Requests ``{op, ...}``, replies ``{result}`` or ``{raised, how}``. It starts
with the first request, and again after it was ended.
"""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from coral_core.errors import JudgeError
from coral_core.parent_process import end_with, take_pipes

CPU_SECONDS = 20.0
"""CPU seconds for one text. An ordinary one takes milliseconds; the worst known ones of the longest kind take four."""
PATIENCE = 120.0
"""Seconds of wall clock for one text, for what does not use the CPU either."""
MEMORY_BYTES = 2 << 30
LARGEST_REPLY = 32 << 20
FILE_BYTES = 64 << 20
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Unread:
    """What came instead of an answer."""

    reason: str


class _BrokenError(Exception):
    """The process ended, fell silent or made no sense."""


class TextProcess:
    """The asking side; thread-safe, one request at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()
        self._killed = False

    def ask(self, request: dict[str, Any], until: float | None = None) -> Any:
        """The result of one request, or `Unread`: it broke the process twice, while an ordinary text did not.

        Args:
            request: What to do, and with which text.
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

    def ask_all(self, requests: Sequence[dict[str, Any]], until: float | None = None) -> list[Any]:
        """As `ask`, for each."""
        return [self.ask(request, until) for request in requests]

    def _once(self, request: dict[str, Any], until: float | None) -> Any:
        process = self._living()
        patience = time.monotonic() + PATIENCE
        line = b""
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = _line(process.stdout.fileno(), patience if until is None else min(until, patience))
        except OSError:
            pass
        except BaseException:
            self.close()
            raise
        if not line.endswith(b"\n"):
            late = time.monotonic()
            how = self.close()
            if self._killed:
                raise JudgeError("the process that reads texts was ended")
            if until is not None and late >= until:
                raise TimeoutError
            raise _BrokenError("no answer in time" if late >= patience else how)
        reply = json.loads(line)
        if "missing" in reply:
            self.close()
            raise JudgeError(
                f"a linter failed: {reply['missing']}",
                remedy="Install the pinned versions: pip install ruff==0.17.6 bandit==1.9.4",
            )
        if "raised" in reply:
            self.close()  # after a MemoryError or a RecursionError nobody knows what is half done
            raise _BrokenError(str(reply["raised"]))  # of the text or, with a full disk, of this machine
        return reply["result"]

    def _living(self) -> "subprocess.Popen[bytes]":
        if self._killed:
            raise JudgeError("the process that reads texts was ended")
        if self._process is None or self._process.poll() is not None:
            self.close()
            environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "coral_core.scoring.text_process", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment | {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )
        return self._process

    def start(self) -> None:
        """Start it, if it does not run, without waiting: what it loads takes about as long as a small model generates."""
        with self._lock:
            if not self._killed:
                self._living()

    def kill(self) -> None:
        """End what is under way, from any thread; nothing else will start."""
        self._killed = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> str:
        """Give the process back; says how it ended."""
        process, self._process = self._process, None
        if process is None:
            return ""
        try:
            status: int | None = process.wait(0.2)
        except subprocess.TimeoutExpired:
            status = None
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            try:
                if stream is not None:
                    stream.close()
            except OSError:
                pass
        if status is None:
            return "the reading process was ended"
        if -status in (signal.SIGPROF, signal.SIGXCPU):
            return f"reading it took more than {CPU_SECONDS:.0f} s of CPU time"
        return f"it ended the process that read it (exit status {status})"


def _line(descriptor: int, until: float) -> bytes:
    """One line, or what there is of it at the end, at `until`, or when it is too long."""
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
    """The process of those who have none of their own; it ends with this one."""
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
    """Answer requests until whoever asks hangs up; with ``--trial`` say whether an ordinary text can be read."""
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
