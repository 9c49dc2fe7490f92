"""Reads untrusted text in a child process: patch extraction, the interpreter's parser, bandit, ruff.

A text can crash each of these (stack overflow in C), keep it busy for minutes, make it use gigabytes, or leave it in a
state that changes its answer on the next text. Such a text costs one process: CPU time is limited per text, memory in
total, and the caller gets a reason instead of an answer.

Protocol: JSON lines. Requests ``{op, ...}``, replies ``{result}`` or ``{raised}`` or ``{missing}``. The process starts
with the first request, and again after it has ended.
"""

import contextlib
import json
import math
import os
import resource
import signal
import subprocess
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from coral_core.child_process import ChildProcess, ProcessEndedError, serve
from coral_core.errors import JudgeError

CPU_SECONDS = 20.0
"""CPU seconds for one text. An ordinary text takes milliseconds, the slowest known one of the greatest length four seconds."""
PATIENCE = 120.0
"""Wall-clock seconds for one text: the limit on waiting."""
MEMORY_BYTES = 2 << 30
FILE_BYTES = 64 << 20
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Unread:
    """Takes the place of an answer for a text that could not be read; gives the reason."""

    reason: str


class _BrokenError(Exception):
    """The process ended, did not answer in time or answered nonsense."""


class TextProcess(ChildProcess):
    """The client of the process. It handles one request at a time."""

    module = "coral_core.scoring.text_process"
    stderr = subprocess.DEVNULL
    largest_reply = 32 << 20
    killed_error = JudgeError("the process that reads texts was ended")

    def environment(self) -> dict[str, str]:
        return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"PYTHONHASHSEED": "0"}

    def ask(self, request: dict[str, Any], until: float = math.inf) -> Any:
        """The result of one request, or `Unread` when it broke the process twice while an ordinary text did not.

        Args:
            request: The operation (extract, facts, ruff) and its text.
            until: Deadline, in `time.monotonic` seconds.

        Raises:
            JudgeError: an ordinary text cannot be read here either, or the process was ended by `kill`.
            TimeoutError: `until` has come.
        """
        with contextlib.suppress(_BrokenError):
            return self._once(request, until)
        try:
            self._once({"op": "control", "ruff": request["op"] == "ruff"}, until)
        except _BrokenError as error:
            raise JudgeError(
                f"texts cannot be read on this machine: {error}",
                remedy="Look at its memory, processes and folder for temporary files.",
            ) from None
        try:
            return self._once(request, until)
        except _BrokenError as error:
            return Unread(str(error))

    def _once(self, request: dict[str, Any], until: float) -> Any:
        try:
            reply = json.loads(self.exchange(request, min(until, time.monotonic() + PATIENCE)))
        except ProcessEndedError as ended:
            raise _BrokenError(_how_it_ended(ended.status)) from None
        except TimeoutError:
            if time.monotonic() >= until:
                raise
            raise _BrokenError("no answer in time") from None
        if "missing" in reply:
            self.close()
            raise JudgeError(
                f"a linter failed: {reply['missing']}",
                remedy="Install the pinned versions: pip install ruff==0.17.6 bandit==1.9.4",
            )
        if "raised" in reply:
            self.close()  # after a MemoryError or a RecursionError its state is unknown
            raise _BrokenError(
                str(reply["raised"])
            )  # caused by the text or by this machine (a full disk); `ask` tells which
        return reply["result"]

    def start(self) -> None:
        """Start the process without waiting for it: loading bandit takes about as long as a small model takes to generate."""
        with contextlib.suppress(JudgeError):
            self._running()


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "the reading process was ended"
    if -status in (signal.SIGPROF, signal.SIGXCPU):
        return f"reading it took more than {CPU_SECONDS:.0f} s of CPU time"
    return f"it ended the process that read it (exit status {status})"


@lru_cache(maxsize=1)
def shared() -> TextProcess:
    """The text process of callers without one of their own; all of them must be in one thread. It ends with this process."""
    return TextProcess()


# -- the process itself --------------------------------------------------------------------


def _do(request: dict[str, Any]) -> Any:
    from coral_core.prompting.extraction import extract
    from coral_core.scoring import linters

    if request["op"] == "extract":
        return extract(request["completion"], request["entry_point"], request["setup"]).model_dump(mode="json")
    if request["op"] == "facts":
        result = linters.facts(request["text"])
        if isinstance(result.get("bandit"), str):  # not read: test whether the text or the linter is at fault
            linters.trial()
        return result
    if request["op"] == "ruff":
        return linters.ruff(request["texts"])
    if request["op"] == "control":
        return linters.trial(ruff_too=bool(request.get("ruff")))
    raise LookupError(request["op"])


def _reply(request: dict[str, Any], _: object = None) -> dict[str, Any]:
    from coral_core.scoring.linters import LinterMissing

    limit = 0.0 if request["op"] == "ruff" else CPU_SECONDS  # ruff is a process with limits of its own
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        return {"result": _do(request)}
    except (LinterMissing, ImportError) as error:
        return {"missing": str(error)}
    except Exception as error:
        return {"raised": f"reading it raised {type(error).__name__}"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def main() -> None:
    """Answer requests until the client hangs up."""
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_AS: MEMORY_BYTES, resource.RLIMIT_FSIZE: FILE_BYTES}
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (value, value))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    serve(_reply, prepare=lambda: _reply({"op": "control"}))  # loads bandit, before the first text comes


if __name__ == "__main__":
    main()
