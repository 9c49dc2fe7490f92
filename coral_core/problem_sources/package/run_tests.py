"""Runs a project's own tests and reports the calls that they make. Run as a script, by `recording`.

    python run_tests.py REQUEST EVENTS

Standard library only, and the project's own pytest: it runs in the project's interpreter, with its configuration and
plugins. REQUEST is a JSON file, EVENTS the descriptor of a pipe that takes one JSON object a line: the test or file that
begins and ends, the calls of tests that passed, the end. A test that ends or hangs this process is named by the last event.
Not covered: calls in other processes.
"""

import doctest
import importlib
import io
import json
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

LONGEST = 300


class Reporter:
    """Writes events to the pipe.

    Args:
        descriptor: The pipe.
        files: Files of the project, which a test must leave where they are.
    """

    def __init__(self, descriptor: int, files: list[str]) -> None:
        self.descriptor = descriptor
        self.files = files
        self.process = os.getpid()

    def say(self, **event: Any) -> None:
        """Write one event."""
        data = json.dumps(event).encode() + b"\n"
        while data:
            data = data[os.write(self.descriptor, data) :]

    def after_test(self, name: str) -> None:
        """End a copy of this process that a test made and did not end, and a run whose files a test removed."""
        if os.getpid() != self.process:
            self.say(forked=name)
            os._exit(0)
        try:
            os.getcwd()
            gone = not all(map(os.path.exists, self.files))
        except OSError:
            gone = True
        if gone:
            self.say(removed=name)
            os._exit(0)


class Tests:
    """A pytest plugin that reports how each test ends, and observes calls while it runs.

    Args:
        reporter: Takes the events.
        observer: The calls' observer; None: calls are not observed.
        request: ``without``: names of tests that are left out; ``without_files``: files that are not collected.
    """

    def __init__(self, reporter: Reporter, observer: Any, request: dict[str, Any]) -> None:
        self.reporter = reporter
        self.observer = observer
        self.without = set(request["without"])
        self.files = {os.path.realpath(path) for path in request["without_files"]}
        self.outcome = ""
        self.why = ""

    def pytest_load_initial_conftests(self, early_config: Any, args: list[str]) -> None:
        """Run in this process, where calls can be observed, and to the end; without measuring coverage."""
        plugins = early_config.pluginmanager
        args += ["--maxfail=0", "--continue-on-collection-errors"]
        args += ["-n0"] if plugins.has_plugin("xdist") else []
        args += ["--no-cov"] if plugins.has_plugin("pytest_cov") or plugins.has_plugin("_cov") else []

    def pytest_ignore_collect(self, path: Any = None, collection_path: Any = None) -> Any:
        return True if os.path.realpath(str(collection_path or path)) in self.files else None

    def pytest_collectstart(self, collector: Any) -> None:
        path = str(getattr(collector, "path", None) or getattr(collector, "fspath", ""))
        if os.path.isfile(path):
            self.reporter.say(collecting=collector.nodeid, file=path)

    def pytest_collectreport(self, report: Any) -> None:
        self.reporter.say(collected=report.nodeid, failed=_last(report.longreprtext) if report.failed else "")

    def pytest_collection_modifyitems(self, items: list[Any], config: Any) -> None:
        items[:] = [item for item in items if item.nodeid not in self.without]

    def pytest_collection_finish(self, session: Any) -> None:
        self.reporter.say(tests=len(session.items))

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.outcome = self.why = ""
        self.reporter.say(start=nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.outcome, self.why = "failed", _last(report.longreprtext)
        elif hasattr(report, "wasxfail"):
            self.outcome = self.outcome or "xfail"
        elif report.skipped:
            self.outcome = self.outcome or "skipped"
        elif report.when == "call":
            self.outcome = self.outcome or "passed"

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        for event in self.observer.finish_test(self.outcome == "passed") if self.observer else ():
            self.reporter.say(**event)
        self.reporter.say(end=nodeid, outcome=self.outcome or "failed", why=self.why)


def hooks(tests: Tests, pytest: Any) -> Any:
    """`tests` with those of its hooks that need pytest's own decorators."""

    class Plugin(Tests):
        @pytest.hookimpl(tryfirst=True)  # type: ignore[untyped-decorator]
        def pytest_load_initial_conftests(self, early_config: Any, args: list[str]) -> None:
            super().pytest_load_initial_conftests(early_config, args)

        @pytest.hookimpl(trylast=True)  # type: ignore[untyped-decorator]
        def pytest_collection_modifyitems(self, items: list[Any], config: Any) -> None:
            super().pytest_collection_modifyitems(items, config)

        @pytest.hookimpl(hookwrapper=True, trylast=True)  # type: ignore[untyped-decorator]
        def pytest_runtest_call(self, item: Any) -> Iterator[None]:
            if self.observer:
                self.observer.start()
            yield
            if self.observer:
                self.observer.stop()
            self.reporter.after_test(item.nodeid)

        if int(pytest.__version__.split(".")[0]) >= 7:

            def pytest_ignore_collect(self, collection_path: Any) -> Any:  # type: ignore[override]
                return Tests.pytest_ignore_collect(self, None, collection_path)

        else:

            def pytest_ignore_collect(self, path: Any) -> Any:  # type: ignore[override,misc]
                return Tests.pytest_ignore_collect(self, path)

    tests.__class__ = Plugin
    return tests


def run_pytest(request: dict[str, Any], reporter: Reporter, observer: Any) -> None:
    """Run the project's tests as ``python -m pytest`` does in its directory."""
    import pytest

    plugin = hooks(Tests(reporter, observer, request), pytest)
    reporter.say(pytest=pytest.__version__)
    try:
        code: Any = int(pytest.main(request["arguments"], plugins=[plugin]))
    except BaseException as error:  # SystemExit of a conftest.py, for instance
        reporter.say(finished=None, why=f"{type(error).__name__}: {_last(str(error))}")
    else:
        reporter.say(finished=code, why="")


def run_doctests(request: dict[str, Any], reporter: Reporter, observer: Any) -> None:
    """Run the examples in the docstrings of modules, those without examples left out."""
    sys.path += request["doctest_paths"]
    for name, file, label in request["doctests"]:
        if os.path.realpath(file) in map(os.path.realpath, request["without_files"]):
            continue
        reporter.say(collecting=label, file=file)
        try:
            module = importlib.import_module(name)
            if os.path.realpath(getattr(module, "__file__", None) or "") != os.path.realpath(file):
                raise ImportError(f"another module is called {name} too")
            tests = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]
        except BaseException as error:  # pytest's own exceptions and SystemExit among them
            reporter.say(collected=label, failed=f"importing it raised {type(error).__name__}: {_last(str(error))}")
            continue
        reporter.say(collected=label, failed="")
        for test in tests:
            nodeid = f"{label}::{test.name}"
            if nodeid in request["without"]:
                continue
            reporter.say(start=nodeid)
            if observer:
                observer.start()
            runner = doctest.DocTestRunner(verbose=False)
            try:
                failed = runner.run(test, out=io.StringIO().write).failed
                why = f"{failed} of its examples failed" if failed else ""
            except Exception as error:
                why = f"{type(error).__name__}: {_last(str(error))}"
            finally:
                if observer:
                    observer.stop()
            reporter.after_test(nodeid)
            for event in observer.finish_test(not why) if observer else ():
                reporter.say(**event)
            reporter.say(end=nodeid, outcome="failed" if why else "passed", why=why)
    reporter.say(finished=0, why="")


def _last(text: str) -> str:
    """The line of a failure's text that says what went wrong."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    marked = [line[1:].strip() for line in lines if line.startswith("E ")]
    found = (marked or lines or [""])[0 if marked else -1]
    return found.encode("utf-8", "backslashreplace").decode()[:LONGEST]


def load(path: str) -> Any:
    """Execute the module in the file `path`, under a name that cannot be imported: the tests' own imports are not affected."""
    module = types.ModuleType(f"_coral_{os.path.basename(path)[:-3]}")
    with open(path, encoding="utf-8") as file:
        exec(compile(file.read(), path, "exec"), module.__dict__)
    return module


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != folder]
    layers = load(request["confinement"][0])
    confinement = load(os.path.join(folder, "confinement.py"))
    names = confinement.confine(request["writable"], layers)
    reporter = Reporter(int(sys.argv[2]), request["files"])
    reporter.say(layers=names)
    observer = None
    if request["targets"]:
        module = load(os.path.join(folder, "call_observer.py"))
        targets = [module.Target(*target) for target in request["targets"]]
        observer = module.Observer(targets, load(request["values"]), os.path.realpath(request["root"]))
        observer.install()
    sys.argv[1:] = []
    sys.path[:0] = [path for path in request["paths"] if path not in sys.path]
    (run_doctests if request["doctests"] else run_pytest)(request, reporter, observer)
    sys.stdout.flush()
    os._exit(0)  # do not wait for threads that a test left running


if __name__ == "__main__":
    main()
