"""Records what a reference does under its own tests; runs as a process of its own.

Run as ``python -s -S -P quixbugs_recorder.py VALUES``; one JSON request on stdin, one JSON line per program on stdout.
Standard library only. Test files of graph programs build their inputs in code and assert in the same process, so they are
never run against a patch. Here the reference runs under them once, and every call from a test is recorded as arguments,
value (or exception) and, where the reference changes them, the arguments after the call.

The test files import stand-ins for `node`, for the packages of programs and for the two settings of `pytest` that they
use; their output is discarded. Not a sandbox: references and tests are trusted like the rest of the clone.
"""

import json
import os
import sys
import types
from collections.abc import Callable
from typing import Any

PACKAGES = ("correct_python_programs", "python_programs")


class Recorder:
    """Wraps a reference and records the calls of its tests in `calls`, as fields of a `Case`.

    Args:
        function: The reference.
        values: The module `problems.values`, loaded from its file.
    """

    def __init__(self, function: Callable[..., Any], values: Any) -> None:
        self.function = function
        self.values = values
        self.calls: list[dict[str, Any]] = []

    def __call__(self, *arguments: Any) -> Any:
        encoded, table, nodes = self.values.encode_arguments(arguments)
        call: dict[str, Any] = {"arguments": encoded, "nodes": table}
        results: list[Any] = []
        try:
            results.append(self.function(*arguments))
            return results[0]
        except Exception as error:
            call["exception"] = type(error).__name__
            raise
        finally:
            call |= self._after(results, arguments, nodes, encoded, table)
            if json.dumps(call) not in map(json.dumps, self.calls):  # in Python's equality, 1 and True are one
                self.calls.append(call)

    def _after(
        self, results: list[Any], arguments: tuple[Any, ...], nodes: Any, encoded: list[Any], table: list[Any]
    ) -> dict[str, Any]:
        """The fields of the case that describe the outcome; arguments that the call did not change are not compared."""
        after, rows = self.values.encode_result([*results, *arguments], nodes, True)
        changed = json.dumps([after[len(results) :], rows[: len(table)]]) != json.dumps([encoded, table])
        fields: dict[str, Any] = {"mutated": after[len(results) :]} if changed else {}
        if not changed:
            after, rows = self.values.encode_result(results, nodes, False)
        if results:
            fields["value"] = after[0]
        if results or changed:
            fields["nodes_after"] = rows
        return fields


def record(name: str, reference: str, tests: str, values: Any) -> dict[str, Any]:
    """Run the tests of one program on its reference.

    Args:
        name: Name of the program and of its function.
        reference: Source text of the right version.
        tests: Source text of its test file.
        values: The module `problems.values`, loaded from its file.

    Returns:
        ``name``, and ``calls`` or ``error``, which says where the tests stopped.
    """
    where = f"{PACKAGES[0]}/{name}.py"
    try:
        space: dict[str, Any] = {"__name__": name}
        exec(compile(reference, where, "exec", dont_inherit=True), space)
        recorder = Recorder(space[name], values)
        for package in PACKAGES:
            module: Any = types.ModuleType(f"{package}.{name}")
            setattr(module, name, recorder)
            sys.modules[package] = types.ModuleType(package)
            sys.modules[module.__name__] = module
        where = f"python_testcases/test_{name}.py"
        file: dict[str, Any] = {"__name__": f"test_{name}", "__file__": where}
        exec(compile(tests, where, "exec", dont_inherit=True), file)
        for label, test in list(file.items()):
            if label.startswith("test") and isinstance(test, types.FunctionType):
                where = f"python_testcases/test_{name}.py::{label}"
                test()
    except Exception as error:
        return {"name": name, "error": f"{where}: {type(error).__name__}: {error}"[:300]}
    return {"name": name, "calls": recorder.calls}


def main() -> None:
    result = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    values: Any = types.ModuleType("values")
    with open(sys.argv[1], encoding="utf-8") as file:
        exec(compile(file.read(), sys.argv[1], "exec"), values.__dict__)
    for name, attributes in (("node", {"Node": values.Node}), ("pytest", {"use_correct": True, "run_slow": False})):
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(attributes)
    for name, reference, tests in json.load(sys.stdin):
        print(json.dumps(record(name, reference, tests, values)), file=result, flush=True)


if __name__ == "__main__":
    main()
