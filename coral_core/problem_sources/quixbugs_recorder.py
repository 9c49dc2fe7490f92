"""Records what a reference does under its own tests; runs as a process of its own.

Run as ``python -s -S -P recorder.py VALUES_FILE``; one JSON request on stdin, one JSON line
per program on stdout. Standard library only. Test files of graph programs build their
inputs in code and assert in the same process, so they are never run against a patch:
here the reference runs under them once, and every call from outside is written down as
arguments, value (or exception) and, where the reference changes them, the arguments
after the call. The test files see stand-ins for `pytest`, `node` and the packages of
programs; whatever they print goes nowhere. Not a sandbox: references and tests are
trusted as the rest of the clone is.
"""

import builtins
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

PACKAGES = ("correct_python_programs", "python_programs")


class Recorder:
    """Wraps a reference; `calls` are what its tests asked of it, as fields of a `Case`."""

    def __init__(self, function: Callable[..., Any], values: Any) -> None:
        self.function = function
        self.values = values
        self.calls: list[dict[str, Any]] = []
        self.seen: set[str] = set()

    def __call__(self, *arguments: Any) -> Any:
        encoded, table, nodes = self.values.encode_arguments(arguments)
        call: dict[str, Any] = {"arguments": encoded, "nodes": table}
        given = [*arguments]
        results: list[Any] = []
        answer: Any = None
        try:
            answer = self.function(*given)
            if hasattr(type(answer), "__next__"):
                results.append(list(answer))
                answer = iter(results[0])
            else:
                results.append(answer)
        except Exception as error:
            self._keep(call | {"exception": type(error).__name__} | self._after([], given, nodes, encoded, table))
            raise
        self._keep(call | self._after(results, given, nodes, encoded, table))
        return answer

    def _after(
        self, results: list[Any], given: list[Any], nodes: Any, encoded: list[Any], table: list[Any]
    ) -> dict[str, Any]:
        """The fields of the case that say what came of the call; arguments that it left untouched are not compared."""
        after, rows = self.values.encode_result([*results, *given], nodes, True)
        changed = json.dumps([after[len(results) :], rows[: len(table)]]) != json.dumps([encoded, table])
        fields: dict[str, Any] = {"mutated": after[len(results) :]} if changed else {}
        if not changed:
            after, rows = self.values.encode_result(results, nodes, False)
        if results:
            fields["value"] = after[0]
        if results or changed:
            fields["nodes_after"] = rows
        return fields

    def _keep(self, call: dict[str, Any]) -> None:
        text = json.dumps(call, sort_keys=True)  # in Python's equality, 1 and True are one
        if text not in self.seen:
            self.seen.add(text)
            self.calls.append(call)


class _Approx:
    def __init__(self, value: Any, rel: float | None = None, abs: float | None = None) -> None:
        self.value = value
        self.margin = abs if abs is not None else (rel or 1e-6) * max(1e-6, builtins.abs(value))

    def __eq__(self, other: object) -> bool:
        return bool(abs(other - self.value) <= self.margin)


class _Raises:
    """``with pytest.raises(Error):``"""

    def __init__(self, kind: Any, **_: Any) -> None:
        self.kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if kind is None:
            raise AssertionError(f"{self.kind} was not raised")
        return issubclass(kind, self.kind)


class _Skip(Exception):  # noqa: N818 (a signal, like StopIteration)
    pass


def stand_in() -> types.ModuleType:
    """As much of pytest as test files of this layout use."""
    module = types.ModuleType("pytest")
    made: Any = module

    def skip(reason: str = "", **_: Any) -> None:
        raise _Skip(reason)

    def parametrize(names: Any, rows: Any, **_: Any) -> Callable[[Any], Any]:
        single = len(names.split(",") if isinstance(names, str) else names) == 1

        def mark(function: Any) -> Any:
            function.rows = [(row,) if single else tuple(row) for row in rows]
            return function

        return mark

    made.use_correct, made.run_slow = True, False
    made.approx, made.raises, made.skip = _Approx, _Raises, skip
    made.mark = types.SimpleNamespace(parametrize=parametrize)
    return module


def record(program: dict[str, str], values: Any) -> dict[str, Any]:
    """Calls of one program's tests, or the error that stopped them."""
    name = program["name"]
    where = program["reference_file"]
    try:
        space: dict[str, Any] = {"__name__": name}
        exec(compile(program["reference"], where, "exec", dont_inherit=True), space)
        recorder = Recorder(space[name], values)
        for package in PACKAGES:
            module: Any = types.ModuleType(f"{package}.{name}")
            setattr(module, name, recorder)
            sys.modules[package] = types.ModuleType(package)
            sys.modules[module.__name__] = module
        where = program["test_file"]
        tests: dict[str, Any] = {"__name__": f"test_{name}", "__file__": where}
        exec(compile(program["tests"], where, "exec", dont_inherit=True), tests)
        for label, test, row in _each(tests):
            where = f"{program['test_file']}::{label}"
            try:
                test(*row)
            except _Skip:
                continue
    except Exception as error:
        return {"name": name, "error": f"{where}: {type(error).__name__}: {error}"[:300]}
    return {"name": name, "calls": recorder.calls}


def _each(tests: dict[str, Any]) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Test functions in file order, once per row of parameters."""
    for label, test in list(tests.items()):
        if label.startswith("test") and isinstance(test, types.FunctionType):
            for row in getattr(test, "rows", [()]):
                yield label, test, row


def main() -> None:
    result = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    values: Any = types.ModuleType("values")
    with open(sys.argv[1], encoding="utf-8") as file:
        exec(compile(file.read(), sys.argv[1], "exec"), values.__dict__)
    node: Any = types.ModuleType("node")
    node.Node = values.Node
    sys.modules["node"] = node
    sys.modules["pytest"] = stand_in()
    for program in json.load(sys.stdin):
        print(json.dumps(record(program, values)), file=result, flush=True)


if __name__ == "__main__":
    main()
