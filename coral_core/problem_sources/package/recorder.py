"""Runs a directory's own tests and records the calls that they make. Run as a script, by `recording`.

    python -P recorder.py REQUEST RESULT

Standard library only, and pytest where it is installed. Both files are JSON; output of the tests is ignored. When a module
is imported, each of its functions that are to be recorded is replaced by a wrapper, which records arguments and outcome
in the closed value language. Calls of failing tests do not count. Not covered: calls in other processes.
"""

import doctest
import functools
import importlib
import importlib.abc
import importlib.machinery
import inspect
import io
import json
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

OUTSIDE = "outside the value language"
class_name = type.__dict__["__name__"].__get__
"""Name of a class as the interpreter holds it, whatever its metaclass says."""
ITEMS = 4_000
"""Largest argument list or value, in items and characters: a case has to fit into a verdict."""


class Calls:
    """Recorded calls, by file and function.

    Args:
        values: The module `problems.values`, loaded from its file.
        most: Distinct calls that are kept per function.
    """

    def __init__(self, values: Any, most: int) -> None:
        self.kept: dict[str, dict[str, dict[str, Any]]] = {}
        self.refused: dict[str, dict[str, int]] = {}
        self.pending: list[tuple[str, str, dict[str, Any]]] = []
        self.values = values
        self.most = most
        self._inside = threading.local()

    def finish_test(self, passed: bool) -> None:
        """Keep the calls since the last test when it passed; equal arguments are one call."""
        for key, arguments, call in self.pending if passed else ():
            known = self.kept.setdefault(key, {})
            if arguments in known or len(known) < self.most:
                known.setdefault(arguments, call)
        self.pending.clear()

    def refuse(self, key: str, reason: str) -> None:
        """Count a call that could not be recorded.

        Args:
            key: The function, as ``file:name``.
            reason: Why; cut to 300 characters.
        """
        reasons = self.refused.setdefault(key, {})
        text = clean(reason)[:300]
        reasons[text] = reasons.get(text, 0) + 1

    def call(self, key: str, function: Callable[..., Any], signature: inspect.Signature, given: Any, named: Any) -> Any:
        """Call a function and record the call, unless it is recursive.

        Raises only what the function raises.

        Args:
            key: The function, as ``file:name``.
            function: The original function.
            signature: Signature of `function`.
            given: Positional arguments.
            named: Keyword arguments.

        Returns:
            What the function returns.
        """
        inside = self._inside.__dict__.setdefault("keys", set())
        if key in inside or len(self.pending) > 50_000:
            return function(*given, **named)
        try:
            by_position = positional(signature, given, named)
        except Exception as error:
            self.refuse(key, f"{OUTSIDE}: arguments: {error}")
            return function(*given, **named)
        arguments = self._encoded(key, "arguments", by_position)
        if arguments is None:
            return function(*given, **named)
        inside.add(key)
        try:
            value = function(*given, **named)
        except (Exception, SystemExit) as error:
            self._keep(key, arguments, by_position, {"exception": class_name(type(error))})
            raise
        finally:
            inside.discard(key)
        if is_iterator(value):  # its items are read later, when `cases` calls the function alone
            self.pending.append((key, json.dumps(arguments), {"arguments": arguments}))
            return value
        encoded = self._encoded(key, "result", [value])
        if encoded is not None:
            self._keep(key, arguments, by_position, {"value": encoded[0]})
        return value

    def _keep(self, key: str, arguments: list[Any], after: list[Any], outcome: dict[str, Any]) -> None:
        mutated = self._encoded(key, "arguments after the call", after)
        if mutated is not None:
            call = {"arguments": arguments, "outcome": {"mutated": mutated, **outcome}}
            self.pending.append((key, json.dumps(arguments), call))

    def _encoded(self, key: str, which: str, items: list[Any]) -> list[Any] | None:
        """`items` in the value language; None (and noted as refused) when they are not in it, whatever the reason."""
        try:
            encoded: list[Any] = self.values.encode(items, ITEMS)[1]
        except self.values.ValueOutside as error:
            self.refuse(key, f"{OUTSIDE}: {which}: {error}")
        except Exception as error:  # stack or memory is exhausted, or a class misreports itself
            self.refuse(key, f"{OUTSIDE}: {which}: {class_name(type(error))} while it was recorded")
        else:
            return encoded
        return None


def is_iterator(value: Any) -> bool:
    """True for a generator or another iterator; False also for a class that raises when it is inspected."""
    try:
        return hasattr(type(value), "__next__")
    except Exception:
        return False


def clean(text: str) -> str:
    """`text` as valid UTF-8; lone surrogates become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def positional(signature: inspect.Signature, given: Sequence[Any], named: dict[str, Any]) -> list[Any]:
    """The arguments of a call, by position only.

    Args:
        signature: Signature of the called function.
        given: Positional arguments.
        named: Keyword arguments.

    Returns:
        The arguments, with defaults filled in where a later one was given by keyword.

    Raises:
        TypeError: a keyword-only parameter was given, or the arguments do not fit the signature.

    Example:
        >>> positional(inspect.signature(lambda a, b=2, c=3: 0), [1], {"c": 5})
        [1, 2, 5]
    """
    if not named:
        return list(given)
    bound = signature.bind(*given, **named)
    last = len(given)
    names = list(signature.parameters)
    for name, parameter in signature.parameters.items():
        if name in bound.arguments:
            if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
                raise TypeError("given by keyword only, and the judge calls by position")
            last = max(last, names.index(name) + 1)
    bound.apply_defaults()
    return list(bound.args[: max(last, len(given))])


def recording(calls: Calls, key: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its calls are recorded.

    The wrapper has the globals of the original: doctest uses them to identify the functions of a module.

    Args:
        calls: Receives the calls.
        key: Name of the function there, as ``file:name``.
        original: The function.
    """
    signature = inspect.signature(original)

    def call(*given: Any, **named: Any) -> Any:
        return calls.call(key, original, signature, given, named)

    module = sys.modules.get(original.__module__)
    space = getattr(inspect.unwrap(original), "__globals__", module.__dict__ if module else {})
    wrapped = types.FunctionType(call.__code__, space, original.__name__, None, call.__closure__)
    functools.update_wrapper(wrapped, original)
    for name in dir(original):  # attributes such as cache_clear
        if not name.startswith("__") and not hasattr(wrapped, name):
            setattr(wrapped, name, getattr(original, name))
    return wrapped


class Loader(importlib.machinery.SourceFileLoader):
    """Imports a module and wraps those of its functions that are to be recorded."""

    names: Sequence[str] = ()
    label = ""
    calls: Calls

    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        for name in self.names:
            original = module.__dict__.get(name)
            key = f"{self.label}:{name}"
            try:
                if callable(original) and not isinstance(original, type):
                    module.__dict__[name] = recording(self.calls, key, original)
            except Exception as error:
                self.calls.refuse(key, f"cannot be put under record ({class_name(type(error))}: {error})")


class Finder(importlib.abc.MetaPathFinder):
    """Finds modules where Python would, and loads those with functions to record by `Loader`.

    Args:
        targets: Real path of a module's file -> its label, and the names of the functions to record.
        calls: Receives the calls.
    """

    def __init__(self, targets: dict[str, tuple[str, list[str]]], calls: Calls) -> None:
        self.targets = targets
        self.calls = calls

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        origin = os.path.realpath(spec.origin) if spec is not None and spec.origin else ""
        if spec is None or origin not in self.targets or type(spec.loader) is not importlib.machinery.SourceFileLoader:
            return None
        loader = Loader(spec.loader.name, spec.loader.path)
        loader.label, loader.names = self.targets[origin]
        loader.calls = self.calls
        spec.loader = loader
        return spec


class TestOutcomes:
    """A pytest plug-in that records how each test ended."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.failed: list[str] = []
        self.passed = 0
        self.broken = False

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.calls.finish_test(True)
        self.broken = False

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.broken = self.broken or report.failed
        self.passed += report.when == "call" and report.passed

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        if self.broken:
            self.failed.append(nodeid)
        self.calls.finish_test(not self.broken)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(f"{report.nodeid}: {_last(report.longreprtext)}")


def run_pytest(root: str, calls: Calls) -> tuple[int, list[str]]:
    """Run the tests below a directory with pytest.

    Args:
        root: The directory.
        calls: Receives the calls that the tests make.

    Returns:
        The number of tests that passed, and the names of the others.
    """
    import pytest

    outcomes = TestOutcomes(calls)
    code = pytest.main(
        ["-q", "--no-header", "-o", "addopts=", "-p", "no:cacheprovider", "--continue-on-collection-errors", root],
        plugins=[outcomes],
    )
    calls.finish_test(True)
    if int(code) in (3, 4):  # an error of pytest itself, or of its configuration
        outcomes.failed.append(f"pytest ended with exit code {int(code)}")
    return outcomes.passed, outcomes.failed


def run_doctests(modules: Sequence[Sequence[str]], calls: Calls) -> tuple[int, list[str]]:
    """Run the examples in the docstrings of modules.

    Args:
        modules: Name, real path of the file, and label of each module.
        calls: Receives the calls that the examples make.

    Returns:
        The number of docstrings whose examples passed, and the names of the others; also modules that cannot be imported.
    """
    passed, failed = 0, []
    for name, file, label in modules:
        try:
            module = importlib.import_module(name)
        except BaseException as error:  # pytest's own exceptions among them
            failed.append(f"{label}: importing it raised {type(error).__name__}: {_last(str(error))}")
            continue
        finally:
            calls.finish_test(True)
        if os.path.realpath(getattr(module, "__file__", None) or "") != file:
            failed.append(f"{label}: another module is called {name} too")
            continue
        for test in _examples(module, label, failed):
            outcome = doctest.DocTestRunner(verbose=False).run(test, out=io.StringIO().write)
            calls.finish_test(outcome.failed == 0)
            passed += outcome.failed == 0
            if outcome.failed:
                failed.append(f"{label}: the example of {test.name}")
    return passed, failed


def _examples(module: types.ModuleType, label: str, failed: list[str]) -> Iterator[doctest.DocTest]:
    try:
        yield from (test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples)
    except ValueError as error:
        failed.append(f"{label}: {_last(str(error))}")


def _last(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:200]


def load(path: str) -> Any:
    """Execute the module in the file `path`, under a name that cannot be imported: the tests' own imports are not affected."""
    module = types.ModuleType("_coral_values")
    with open(path, encoding="utf-8") as file:
        exec(compile(file.read(), path, "exec"), module.__dict__)
    return module


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    calls = Calls(load(request["values"]), request["most"])
    sys.path[:0] = request["paths"]
    targets = {path: (label, names) for path, label, names in request["targets"]}
    sys.meta_path.insert(0, Finder(targets, calls))
    tests: dict[str, Any] = {}
    if request["pytest"]:
        tests["pytest"] = run_pytest(request["root"], calls)
    tests["doctest"] = run_doctests(request["doctests"], calls)
    result = {
        "calls": {key: list(found.values()) for key, found in calls.kept.items()},
        "refused": calls.refused,
        "passed": sum(passed for passed, _ in tests.values()),
        "failed": [clean(name) for _, names in tests.values() for name in names],
    }
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        json.dump(result, file)
    os._exit(0)  # do not wait for threads that a test left running


if __name__ == "__main__":
    main()
