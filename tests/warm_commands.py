"""The `coral` command in a process of its own, forked from one that has imported its modules already.

A command costs a second of processor time for its imports alone, and the tests call hundreds. What is tested stays a process: its arguments,
folder, environment, output and exit code. Prefect and torch are left to the command, since they read their settings when they are imported.
Tests of what a command imports, and of interpreter settings, start a real one.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OF_THE_INTERPRETER = ("PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONUTF8", "LANG", "LC_ALL", "LD_PRELOAD")
"""Variables that change an interpreter from its start."""
LATE = ("prefect", "torch", "transformers", "peft")
_one_at_a_time = threading.Lock()


def run(
    arguments: list[str],
    *,
    environment: dict[str, str],
    cwd: Path | None = None,
    timeout: float = 600,
    cpu_seconds: int | None = None,
    script: Path | None = None,
) -> "subprocess.CompletedProcess[str]":
    """What `subprocess.run` gives for `coral ARGUMENTS`, or for a script, with captured output and no input.

    Args:
        arguments: Arguments of the command.
        script: A Python file to run in place of `coral`.
        environment: Its whole environment.
        cwd: Its folder; the present one where none is given.
        timeout: Seconds after which it is killed.
        cpu_seconds: Processor time after which the system ends it.
    """
    paths = [Path(name) for name in environment.get("PYTHONPATH", "").split(os.pathsep) if name]
    other = any(environment.get(name) != os.environ.get(name) for name in OF_THE_INTERPRETER)
    if other or any((path / "sitecustomize.py").exists() for path in paths):
        return _cold(
            [str(script)] if script else ["-m", "flows.cli"], arguments, environment, cwd, timeout, cpu_seconds
        )
    request = {
        "script": str(script) if script else None,
        "arguments": arguments,
        "environment": environment,
        "cwd": str(cwd or Path.cwd()),
        "cpu": cpu_seconds,
    }
    with (
        tempfile.TemporaryFile("w+") as asked,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        asked.write(json.dumps(request))
        asked.flush()
        told, tell = os.pipe()
        with os.fdopen(told) as answers:
            try:
                with _one_at_a_time:
                    socket.send_fds(_server(), [b"x"], [asked.fileno(), out.fileno(), err.fileno(), tell])
            finally:
                os.close(tell)
            pid = int(answers.readline())
            if not select.select([answers], [], [], timeout)[0]:
                os.kill(pid, signal.SIGKILL)
                answers.readline()
                raise subprocess.TimeoutExpired(["coral", *arguments], timeout)
            code = int(answers.readline())
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(["coral", *arguments], code, out.read(), err.read())


def _cold(
    program: list[str],
    arguments: list[str],
    environment: dict[str, str],
    cwd: Path | None,
    timeout: float,
    cpu_seconds: int | None,
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *program, *arguments],
        env=environment, cwd=cwd, capture_output=True, text=True, timeout=timeout,
        preexec_fn=functools.partial(_limit, cpu_seconds) if cpu_seconds is not None else None,
    )  # fmt: skip


def _limit(seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


@functools.cache
def _server() -> socket.socket:
    """The process that commands are forked from. It ends with this one."""
    mine, its = socket.socketpair()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "CORAL_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.warm_commands", str(its.fileno())],
        cwd=ROOT, env=environment | {"COLUMNS": "140"}, pass_fds=[its.fileno()],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    its.close()
    atexit.register(process.wait)
    atexit.register(mine.close)
    return mine


def _serve(requests: socket.socket) -> None:
    """Fork a process for each request, until the other side is closed."""
    import flows.cli
    from coral_core.config.tree import AutomatonConfig
    from coral_core.search.expression import calibration

    for module in pkgutil.iter_modules(flows.cli.__path__):
        if module.name != "__main__":
            importlib.import_module(f"flows.cli.{module.name}")
    for name in ("coral_core.api", "coral_core.report.pictures", "matplotlib.backends.backend_agg"):
        importlib.import_module(name)
    calibration(AutomatonConfig())  # half a second in every search with the default automaton
    early = [name for name in LATE if name in sys.modules]
    assert not early, f"{early} must be imported by the command itself"
    gc.freeze()  # so that a child copies fewer pages
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which closes the other side
    while True:
        word, descriptors, _, _ = socket.recv_fds(requests, 1, 4)
        if not word:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            _wait(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _wait(asked: int, out: int, err: int, tell: int) -> None:
    """Start the command and tell its process id, then its exit code as `subprocess` counts it."""
    command = os.fork()
    if command == 0:
        os.close(tell)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.lseek(asked, 0, os.SEEK_SET)
        request = json.loads(os.fdopen(asked).read())
        os.closerange(3, max(asked, out, err) + 1)
        _become(request)
    os.write(tell, f"{command}\n".encode())
    _, status = os.waitpid(command, 0)
    os.write(tell, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(request: dict[str, Any]) -> None:
    """The command, with everything that a process is given at its start."""
    import flows.cli

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["cpu"] is not None:
        _limit(request["cpu"])
    more = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    script = request["script"]
    sys.path[:1] = [str(Path(script).parent) if script else "", *(name for name in more if name)]  # as Python has it
    sys.argv = [script or "coral", *request["arguments"]]
    if script:
        runpy.run_path(script, run_name="__main__")
    else:
        flows.cli.main()
    raise SystemExit(0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
