"""The zygote: a bare interpreter that forks a locked-down child for each patch.

Run as ``python -s -S -P zygote.py CONTROL_FD VALUES_FILE LAYERS``. Standard library only. It first writes the names of its
layers (one line of JSON). Then it receives, over its control socket, one byte and two file descriptors per patch (request
in, results out), and forks a child that gets both. The zygote reads neither of them, so no child can find the patch,
arguments or results of another in its memory. The child sends ``p`` on the control socket (the kernel adds its pid) and
closes it. The zygote waits for the byte ``k``, kills the child's process group, reaps it and answers with wait status and
CPU seconds. The parent owns the clock.

Layers of the zygote: namespaces where the machine has them, no capabilities. Layers of the child, in order: own session,
death with its parent, rlimits, no new privileges, Landlock (read the standard library, nothing else), seccomp (a list of
allowed system calls).

A child first writes a ``ready`` record: a failure before it is the judge's, not the patch's. Then it compiles the patch
and writes its normal form (`source_form.py`), or why it does not compile; a text that breaks the compiler breaks this
child alone. From then on the process belongs to the patch, which may find the result pipe and write to it; that gains it
no more than returning values. The child holds no expected answers.
"""

import array
import contextlib
import gc
import json
import os
import signal
import socket
import struct
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

_type, _CLASS_NAME = type, type.__dict__["__name__"].__get__
RULES_FD, NULL_FD = 200, 201
"""Descriptors of the Landlock rules and of /dev/null: above all that a child opens before it is locked down."""
PRELOADED = "bisect collections copy dataclasses decimal fractions functools heapq itertools math operator random re statistics string typing"


class Confinement(NamedTuple):
    """Modules and descriptors with which each child of this zygote is locked down."""

    values: Any
    form: Any
    layers: Any
    seccomp: Any
    rules: int | None
    """Descriptor of the Landlock rules."""
    program: tuple[bytes, int] | None
    """The filter of system calls."""
    zygote: int


def child(request_fd: int, result_fd: int, confinement: Confinement) -> None:
    """Run one request in this process, a fresh fork, after locking it down. Does not return.

    Args:
        request_fd: Descriptor to read the request from, as JSON.
        result_fd: Descriptor to write the records to.
        confinement: Layers and modules of this zygote.
    """
    os.setsid()
    for number in (0, 1, 2):
        os.dup2(NULL_FD, number)
    with os.fdopen(request_fd, "rb") as stream:
        request = json.loads(stream.read())
    os.closerange(3, result_fd)
    os.closerange(result_fd + 1, RULES_FD)
    os.closerange(RULES_FD + 1, 512)
    confinement.layers.lock_down(request["limits"], confinement.rules, confinement.zygote)
    if confinement.program is not None:
        confinement.seccomp.install(*confinement.program)
    os.closerange(RULES_FD, RULES_FD + 1)
    run_patch(request, result_fd, confinement.values, confinement.form)


def run_patch(request: dict[str, Any], result_fd: int, values: Any, form: Any) -> NoReturn:
    """Define the patch, call it case by case, write one JSON line per case. Ends the process.

    Args:
        request: ``source``, ``setup`` (code that runs before it), ``entry_point``, ``cases`` (arguments only), ``limits``, and
            ``lend_values``: whether the code may use the module `values`.
        result_fd: Descriptor to write the records to.
        values: The module `problems.values`, loaded from its file.
        form: The module `source_form`, loaded from its file.
    """
    limits = request["limits"]
    write, leave, dumps = os.write, os._exit, json.dumps

    def say(record: dict[str, Any]) -> None:
        data = dumps(record).encode() + b"\n"
        while data:
            data = data[write(result_fd, data) :]

    budget = Budget(limits, say, leave)
    module = types.ModuleType("patch")
    sys.modules["patch"] = module  # dataclasses and typing look there for the names in annotations
    space = module.__dict__
    space["__builtins__"] = __builtins__
    if request.get("lend_values"):
        space["coral_values"] = values
    # make the child's own modules harder to reach; they hold no secrets
    for name in ("__main__", "ctypes", "_ctypes", "socket", "_socket", "array"):
        sys.modules.pop(name, None)
    say({"ready": True})
    budget.clock(limits["cpu_seconds"])
    try:
        code = compile(request["source"], "<patch>", "exec", dont_inherit=True)
    except Exception as error:
        say({"setup": "syntax", "why": f"{name_of(error)}: {error}"[:300]})
        leave(0)
    setup = request.get("setup", "")
    say({"form": form.fingerprint(request["source"], setup)})
    sys.setrecursionlimit(limits["recursion"])
    budget.start(-1)
    try:
        if setup:
            exec(compile(setup, "<setup>", "exec", dont_inherit=True), space)
        exec(code, space)
    except BaseException as error:
        budget.stop()
        say({"setup": "raised", "why": name_of(error)})
        leave(0)
    budget.stop()
    function = space.get(request["entry_point"])
    if not callable(function):
        say({"setup": "no-function"})
        leave(0)
    for number, case in enumerate(request["cases"]):
        say(one_case(number, case, function, budget, values, values.Classes(space), limits["items"]))
    say({"done": len(request["cases"])})
    leave(0)


def one_case(
    number: int,
    case: dict[str, Any],
    function: Callable[..., Any],
    budget: "Budget",
    values: Any,
    classes: Any,
    most_items: int,
) -> dict[str, Any]:
    """Call the patch once and record the outcome.

    Args:
        number: Index of the case in the request.
        case: ``arguments`` and ``keywords`` (encoded), ``nodes``, ``slow``, and ``mutated``: whether the arguments after the call are compared.
        function: The entry point of the patch.
        budget: Ends the process when the call exceeds its limits.
        values: The module `problems.values`.
        classes: The classes of the patch (`values.Classes`), which arguments may be instances of.
        most_items: Items in the result at most; also for a generator, which is drained.

    Returns:
        The record: ``value`` or ``exception``, ``mutated`` and ``nodes``; or ``outside``, the reason why the result is not in
        the value language. With ``lines``, the number of executed lines.
    """
    keywords = case.get("keywords", {})
    names = sorted(keywords)
    encoded = [*case["arguments"], *(keywords[name] for name in names)]
    mutated = case["mutated"]
    record: dict[str, Any] = {"case": number}
    try:
        given, nodes = values.decode_call(encoded, case.get("nodes", ()), classes.find)
    except Exception as error:  # the patch lacks a class, or defines it otherwise
        return record | {"outside": f"its arguments cannot be made: {error}"[:200], "lines": 0}
    arguments = given[: len(given) - len(names)]
    named = dict(zip(names, given[len(arguments) :], strict=True))
    results = []
    outside = ""
    budget.start(number, case.get("slow", False))
    try:
        value = function(*arguments, **named)
        if hasattr(type(value), "__next__"):  # a generator is drained within the limits
            drained = []
            for item in value:
                drained.append(item)
                if len(drained) > most_items:
                    raise values.ValueOutside("a generator of too many items")
            value = drained
        budget.stop()
        results.append(value)
    except values.ValueOutside as error:
        budget.stop()
        outside = str(error)[:200]
    except BaseException as error:
        budget.stop()
        record["exception"] = name_of(error)
    if not outside and (results or mutated):
        try:
            after = given if mutated else []
            encoded, table = values.encode_result([*results, *after], nodes, mutated, most_items, classes.label)
            record |= {"value": encoded[0]} if results else {}
            record |= {"mutated": encoded[len(results) :]} if mutated else {}
            record |= {"nodes": table} if table else {}
        except values.ValueOutside as error:
            outside = str(error)[:200]
        except BaseException as error:  # memory or stack is exhausted, or the patch replaced a function used here
            outside = f"{name_of(error)} while it was encoded"[:200]
    if outside:
        record = {"case": number, "outside": outside}
    record["lines"] = budget.lines
    return record


def name_of(error: BaseException) -> str:
    """Name of the error's class, read past its metaclass, whose code may lie or raise."""
    name: str = _CLASS_NAME(_type(error))
    return name[:100]


class Budget:
    """Counts executed lines (the deterministic limit) and CPU time (the backstop for C code).

    Args:
        limits: ``work_lines`` and ``cpu_seconds`` per case, and the same below ``slow`` for slow cases.
        say: Writes a record to the parent.
        leave: Ends the process with a status; `os._exit`, bound before the patch could replace it.
    """

    def __init__(
        self, limits: dict[str, Any], say: Callable[[dict[str, Any]], None], leave: Callable[[int], NoReturn]
    ) -> None:
        self.lines = 0
        self._limits = limits
        self._limit = limits["work_lines"]
        self._say = say
        self._leave = leave
        self._case = -1

    def start(self, case: int, slow: bool = False) -> None:
        """Start counting for one call.

        Args:
            case: Index of the case; -1 for the patch's top level.
            slow: Use the limits of slow cases.
        """
        limits = self._limits["slow"] if slow else self._limits
        self.lines = 0
        self._limit = limits["work_lines"]
        self._case = case
        self.clock(limits["cpu_seconds"])
        sys.settrace(self._trace)

    def clock(self, cpu_seconds: float) -> None:
        """Start the CPU timer: the kernel ends this process after so many CPU seconds."""
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the kernel ends the child, also within C code
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)

    def stop(self) -> None:
        """Stop counting, and stop the CPU timer."""
        sys.settrace(None)
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _trace(self, frame: types.FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines > self._limit:
                self._end("work")
        elif event == "call" and self.lines > self._limit:
            self._end("work")
        return self._trace

    def _end(self, why: str) -> None:
        sys.settrace(None)
        self._say({"case": self._case, "timeout": why})
        self._leave(0)


# -- the zygote ----------------------------------------------------------------------------


def serve(control: socket.socket, confinement: Confinement) -> None:
    """Fork a child per request until the parent closes the control socket.

    Args:
        control: Socket to the parent.
        confinement: Layers and modules for the children.
    """
    while True:
        handles = array.array("i")
        data, extra, _, _ = control.recvmsg(1, socket.CMSG_LEN(2 * handles.itemsize))
        if not data:
            return
        for _, kind, content in extra:
            if kind == socket.SCM_RIGHTS:
                handles.frombytes(content[: len(content) - len(content) % handles.itemsize])
        pid = os.fork()
        if pid == 0:
            try:
                control.sendall(b"p")
                control.close()
                child(handles[0], handles[1], confinement)
            finally:
                os._exit(1)
        for handle in handles:
            os.close(handle)
        if control.recv(1) != b"k":
            return
        for kill in (os.killpg, os.kill):
            try:
                kill(pid, signal.SIGKILL)
            except OSError:
                continue
        _, status, used = os.wait4(pid, 0)
        control.sendall(struct.pack("<id", status, used.ru_utime + used.ru_stime))


def load(path: str) -> Any:
    """Execute the module in the file `path`. This interpreter has no import path to our package."""
    module = types.ModuleType(os.path.basename(path).removesuffix(".py"))
    with open(path, encoding="utf-8") as file:
        exec(compile(file.read(), path, "exec"), module.__dict__)
    return module


def main() -> None:
    """Set up the layers of the zygote, report them, and serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    requested = sys.argv[3].split(",")
    folder = os.path.dirname(os.path.abspath(__file__))
    values = load(sys.argv[2])
    form, layers, seccomp, namespaces = (
        load(os.path.join(folder, f"{name}.py")) for name in ("source_form", "layers", "seccomp", "namespaces")
    )
    layers.die_with_parent()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # when memory runs out, the kernel kills a patch first
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, NULL_FD)
    os.close(null)
    names: list[str] = [name for name in ("seccomp", "landlock") if name in requested]
    names += namespaces.enter(control.fileno()) if "namespaces" in requested else []
    layers.die_with_parent()  # entering a pid namespace may have forked
    for name in PRELOADED.split():
        __import__(name)
    rules = None
    if "landlock" in requested:
        descriptor = layers.landlock_rules(layers.standard_library())
        rules = os.dup2(descriptor, RULES_FD)
        os.close(descriptor)
    with contextlib.suppress(OSError):
        layers.drop_capabilities()
        names.append("no-capabilities")
    confinement = Confinement(
        values, form, layers, seccomp, rules, seccomp.program() if "seccomp" in requested else None, os.getpid()
    )
    gc.collect()
    gc.freeze()
    control.sendall(json.dumps(names).encode() + b"\n")
    serve(control, confinement)


if __name__ == "__main__":
    main()
