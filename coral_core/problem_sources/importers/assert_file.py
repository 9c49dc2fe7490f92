"""A Python file with functions and assert-style tests: asserts at its top, test functions, test classes.

Each function that its tests call becomes one row. Tests that fail, are marked, or need fixtures are left out. Arguments
after a call are compared, as in the source `package`: this is code of your own.
"""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from coral_core.bounded_read import MEBIBYTE, read_file
from coral_core.errors import ConfigError, ProblemError
from coral_core.problem_sources.importers.material import (
    Material,
    RefusedRowError,
    Unit,
    needed,
    readable,
    text_of,
    tree_of,
    without_foreign_imports,
)

LARGEST = MEBIBYTE


def materials(path: Path) -> Iterator[tuple[str, Material | RefusedRowError]]:
    """A row for each function of a file that its tests call, by name.

    Raises:
        ConfigError: the file cannot be read.
        ProblemError: it is no Python.
    """
    try:
        code = readable(read_file(path, LARGEST).decode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", remedy="Give a file of Python code.") from None
    except ValueError:
        raise ProblemError(f"{path}: not UTF-8", remedy="Save it as UTF-8.") from None
    try:
        tree = tree_of(code, "the file")
    except RefusedRowError as error:
        raise ProblemError(f"{path}: {error}", remedy="Give a file of Python 3 code.") from None
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not is_test(node)]
    tests = [node for node in tree.body if is_test(node)]
    for name in dict.fromkeys(node.name for node in functions):
        calling = [node for node in tests if calls(node, name)]
        if not calling:
            yield name, RefusedRowError("no test calls it", name)
            continue
        function = [node for node in functions if node.name == name][-1]
        around = needed(tree, [function])
        yield (
            name,
            Material(
                name=f"{path.stem}/{name}",
                entry_point=name,
                program=text_of(code, [*around, function]),
                units=units_of(code, tree, calling, name, [*around, function]),
                all_must_pass=False,
                arguments_after=True,
            ),
        )


def units_of(
    code: str, tree: ast.Module, tests: Sequence[ast.stmt], entry_point: str, program: Sequence[ast.stmt]
) -> tuple[Unit, ...]:
    """The units of some tests of a module: what they need of it, then each test.

    Args:
        code: Text of the module.
        tree: Its tree.
        tests: Statements of it that are tests.
        entry_point: The function that is recorded; imports of it are left out.
        program: Statements that have been executed already.
    """
    own = [node for node in tests if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    named = [node for node in tests if node not in own]
    around = [node for node in needed(tree, tests) if node not in program and node not in named]
    before = text_of(code, without_foreign_imports([*around, *named], entry_point))
    units: list[Unit] = [("code", "what the tests need", before)] if before else []
    for node in sorted(tests, key=lambda node: node.lineno):
        if isinstance(node, ast.ClassDef):
            methods = [
                part.name for part in node.body if isinstance(part, ast.FunctionDef) and part.name.startswith("test")
            ]
            units += [("call", f"{node.name}.{method}", "") for method in methods]
        elif isinstance(node, ast.FunctionDef):
            units.append(("call", node.name, ""))
        else:
            units.append(("code", f"line {node.lineno}", text_of(code, [node])))
    return tuple(units)


def is_test(node: ast.stmt) -> bool:
    """True for a test function, a class with test methods, and a statement at the top with an assert in it."""
    if isinstance(node, ast.FunctionDef):
        return node.name.startswith("test")
    if isinstance(node, ast.ClassDef):
        return any(isinstance(part, ast.FunctionDef) and part.name.startswith("test") for part in node.body)
    if isinstance(node, (ast.Assert, ast.For, ast.With, ast.Try, ast.If, ast.While)):
        return any(isinstance(part, ast.Assert) for part in ast.walk(node)) and not _is_script(node)
    return False


def _is_script(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test)
    )


def calls(node: ast.AST, name: str) -> bool:
    """Does `node` call the function `name`?"""
    return any(
        isinstance(part, ast.Call)
        and (
            (isinstance(part.func, ast.Name) and part.func.id == name)
            or (isinstance(part.func, ast.Attribute) and part.func.attr == name)
        )
        for part in ast.walk(node)
    )
