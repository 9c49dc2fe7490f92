"""Runs a project's tests in a process of their own, in a copy, and reads the calls that they made.

The process is confined (`confinement`) and has a short environment without secrets. It reports through a pipe, whose lines
are checked as untrusted input. A test that hangs, ends its process, splits it, or removes the project's files is named and
left out: the others run again from where it was. Not covered: tests that need services or credentials.
"""

import contextlib
import importlib.util
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from coral_core.judge.sandbox import layers
from coral_core.problem_sources.package.call_observer import OUTSIDE
from coral_core.problem_sources.package.discovery import SourceFunction, is_test, module_name
from coral_core.problem_sources.package.project_copy import copy_project
from coral_core.problems import values

SECONDS = 1_800.0
"""Wall clock of all tests together."""
TEST_SECONDS = 60.0
"""Time of one test, and of the import of one file: wall clock without that in which it waited for a free core."""
MOST_STARVED = 10
"""Wall clock of one test at most, as a multiple of its limit, however busy the machine is."""
START_SECONDS = 120.0
"""Wall clock until the first file is collected."""
MOST_LEFT_OUT = 25
"""Tests that may end their process before the rest is not run."""
MOST_CALLS = 1_024
"""Calls kept per function."""
LONGEST_LINE = 4 << 20
MOST_BYTES = 256 << 20
KEPT_OUTPUT = 16_000
ENVIRONMENT = ("PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH")
"""Variables that are passed to the tests, with LC_*: no tokens or passwords."""
NO_TESTS = "pytest finds no tests there"
SCRIPT = Path(__file__).with_name("run_tests.py")
_NETWORK = re.compile(
    r"Network is unreachable|name resolution|Name or service not known|ConnectionError|Errno (?:101|-3|-2)\b|socket.*not permitted",
    re.IGNORECASE,
)


class Call(Frozen):
    """One call that a passing test made."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any] = Field(default_factory=dict)
    outcome: dict[str, Any] | None = Field(
        None,
        description="``value`` or ``exception`` (the class name; empty where it is not known), and all arguments after the call as ``mutated``; of a generator the ``items`` that were read and how it ``ended`` (return, the class of an exception, or empty: it was not read to its end, or that is not known); None: an iterator that is no generator.",
    )
    classes: dict[str, str] = Field(
        default_factory=dict, description="Classes of the package whose instances occur: qualified name -> file."
    )

    def encoded(self) -> Iterator[Any]:
        """All that was encoded: arguments, and what came out."""
        yield from (*self.arguments, *self.keywords.values())
        for name in ("mutated", "items"):
            yield from (self.outcome or {}).get(name) or ()
        yield (self.outcome or {}).get("value")


class Calls(Frozen):
    """The calls that the tests made, and how the tests ended."""

    calls: dict[str, tuple[Call, ...]] = Field(description="By function (file:name), in the order of the tests.")
    refused: dict[str, dict[str, int]] = Field(description="By function: why calls could not be recorded, how many.")
    passed: int = Field(ge=0, description="Tests and examples that passed.")
    failed: tuple[str, ...] = Field(description="Those that did not; their calls do not count.")
    tests: dict[str, str] = Field(
        default_factory=dict,
        description="Outcome of each test (passed, failed, skipped, xfail, left out), by its pytest id; examples too.",
    )
    reasons: dict[str, str] = Field(default_factory=dict, description="Why a test failed or was left out.")
    trouble: tuple[str, ...] = Field((), description="What kept tests from running, beside the tests themselves.")
    layers: tuple[str, ...] = Field((), description="Layers that confined the tests (confinement.confine).")


class Interpreter(NamedTuple):
    """A Python that runs tests."""

    path: str
    version: str
    pytest: str
    """Version of its pytest; "" where it has none."""


def interpreter(path: str | None) -> Interpreter:
    """Facts about a Python.

    Args:
        path: Its file (``problems.python``); None: the one that runs this.

    Raises:
        ConfigError: it is not a Python of 3.9 or later.
    """
    if path is None:
        return Interpreter(
            sys.executable, sys.version.split()[0], metadata.version("pytest") if pytest_installed() else ""
        )
    python = str(Path(path).expanduser().absolute())  # a link of an environment is not followed
    code = (
        "import sys, json, importlib.util as u\n"
        "p = ''\n"
        "if u.find_spec('pytest'):\n    import pytest; p = pytest.__version__\n"
        "print(json.dumps([list(sys.version_info[:3]), p]))"
    )
    try:
        done = subprocess.run(
            [python, "-c", code], capture_output=True, timeout=60, check=True, env=_environment(python), cwd="/"
        )
        version, pytest = json.loads(done.stdout)
        numbers = tuple(int(number) for number in version)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[-1][:200]
        raise ConfigError(
            f"problems.python: {path}: does not run as a Python ({reason})",
            remedy="Give the file of the interpreter with which the project's tests run, such as .venv/bin/python.",
        ) from None
    if numbers < (3, 9):
        raise ConfigError(
            f"problems.python: {path}: Python {'.'.join(map(str, numbers))}, and calls are recorded from 3.9 on",
            remedy="Give a newer one.",
        )
    return Interpreter(python, ".".join(map(str, numbers)), str(pytest))


def pytest_installed() -> bool:
    """True when pytest is installed for this interpreter, which runs the tests where the configuration names no other."""
    return importlib.util.find_spec("pytest") is not None


def record(
    root: Path,
    functions: Sequence[SourceFunction],
    seconds: float = SECONDS,
    *,
    python: str | None = None,
    test_seconds: float = TEST_SECONDS,
    observe: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Calls:
    """Run the tests of a project, and the examples in its docstrings, and record their calls.

    Args:
        root: The project's directory, where ``python -m pytest`` would be started.
        functions: Its functions, also those that cannot be used, so that it is known what tests call.
        seconds: Wall-clock limit for all tests together; those that it cuts off are left out.
        python: The project's interpreter; None: this one.
        test_seconds: Limit for one test and for the import of one file, by wall clock; time in which it waited for a free
            core is not counted.
        observe: False runs the tests without recording calls.
        progress: Is called with a line of text now and then.

    Raises:
        ConfigError: the interpreter is none, or the directory cannot be copied.
    """
    with tempfile.TemporaryDirectory(prefix="coral-recording-", ignore_cleanup_errors=True) as folder:
        session = _Session(Path(folder), root.resolve(), interpreter(python), test_seconds, progress)
        session.run(functions, time.monotonic() + seconds, observe)
        return session.calls()


class _Session:
    """One recording: the copy, the processes that run tests in it, and what they have reported."""

    def __init__(
        self,
        folder: Path,
        root: Path,
        python: Interpreter,
        test_seconds: float,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.folder, self.root, self.python, self.test_seconds = folder, root, python, test_seconds
        self.copy = folder / "project" / root.name
        self.progress = progress or (lambda text: None)
        self.found: dict[str, list[Call]] = {}
        self.refused: dict[str, dict[str, int]] = {}
        self.tests: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.files_left_out: dict[str, str] = {}
        self.trouble: list[str] = []
        self.layers: tuple[str, ...] = ()
        self.keys: set[str] = set()
        self.total = 0

    def calls(self) -> Calls:
        return Calls(
            calls={key: tuple(found) for key, found in self.found.items()},
            refused=self.refused,
            passed=sum(outcome == "passed" for outcome in self.tests.values()),
            failed=tuple(name for name, outcome in self.tests.items() if outcome in ("failed", "left out")),
            tests=self.tests,
            reasons=self.reasons,
            trouble=tuple(self.trouble),
            layers=self.layers,
        )

    def run(self, functions: Sequence[SourceFunction], until: float, observe: bool) -> None:
        copy_project(self.root, self.copy)
        request = _request(self.copy, functions, observe)
        self.keys = {target[0] for target in request["targets"]}
        examples = request.pop("doctests")
        if self.python.pytest:
            self._run_to_the_end(request | {"doctests": [], "arguments": []}, until)
            if (
                others := _other_tests(self.copy) if self.trouble == [NO_TESTS] else []
            ):  # of a name that pytest passes by
                self.trouble.clear()
                self._run_to_the_end(request | {"doctests": [], "arguments": others}, until)
        else:
            self.trouble.append(
                f"pytest is not installed for {self.python.path}: only the examples in docstrings were run. Install it there, or name the project's interpreter: problems.python"
            )
        if examples:
            self.total = 0
            self._run_to_the_end(request | {"doctests": examples, "arguments": []}, until)

    def _run_to_the_end(self, request: dict[str, Any], until: float) -> None:
        """Run processes until one ends in good order, without the tests that ended the ones before."""
        for _ in range(MOST_LEFT_OUT + 1):
            process = _Process(self, request, until)
            culprit, reason = process.run()
            if not culprit:
                self.trouble += [reason] if reason else []
                return
            if process.file and not process.test:
                self.files_left_out[process.file] = reason
            self.tests[culprit], self.reasons[culprit] = "left out", reason
            self.progress(f"left out: {culprit}: {reason}")
            if time.monotonic() > until:
                break
            if process.removed:
                shutil.rmtree(self.copy, ignore_errors=True)
                copy_project(self.root, self.copy)
        self.trouble.append(f"more than {MOST_LEFT_OUT} tests end their process or time is up: the rest was not run")

    def take(self, event: dict[str, Any]) -> None:
        """Take a call, or a call that could not be recorded, of a test that passed."""
        if "refused" in event:
            key, reason, count = event["refused"], str(event.get("reason"))[:300], event.get("count")
            if key in self.keys and type(count) is int:
                self._refuse(key, reason, count)
            return
        key = event.pop("call")
        if key not in self.keys or len(self.found.get(key, ())) >= MOST_CALLS:
            return
        try:
            call = Call.model_validate(event)
            if any(map(is_test, call.classes.values())):
                self._refuse(key, f"instances of a class of the tests: {', '.join(sorted(call.classes))}"[:300])
                return
            for item in call.encoded():
                values.parse(item)
        except (values.ValueOutside, ValidationError, RecursionError, TypeError) as error:
            self._refuse(key, f"{OUTSIDE}: {next(iter(str(error).splitlines()), '')}"[:300])
        else:
            self.found.setdefault(key, []).append(call)

    def _refuse(self, key: str, reason: str, count: int = 1) -> None:
        """Count calls that are not kept."""
        reasons = self.refused.setdefault(key, {})
        reasons[reason] = reasons.get(reason, 0) + count


class _Process:
    """One process that runs tests, from its start to its end."""

    def __init__(self, session: _Session, request: dict[str, Any], until: float) -> None:
        self.session, self.request, self.until = session, request, until
        self.test = self.file = self.collector = ""
        self.removed = False
        self.finished: tuple[Any, str] | None = None
        self.stopped = ""
        self.output = b""
        self.bytes = 0

    def run(self) -> tuple[str, str]:
        """Run it.

        Returns:
            The test or file that ended it and how; ("", why no test ran, or "") when it came to its end.
        """
        session = self.session
        scratch = {name: session.folder / name for name in ("tmp", "home")}
        for path in scratch.values():
            path.mkdir(exist_ok=True)
        request = self.request | {
            "without": [name for name in session.tests],
            "without_files": list(session.files_left_out),
            "writable": [str(session.folder)],
            "confinement": [layers.__file__],
        }
        request_file = session.folder / "request.json"
        request_file.write_text(json.dumps(request), encoding="utf-8")
        reading, writing = os.pipe()
        environment = _environment(session.python.path) | {
            "HOME": str(scratch["home"]),
            "TMPDIR": str(scratch["tmp"]),
            "PYTHONPATH": os.pathsep.join(request["paths"]),
        }
        with os.fdopen(reading, "rb", buffering=0) as events:
            try:
                process = subprocess.Popen(
                    [session.python.path, str(SCRIPT), str(request_file), str(writing)],
                    cwd=session.copy,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=(writing,),
                    start_new_session=True,
                )
            finally:
                os.close(writing)
            try:
                assert process.stdout is not None
                self._follow(process, events, process.stdout)
            finally:
                with contextlib.suppress(OSError):  # also processes that the tests started
                    os.killpg(process.pid, signal.SIGKILL)
                code = process.wait()
        return self._verdict(code)

    def _follow(self, process: subprocess.Popen[bytes], events: Any, output: Any) -> None:
        """Read events and output until both end, or a limit is reached."""
        session, buffer = self.session, b""
        last, limit, waited = time.monotonic(), START_SECONDS, 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(events, selectors.EVENT_READ)
            selector.register(output, selectors.EVENT_READ)
            while events in {key.fileobj for key in selector.get_map().values()}:
                now = time.monotonic()
                deadline = last + limit
                if now > deadline:  # on a busy machine it may have had little of that time
                    starved = min(time_without_core(process.pid) - waited, (MOST_STARVED - 1) * limit)
                    deadline += starved
                if now > min(deadline, self.until):
                    self.stopped = (
                        f"did not end within {session.test_seconds:g} s"
                        if now > deadline
                        else "the time for all tests is up"
                    )
                    return
                for key, _ in selector.select(max(0.0, min(deadline, self.until) - now) + 0.01):
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is output:
                        self.output = (self.output + data)[-KEPT_OUTPUT:]
                    else:
                        *lines, buffer = (buffer + data).split(b"\n")
                        self.bytes += len(data)
                        if len(buffer) > LONGEST_LINE or self.bytes > MOST_BYTES:
                            self.stopped = "its calls are more than can be recorded"
                            return
                        for line in lines:
                            self._event(line)
                        if lines:
                            last, limit, waited = time.monotonic(), session.test_seconds, time_without_core(process.pid)
                if process.poll() is not None and self.finished is not None:
                    return

    def _event(self, line: bytes) -> None:
        session = self.session
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(event, dict):
            return
        if "call" in event or "refused" in event:
            session.take(event)
        elif "start" in event:
            self.test = str(event["start"])
        elif "end" in event:
            name, outcome = str(event["end"]), str(event.get("outcome"))
            self.test = ""
            if session.tests.get(name) == "left out":
                return
            session.tests[name] = outcome if outcome in ("passed", "failed", "skipped", "xfail") else "failed"
            if why := str(event.get("why") or ""):
                session.reasons[name] = f"needs the network: {why}" if _NETWORK.search(why) else why
            if len(session.tests) % 50 == 0:
                session.progress(f"{len(session.tests)} of {max(session.total, len(session.tests))} tests have run")
        elif "collecting" in event:
            self.collector, self.file = str(event["collecting"]), str(event.get("file"))
        elif "collected" in event:
            name, failed = str(event["collected"]), str(event.get("failed") or "")
            if name == self.collector:
                self.collector = self.file = ""
            if failed:
                session.tests[name], session.reasons[name] = "failed", failed
        elif "tests" in event and type(event["tests"]) is int:
            session.total = event["tests"] + len(session.tests)
            session.progress(f"{event['tests']} tests to run")
        elif "forked" in event:
            name = str(event["forked"])
            session.tests[name] = "left out"
            session.reasons[name] = "splits its process, and both parts go on with the tests"
        elif "removed" in event:
            self.removed = True
        elif "layers" in event:
            session.layers = tuple(map(str, event["layers"]))
        elif "finished" in event:
            self.finished = event["finished"], str(event.get("why") or "")

    def _verdict(self, code: int) -> tuple[str, str]:
        culprit = self.test or self.collector
        if self.removed and self.test:
            return self.test, "removes the project's own files"
        if self.stopped:
            return culprit, self.stopped if culprit else f"the tests: {self.stopped}"
        if self.finished is None:
            how = f"ends its process (exit code {code})" if code >= 0 else f"ends its process (signal {-code})"
            return culprit, how if culprit else f"the tests could not be started: {self._said()}"
        ended, why = self.finished
        if ended == 0 or ended == 1 or ended == 5:
            return "", "" if ended != 5 or self.session.tests else NO_TESTS
        if culprit:
            return culprit, "ends the whole test run" + (f" ({self._said()})" if ended == 3 else "")
        return "", f"pytest could not run the tests: {why or self._said()}"

    def _said(self) -> str:
        """What the output says of an error of pytest itself."""
        lines = [line.strip() for line in self.output.decode(errors="replace").splitlines() if line.strip()]
        internal = [line.removeprefix("INTERNALERROR>").strip() for line in lines if line.startswith("INTERNALERROR>")]
        named = [line for line in lines if re.match(r"(ERROR|E |error|.*\berror:|\w*(Error|Exit)\b)", line)]
        found = [line for line in internal if line][-1:] or named[-1:] or lines[-1:] or ["no output"]
        return ("INTERNALERROR: " if internal else "") + found[0][:300]


def time_without_core(pid: int) -> float:
    """Seconds in which a process, its only child and so on (the tests, in namespaces of their own) could run and had no core.

    Source: /proc/PID/schedstat of Linux; 0 where there is none.
    """
    nanoseconds, family = 0, [str(pid)]
    with contextlib.suppress(OSError, ValueError, IndexError):
        for _ in range(8):
            (process,) = family
            nanoseconds += int(Path(f"/proc/{process}/schedstat").read_text().split()[1])
            family = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return nanoseconds / 1e9


def _request(copy: Path, functions: Sequence[SourceFunction], observe: bool) -> dict[str, Any]:
    real = Path(os.path.realpath(copy))
    targets = [
        (item.key, str(real / item.file), item.first, item.name.rpartition(".")[2], item.method)
        for item in functions
        if item.first
    ]
    files = sorted({item.file for item in functions})
    doctests = []
    for file in files:
        path = real / file
        if path.is_file() and ">>>" in path.read_text(encoding="utf-8", errors="replace"):
            doctests.append([module_name(path)[1], str(path), file])
    paths = [str(real), *(str(real / name) for name in ("src", "lib", "python") if (real / name).is_dir())]
    more = [folder for folder in dict.fromkeys(module_name(real / file)[0] for file in files) if folder not in paths]
    return {
        "root": str(real),
        "targets": targets if observe else [],
        "files": [str(real / file) for file in files],
        "doctests": doctests,
        "paths": paths,
        "doctest_paths": more,
        "values": values.__file__,
    }


def _other_tests(copy: Path) -> list[str]:
    """Files of tests that pytest finds only when they are named: tests.py, test.py."""
    return sorted(str(path) for name in ("tests.py", "test.py") for path in copy.rglob(name) if path.is_file())


def _environment(python: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key in ENVIRONMENT or key.startswith("LC_")}
    folder = os.path.dirname(python)
    path = os.pathsep.join([folder, kept["PATH"]]) if folder and kept.get("PATH") else kept.get("PATH", folder)
    return kept | {"PATH": path, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


def lines(calls: Calls, most: int = 30) -> Iterator[str]:
    """What a person should know of how the tests ended, a line each; of tests that did not pass at most `most`."""
    yield from calls.trouble
    if calls.layers and not {"landlock", "seccomp"} <= set(calls.layers):
        yield f"this machine does not confine tests fully: only {', '.join(calls.layers)}"
    left_out = [name for name, outcome in calls.tests.items() if outcome == "left out"]
    for name in left_out:
        yield f"left out: {name}: {calls.reasons.get(name, '')}"
    failed = [name for name in calls.failed if name not in left_out]
    if failed:
        yield f"{len(failed)} tests or files did not pass, and their calls do not count:"
    for name in failed[:most]:
        yield f"  {name}: {calls.reasons.get(name, '')}"
    if len(failed) > most:
        yield f"  and {len(failed) - most} more"
