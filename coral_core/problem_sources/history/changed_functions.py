"""Finds the functions that a commit changes, by comparing syntax trees. Runs nothing.

A change of comments, layout, docstrings or annotations is none. A function that the commit adds, removes or renames has no
text before or no text after, so it cannot become a problem.
"""

import ast
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from coral_core.problem_sources.package.discovery import is_test
from coral_core.problems.normal_form import Undocumented
from coral_core.syntax import UNPARSABLE, parse

Definition = ast.FunctionDef | ast.AsyncFunctionDef


class FileVersions(NamedTuple):
    """One file before and after a commit."""

    before: str
    """Path before."""
    after: str
    """Path after; another one for a renamed file."""
    old: bytes
    new: bytes


@dataclass
class ChangedFunctions:
    """What a commit changes in code."""

    changed: dict[str, str] = field(default_factory=dict)
    """Function (file:name) after the commit -> the same one before, of another file where the file was renamed."""
    names: set[str] = field(default_factory=set)
    """Names by which a test may call a changed function: its own, its class's, and those of functions of its file that use it."""
    unparsable: list[str] = field(default_factory=list)
    """Files that do not parse, before or after, with the reason."""
    added: int = 0
    renamed: list[str] = field(default_factory=list)
    """Functions of another name with the same body, as old → new."""
    other: bool = False
    """Something else than a function's body changed in a file of code."""


def compare(files: list[FileVersions]) -> ChangedFunctions:
    r"""The functions whose code differs.

    Args:
        files: Python files of code (no tests) that exist before and after.

    Example:
        >>> old, new = b"def f(a):\n    return a\n", b"def f(a):\n    # fixed\n    return a + 1\n"
        >>> compare([FileVersions("m.py", "m.py", old, new)]).changed
        {'m.py:f': 'm.py:f'}
    """
    found = ChangedFunctions()
    for versions in files:
        try:
            old, new = _functions(versions.old), _functions(versions.new)
        except UNPARSABLE as error:
            found.unparsable.append(f"{versions.after}: {type(error).__name__}: {error}"[:200])
            continue
        both = [name for name in new if name in old]
        changed = [name for name in both if new[name].code != old[name].code]
        added, removed = ([name for name in one if name not in other] for one, other in ((new, old), (old, new)))
        bodies = {old[name].body: name for name in removed}
        renamed = [f"{bodies[new[name].body]} → {name}" for name in added if new[name].body in bodies]
        found.changed |= {f"{versions.after}:{name}": f"{versions.before}:{name}" for name in changed}
        found.renamed += renamed
        found.added += len(added) - len(renamed)
        found.other = found.other or not changed
        found.names |= _callers(new, changed)
    return found


def is_stub(text: str) -> bool:
    """True when the function that `text` defines does nothing yet: there is no code to repair.

    Example:
        >>> is_stub("def f(a):\\n    raise NotImplementedError"), is_stub("def f(a):\\n    return a")
        (True, False)
    """
    function = parse(text).body[-1]
    return isinstance(function, Definition) and all(
        isinstance(part, ast.Pass)
        or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        or (isinstance(part, ast.Return) and (part.value is None or isinstance(part.value, ast.Constant)))
        or (isinstance(part, ast.Raise) and part.exc is not None and "NotImplementedError" in ast.dump(part.exc))
        for part in function.body
    )


def accepts(text: str, arguments: Sequence[object], keywords: Mapping[str, object]) -> bool:
    """True when the function that `text` defines has parameters for the arguments of a call.

    Example:
        >>> text = "def f(a, b=2, *, c=3): pass"
        >>> accepts(text, [1, 2], {"c": 4}), accepts(text, [1, 2, 3], {}), accepts(text, [1], {"d": 4})
        (True, False, False)
    """
    function = parse(text).body[-1]
    if not isinstance(function, Definition):
        return True
    taken = function.args
    by_position = [each.arg for each in (*taken.posonlyargs, *taken.args)]
    by_name = {each.arg for each in (*taken.args, *taken.kwonlyargs)}
    enough = len(arguments) <= len(by_position) or taken.vararg is not None
    return enough and (taken.kwarg is not None or keywords.keys() <= by_name)


def is_code(path: str) -> bool:
    """True for a Python file that is neither a test nor part of the build."""
    name = path.rsplit("/", 1)[-1]
    return path.endswith(".py") and name not in ("test.py", "tests.py") and not is_test(path)


class _Function(NamedTuple):
    code: str
    body: str
    uses: frozenset[str]


def _functions(text: bytes) -> dict[str, _Function]:
    """Functions and methods of a module by qualified name, without those inside of functions."""
    found: dict[str, _Function] = {}
    for name, node in _definitions(parse(text), ""):
        plain = Undocumented().visit(copy.deepcopy(node))
        code = ast.dump(plain)
        plain.name = ""
        uses = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        uses |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
        known = found.get(name)  # defined more than once: all definitions count
        found[name] = _Function((known.code if known else "") + code, ast.dump(plain), frozenset(uses))
    return found


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.stmt | ast.ExceptHandler):
            yield from _definitions(child, prefix)


def _callers(functions: dict[str, _Function], changed: list[str]) -> set[str]:
    """Parts of the names of the changed functions, and of the functions of the file that use them, directly or not."""
    reached = {part for name in changed for part in name.split(".")}
    while True:
        more = {
            part
            for name, function in functions.items()
            if function.uses & reached
            for part in name.split(".")
            if part not in reached
        }
        if not more:
            return reached
        reached |= more
