"""Calls a function alone and writes the outcome of each call. Run as a script, by `cases`.

    python -s -S -P replay_calls.py VALUES < REQUEST

Standard library only. One JSON line per call on stdout. It runs the user's own functions, also with arguments that no test
gave them. An audit hook therefore refuses access to files, processes and the network. It guards against accidents of
trusted code and is no sandbox. A call that is cut off, or hangs in C code, ends the process, since it may leave tables half
filled; `cases` continues with the next call.
"""

import json
import os
import resource
import signal
import sys
import sysconfig
import types
import warnings
from typing import Any

OUTSIDE = {
    "builtins.input", "ctypes", "fcntl", "ftplib", "http", "imaplib", "mmap", "open", "os", "poplib", "pty", "resource",
    "shutil", "smtplib", "socket", "sqlite3", "subprocess", "syslog", "tempfile", "time.sleep", "urllib", "webbrowser",
}  # fmt: skip
"""Audit events, or their first word, of access to anything outside the process."""
MEMORY = 1 << 30
SECONDS = 2.0
"""CPU time of one call: the backstop for C code; `lines` decides."""
class_name = type.__dict__["__name__"].__get__
"""Name of a class as the interpreter holds it, whatever its metaclass says."""
LIBRARY = tuple({os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")})


class CallEnded(BaseException):
    """A call ran too long or touched the outside; a BaseException so that the function does not catch it."""


class CallLimits:
    """Limits of the running call: executed lines and audit events.

    Args:
        lines: Lines that a call may execute.
        most: Lines after which it is cut off.
    """

    def __init__(self, lines: int, most: int) -> None:
        self.limit, self.most = lines, most
        self.lines = 0
        self.touched = ""
        self.on = False

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Audit hook: end the call when it accesses anything outside the process, except to import the standard library."""
        if not self.on or (event not in OUTSIDE and event.partition(".")[0] not in OUTSIDE):
            return
        if event in ("open", "os.listdir", "os.scandir") and self._is_import(arguments):
            return
        self.touched = self.touched or event
        raise CallEnded

    @staticmethod
    def _is_import(arguments: tuple[Any, ...]) -> bool:
        """True when a file or folder of the standard library is opened for reading."""
        path = arguments[0] if arguments else None
        writes = len(arguments) > 2 and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        inside = isinstance(path, str) and (os.path.realpath(path) + os.sep).startswith(LIBRARY)
        return inside and not writes

    def trace(self, frame: types.FrameType, event: str, argument: Any) -> Any:
        """Trace function: count lines, and end the call beyond the most."""
        if event in ("line", "call"):
            self.lines += event == "line"
            if self.lines > self.most:
                raise CallEnded
        return self.trace


def one_call(
    function: Any, call: dict[str, Any], limits: CallLimits, values: Any, classes: Any, items: int
) -> dict[str, Any]:
    """Call a function once, within the limits.

    Args:
        function: The function.
        call: Its encoded ``arguments`` and ``keywords``.
        limits: Counts lines and refuses access to anything outside the process.
        values: The module `problems.values`, loaded from its file.
        classes: The classes of the function's module (`values.Classes`).
        items: Items of a result at most, and of a generator that are read.

    Returns:
        ``value`` or ``exception`` with ``mutated`` (the arguments after the call) and ``lines``; or the reason why there is
        neither: ``touched`` (an audit event), ``budget``, or ``outside`` the value language; with ``cut`` when it was cut off.
    """
    names = sorted(call["keywords"])
    try:
        encoded = [*call["arguments"], *(call["keywords"][name] for name in names)]
        given = [values.decode(item, (), classes.find) for item in encoded]
    except Exception as error:
        return {"outside": f"arguments: {error}"}
    arguments = given[: len(given) - len(names)]
    named = dict(zip(names, given[len(arguments) :], strict=True))
    limits.lines = 0
    limits.on = True
    sys.settrace(limits.trace)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        value = function(*arguments, **named)
        if is_iterator(value):
            value = [item for _, item in zip(range(items), value, strict=False)]
        ended: BaseException | None = None
    except BaseException as error:
        ended = error
    finally:
        sys.settrace(None)
        signal.setitimer(signal.ITIMER_PROF, 0)
        limits.on = False
    if limits.touched:
        return {"touched": limits.touched, "cut": True}
    if limits.lines > limits.limit:
        return {"budget": True, "cut": limits.lines > limits.most}
    try:
        record: dict[str, Any] = {"mutated": [values.encode(item, items, label=classes.label) for item in given]}
        if ended is not None:
            record["exception"] = class_name(type(ended))
        else:
            record["value"] = values.encode(value, items, label=classes.label)
    except (values.ValueOutside, RecursionError, MemoryError) as error:
        return {"outside": str(error) or class_name(type(error))}
    return record | {"lines": limits.lines}


def time_used() -> float:
    """Seconds of CPU time of this process, also under a moved clock."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def is_iterator(value: Any) -> bool:
    """True for a generator or another iterator; False also for a class that raises when it is inspected."""
    try:
        return hasattr(type(value), "__next__")
    except Exception:
        return False


def move_clock(seconds: int) -> None:
    """Move the clock of this process by `seconds`, for `time` and for `datetime`, which is loaded without its C code."""
    import time

    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
        for unit, factor in (("", 1), ("_ns", 1_000_000_000)):
            real = getattr(time, name + unit)
            setattr(time, name + unit, lambda real=real, factor=factor: real() + seconds * factor)
    for name in ("gmtime", "localtime", "ctime"):
        real = getattr(time, name)

        def converted(moment: Any = None, real: Any = real) -> Any:
            return real(time.time() if moment is None else moment)

        setattr(time, name, converted)
    for name, place in (("asctime", 0), ("strftime", 1)):
        real = getattr(time, name)

        def written(*arguments: Any, real: Any = real, place: int = place) -> Any:
            return real(*arguments, *([time.localtime()] if len(arguments) == place else []))

        setattr(time, name, written)
    sys.modules["_datetime"] = None  # type: ignore[assignment]
    import datetime  # is loaded here, by the code in Python, which asks `time`

    for name in ("date", "datetime", "time", "timedelta", "timezone", "tzinfo"):
        getattr(datetime, name).__module__ = "datetime"  # from Python 3.12 on it says _pydatetime, and is no value then


def load(path: str) -> Any:
    """Execute the module in the file `path`. This process has no import path to our package."""
    module = types.ModuleType("_coral_values")
    with open(path, encoding="utf-8") as file:
        exec(compile(file.read(), path, "exec"), module.__dict__)
    return module


def main() -> None:
    request = json.loads(sys.stdin.buffer.read())
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    values = load(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(1_000)
    if request["clock"]:
        move_clock(request["clock"])
    limits = CallLimits(request["lines"], request["most_lines"])
    sys.addaudithook(limits.audit)

    def answer(record: dict[str, Any]) -> None:
        out.write(json.dumps(record) + "\n")
        out.flush()

    module = types.ModuleType("patch")
    sys.modules["patch"] = module  # dataclasses and typing look there for the names in annotations
    space = module.__dict__
    warnings.showwarning = lambda *_, **__: None  # which else reads the file of the line that warns
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    limits.on = True
    try:
        exec(compile(request["source"], "<function>", "exec", dont_inherit=True), space)
        function = space[request["entry_point"]]
    except BaseException as error:
        limits.on = False
        answer({"setup": limits.touched or f"{type(error).__name__}: {error}"[:200]})
        return
    finally:
        limits.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
    answer({"setup": None})
    classes = values.Classes(space)
    for call in request["calls"]:
        if time_used() > request["seconds"]:
            answer({"over": True})
            break
        answer(record := one_call(function, call, limits, values, classes, request["items"]))
        if record.get("cut"):
            break
    os._exit(0)


if __name__ == "__main__":
    main()
