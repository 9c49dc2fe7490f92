"""Tests of a project run as the project runs them, confined; what they do to the run is theirs alone."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from coral_core.errors import ConfigError
from coral_core.problem_sources.package import call_observer, recording
from coral_core.problem_sources.package.discovery import discover
from coral_core.problem_sources.package.recording import Calls, Interpreter, _Session, interpreter, lines, record
from coral_core.problems import values
from tests.waiting import until

CODE = """
class Box:
    def __init__(self, n):
        self.n = n

    def more(self, by=1, *, twice=False):
        self.n += by * (2 if twice else 1)
        return self.n

    @property
    def half(self):
        return self.n / 2

    @classmethod
    def of(cls, n):
        return cls(n)

    @staticmethod
    def double(n):
        return 2 * n


class Remember:
    def __init__(self, function):
        self.function = function

    def __call__(self, *given):
        return self.function(*given)


def add(a, b=2, *more, sign=1):
    return sign * (a + b + sum(more))


@Remember
def remembered(n):
    return n + 1


def fill(xs):
    xs.append(len(xs))


def fail(n):
    raise ValueError(n)


def count(n):
    yield from range(n)


OPS = {"+": add}
"""


def project(folder: Path, tests: str, code: str = CODE, **files: str) -> Path:
    (folder / "own.py").write_text(code)
    (folder / "test_own.py").write_text("import os, sys, pytest\nimport own\n\n\n" + textwrap.dedent(tests))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(textwrap.dedent(text))
    return folder


def recorded(folder: Path, seconds: float = 60.0) -> Calls:
    return record(folder, discover(folder), test_seconds=seconds)


def arguments(calls: Calls, name: str) -> list[object]:
    return [(list(call.arguments), call.keywords) for call in calls.calls.get(f"own.py:{name}", ())]


def test_calls_are_seen_without_a_wrapper(tmp_path: Path) -> None:
    calls = recorded(
        project(
            tmp_path,
            """
            def test_identity():
                assert own.OPS["+"] is own.add and type(own.add).__name__ == "function"
                assert own.add(1) == 3 and own.add(a=1, b=5) == 6
                assert own.OPS["+"](1, 2, 3, sign=-1) == -6
                assert own.remembered(4) == 5

            def test_methods():
                box = own.Box.of(4)
                assert box.more() == 5 and box.more(2, twice=True) == 9
                assert box.half == 4.5 and own.Box.double(3) == 6

            def test_before_and_after():
                xs = [5]
                own.fill(xs)
                with pytest.raises(ValueError):
                    own.fail(7)
                assert list(own.count(3)) == [0, 1, 2]

            @pytest.mark.xfail
            def test_wrong():
                assert own.add(100) == 0

            @pytest.mark.xfail
            def test_luck():
                assert own.add(101)

            def test_failing():
                assert own.add(102) == 0
            """,
        )
    )
    assert arguments(calls, "add") == [([1], {}), ([1, 5], {}), ([1, 2, 3], {"sign": -1})]
    assert arguments(calls, "remembered") == [([4], {})]
    box = ["o", ["Box", [["n", 4]]]]
    assert arguments(calls, "Box.more") == [
        ([box], {}),
        ([["o", ["Box", [["n", 5]]]], 2], {"twice": True}),
    ]
    assert arguments(calls, "Box.of") == [([["c", "Box"], 4], {})]
    assert arguments(calls, "Box.double") == [([3], {})]
    (fill,) = calls.calls["own.py:fill"]
    assert (fill.arguments[0], fill.outcome) == (["l", [5]], {"value": None, "mutated": [["l", [5, 1]]]})
    (fail,) = calls.calls["own.py:fail"]
    assert (fail.outcome or {}).get("exception") in ("", "ValueError")
    assert calls.calls["own.py:count"][0].outcome == {"items": [0, 1, 2], "ended": "return"}
    assert fill.classes == {} and calls.calls["own.py:Box.half"][0].classes == {"Box": "own.py"}
    assert (calls.passed, calls.failed) == (3, ("test_own.py::test_failing",))
    assert calls.tests["test_own.py::test_luck"] == calls.tests["test_own.py::test_wrong"] == "xfail"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ('addopts = "--no-such-option"', "unrecognized arguments: --no-such-option"),
        ('required_plugins = "pytest-not-there"', "Missing required plugins: pytest-not-there"),
    ],
)
def test_pytest_s_own_refusal_is_told_as_such(tmp_path: Path, options: str, said: str) -> None:
    made = project(
        tmp_path, "def test(): assert own.add(1) == 3", pyproject__toml=f"[tool.pytest.ini_options]\n{options}\n"
    )
    calls = recorded(made)
    assert calls.passed == 0 and not calls.failed
    (line,) = lines(calls)
    assert line.startswith("pytest could not run the tests: ") and said in line


def test_the_project_s_configuration_holds(tmp_path: Path) -> None:
    folder = project(
        tmp_path,
        """
        def test_here(): assert own.add(1) == 3

        @pytest.mark.integration
        def test_deselected(): own.add(50)
        """,
        pyproject__toml="""
            [tool.pytest.ini_options]
            addopts = "-x -m 'not integration' --import-mode=importlib"
            markers = ["integration"]
            testpaths = ["test_own.py"]
        """,
    )
    (folder / "test_elsewhere.py").write_text("def test(): open('written', 'w')\n")
    calls = recorded(folder)
    assert list(calls.tests) == ["test_own.py::test_here"]
    assert not (folder / "written").exists() and not (folder / ".pytest_cache").exists()


@pytest.mark.slow(reason="a process per test that ends one")
def test_what_leaves_the_run_is_named_and_left_out(tmp_path: Path) -> None:
    calls = recorded(
        project(
            tmp_path,
            """
            def test_exits(): os._exit(3)
            def test_fork():
                os.fork()
            def test_outside(): open("/var/tmp/coral-was-here", "w")
            def test_inside(): open("here.json", "w").write("x")
            def test_network():
                import socket
                socket.create_connection(("192.0.2.1", 80), 5)
            def test_last(): assert own.add(9) == 11
            """,
            test_stops__py="import sys\nsys.exit(2)\n",
        )
    )
    assert calls.reasons["test_own.py::test_exits"] == "ends its process (exit code 3)"
    assert calls.reasons["test_stops.py"] == "ends the whole test run (INTERNALERROR: SystemExit: 2)"
    assert "splits its process" in calls.reasons["test_own.py::test_fork"]
    assert {name.partition("::")[2]: outcome for name, outcome in calls.tests.items()} == {
        "": "left out",
        "test_exits": "left out",
        "test_fork": "left out",
        "test_outside": "failed" if "landlock" in calls.layers else "passed",
        "test_inside": "passed",
        "test_network": "failed",
        "test_last": "passed",
    }
    assert arguments(calls, "add") == [([9], {})]
    if "net" in calls.layers:
        assert calls.reasons["test_own.py::test_network"].startswith("needs the network")
    assert any(line.startswith("left out: test_own.py::test_exits") for line in lines(calls))


@pytest.mark.slow(reason="a process per test that ends one")
def test_what_hangs_floods_or_destroys_is_named_and_left_out(tmp_path: Path) -> None:
    calls = recorded(
        project(
            tmp_path,
            """
            import shutil, threading

            def test_hangs(): threading.Event().wait()
            def test_floods():
                while True:
                    sys.stdout.write("x" * (1 << 20))
            def test_destroys(): shutil.rmtree(os.getcwd())
            def test_crashes():
                import ctypes
                ctypes.string_at(0)
            def test_interrupts(): raise KeyboardInterrupt
            def test_leaves(): pytest.exit("enough")
            def test_last(): assert own.add(9) == 11
            """,
            test_dies__py="import os\nos._exit(4)\n",
            test_waits__py="while True:\n    pass\n",
        ),
        seconds=5.0,
    )
    reasons = {name.partition("::")[2] or name: reason for name, reason in calls.reasons.items()}
    assert reasons["test_hangs"] == reasons["test_waits.py"] == "did not end within 5 s"
    assert "File too large" in reasons["test_floods"]
    assert reasons["test_destroys"] == "removes the project's own files"
    assert reasons["test_crashes"].startswith("ends its process (exit code 139")
    assert reasons["test_interrupts"] == reasons["test_leaves"] == "ends the whole test run"
    assert reasons["test_dies.py"] == "ends its process (exit code 4)"
    assert [name for name, outcome in calls.tests.items() if outcome == "passed"] == ["test_own.py::test_last"]
    assert (tmp_path / "own.py").exists()


def test_a_long_test_goes_on_unobserved(tmp_path: Path) -> None:
    """more-itertools: a test of 15 seconds took more than a minute under a profile function, and was left out."""
    folder = project(tmp_path, "")
    code = f"""
import importlib.util, json, sys, time
from pathlib import Path
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
values, observed = load("values", {values.__file__!r}), load("observed", {call_observer.__file__!r})
own = load("own", {str(folder / "own.py")!r})
place = own.add.__code__
target = observed.Target("own.py:add", {str(folder / "own.py")!r}, place.co_firstlineno, "add", "")
observer = observed.Observer([target], values, {str(folder)!r}, 0.5)
observer.install()
observer.start()
own.add(1)
kept = len(observer.pending)
until = time.perf_counter() + 1
while time.perf_counter() < until:
    own.add(1)
    time.sleep(0.002)
own.add(2)
observer.stop()
print(kept, observer.active, sys.getprofile(), any(2 in record["arguments"] for _, _, record in observer.pending))
observer.start()
own.add(3)
print(any(3 in record["arguments"] for _, _, record in observer.pending))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n") == ["1 False None False", "True", ""], done.stderr


@pytest.mark.parametrize(("share", "outcome"), [(0.9, "passed"), (0.0, "left out")])
def test_time_without_a_core_does_not_count(
    share: float, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cachetools, beside two trainings: a test of seconds was left out as one that hangs."""
    monkeypatch.setattr(recording, "time_without_core", lambda pid: share * time.monotonic())
    slow = "import time\n\ndef test_slow():\n    time.sleep(4)\n    assert own.add(9) == 11\n"
    calls = recorded(project(tmp_path, slow), seconds=1.5)
    assert calls.tests["test_own.py::test_slow"] == outcome


def test_a_process_that_shares_its_core_has_waited_for_it() -> None:
    core = min(os.sched_getaffinity(0))
    spin = [
        sys.executable,
        "-c",
        f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint(flush=True)\nwhile True: pass",
    ]
    deeper = [sys.executable, "-c", f"import subprocess\nsubprocess.run({spin!r})"]
    started = [subprocess.Popen(each, stdout=subprocess.PIPE, start_new_session=True) for each in (spin, deeper)]
    try:
        for process in started:
            assert process.stdout is not None and process.stdout.readline()
            until(lambda process=process: recording.time_without_core(process.pid) > 0.5, 10)
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert recording.time_without_core(started[0].pid) == 0.0


@pytest.mark.parametrize(
    ("path", "said"), [("/bin/true", "does not run as a Python"), ("/no/such/python", "No such file or directory")]
)
def test_an_interpreter_that_is_none_is_refused(path: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        interpreter(path)


def test_the_named_interpreter_runs_the_tests(tmp_path: Path) -> None:
    found = interpreter(sys.executable)
    assert found.version == sys.version.split()[0] and found.pytest == pytest.__version__


def test_files_are_copied_without_following_links_or_pipes(tmp_path: Path) -> None:
    import os

    folder = project(tmp_path, "def test(): assert own.add(1) == 3")
    os.mkfifo(folder / "pipe")
    (folder / "nowhere").symlink_to("/no/such/file")
    assert recorded(folder).passed == 1


def test_a_call_that_cannot_be_read_is_counted_and_the_others_are_kept(tmp_path: Path) -> None:
    """intervaltree: sets of intervals, some of which hold a dict."""
    session = _Session(tmp_path, tmp_path, Interpreter("python", "3.12", "8"), 1.0, None)
    session.keys = {"a.py:f"}
    held = ["s", [["t", [["d", []]]]]]
    for arguments, outcome in (
        ([1], {"value": 1}),
        ([held], {"value": 1}),
        ([2], {"value": held}),
        ([3], {"mutated": 5}),
    ):
        session.take({"call": "a.py:f", "arguments": arguments, "outcome": outcome})
    calls = session.calls()
    assert [call.arguments for call in calls.calls["a.py:f"]] == [(1,)]
    assert calls.refused["a.py:f"]["outside the value language: a dict as a key or as a member of a set"] == 2
