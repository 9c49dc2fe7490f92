"""Rows that are a fix of a repository: a diff with tests. What can be taken from the files alone, or with a local clone.

From a diff alone: a function that one hunk shows whole, with every change inside it. With a clone (`Clone`): the files
before and after. Then the row becomes a problem when the fix changes one function at the top of one module, that
function stands alone on the standard library, and the tests of the fix, without the imports that the sandbox lacks,
call it. Nothing is checked out, and no code of the clone runs outside the judge's sandbox.
"""

import ast
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from coral_core.errors import ConfigError
from coral_core.problem_sources.history.repository import Repository, UnreadableError
from coral_core.problem_sources.importers.assert_file import calls, is_test, units_of
from coral_core.problem_sources.importers.material import (
    Material,
    RefusedRowError,
    Unit,
    readable,
    stand_alone,
    tree_of,
)
from coral_core.problem_sources.importers.unified_diff import FileDiff, Hunk

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Change:
    """A function before and after a fix."""

    name: str
    buggy: str
    fixed: str


class Clone(AbstractContextManager["Clone"]):
    """Reads files of commits of a local clone that nobody trusts; nothing is checked out (`history.repository`).

    Args:
        folder: The clone.

    Raises:
        ConfigError: it is no git repository.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._repository = Repository(folder)
        except ConfigError as error:
            raise ConfigError(
                f"--repo {folder}: {error.problem.rpartition(': ')[2]}", remedy="Give a local clone of the project."
            ) from None
        self._commit, self._files = "", dict[str, str]()

    def __exit__(self, *_: object) -> None:
        self._repository.__exit__()

    def text(self, commit: str, path: str) -> str:
        """A file at a commit.

        Raises:
            RefusedRowError: the clone does not have it, or it is no text.
        """
        if not COMMIT.fullmatch(commit):
            raise RefusedRowError("not of this layout", f"{commit[:60]!r} is no hash of a commit")
        try:
            if commit != self._commit:
                self._files = self._repository.tree(self._repository.resolve(commit)).files
                self._commit = commit
            if path not in self._files:
                raise RefusedRowError("not in the clone", f"{path[:100]} at {commit[:12]}")
            [content] = self._repository.contents([self._files[path]]).values()
        except (ConfigError, UnreadableError):
            raise RefusedRowError("not in the clone", f"commit {commit[:12]}") from None
        try:
            return readable(content.decode())
        except UnicodeDecodeError:
            raise RefusedRowError("not UTF-8", path) from None


def python_files(files: Sequence[FileDiff]) -> list[FileDiff]:
    """The files of a fix that are Python, without tests.

    Raises:
        RefusedRowError: there are none, or several.
    """
    found = [
        file for file in files if (file.new or file.old).endswith(".py") and not is_test_path(file.new or file.old)
    ]
    if not found:
        raise RefusedRowError("no Python in the fix", ", ".join(file.new or file.old for file in files)[:200])
    if len(found) > 1:
        raise RefusedRowError("the fix changes several files", f"{len(found)} of Python")
    if not found[0].old or not found[0].new:
        raise RefusedRowError("the fix adds or removes a file", found[0].new or found[0].old)
    return found


def is_test_path(path: str) -> bool:
    """True for a file that pytest would collect, or that lies in a folder of tests."""
    *folders, name = path.split("/")
    return name.startswith("test_") or name.endswith("_test.py") or name == "conftest.py" or bool({"test", "tests", "testing"} & set(folders))  # fmt: skip


def changed_function(old: str, new: str) -> str:
    """The one function at the top of a module that a fix changes.

    Raises:
        RefusedRowError: the fix changes something else, or more.
    """
    before, after = (
        {_key(node): ast.dump(node) for node in tree_of(text, what).body}
        for text, what in ((old, "the file before the fix"), (new, "the file after it"))
    )
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if len(changed) != 1:
        what = ", ".join(changed)[:200] or "only comments or layout"
        raise RefusedRowError("the fix is not inside one function", what)
    kind, _, name = changed[0].partition(" ")
    if kind != "def" or changed[0] not in before or changed[0] not in after:
        raise RefusedRowError(
            "the fix changes a method" if kind == "class" else "the fix is not inside one function", changed[0][:200]
        )
    return name


def _key(node: ast.stmt) -> str:
    if isinstance(node, ast.FunctionDef):
        return f"def {node.name}"
    if isinstance(node, ast.AsyncFunctionDef):
        return f"async def {node.name}"
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}"
    return f"statement {ast.dump(node)}"[:2000]


def material_of_fix(name: str, old: str, new: str, tests: Sequence[str]) -> Material:
    """The material of a fix of which the files are known.

    Args:
        name: Id of the row.
        old: The module before the fix.
        new: The module after it.
        tests: Text of each test module after the fix. All tests in them that call the function are run, so that what worked
            before counts too.

    Raises:
        RefusedRowError: it cannot become a problem.
    """
    entry_point = changed_function(old, new)
    program, buggy = stand_alone(new, entry_point), stand_alone(old, entry_point)
    units: list[Unit] = []
    for text in tests:
        tree = tree_of(text, "a file of tests")
        nodes = [node for node in tree.body if is_test(node) and calls(node, entry_point)]
        units += units_of(text, tree, nodes, entry_point, []) if nodes else ()
    if not units:
        raise RefusedRowError("its tests do not call the function", entry_point)
    return Material(
        name=name,
        entry_point=entry_point,
        program=f"{program.setup}\n\n\n{program.function}",
        units=tuple(units),
        buggy=f"{buggy.setup}\n\n\n{buggy.function}",
        all_must_pass=False,
    )


def change_in_hunk(hunk: Hunk) -> Change:
    """The function that a hunk shows whole, before and after.

    The hunk must show the line after the function too, or the end of the file: otherwise the function may go on.

    Raises:
        RefusedRowError: it shows no whole function, or changes something around it.
    """
    before, after = ({each.name: each for each in _functions_in(hunk, sign)} for sign in "-+")
    shared = [(before[name], after[name]) for name in before if name in after]
    for one, two in shared:
        if one.around == two.around and one.text != two.text:
            return Change(one.name, one.text, two.text)
    if shared:
        raise RefusedRowError("the fix is not inside one function", ", ".join(one.name for one, _ in shared)[:200])
    raise RefusedRowError("the diff shows only a part of the function", "the rest needs a checkout (--repo DIR)")


@dataclass(frozen=True)
class _Shown:
    """A whole function on one side of a hunk, and the other lines of that side."""

    name: str
    text: str
    around: tuple[str, ...]


def _functions_in(hunk: Hunk, sign: str) -> Iterator[_Shown]:
    """The functions that one side of a hunk shows whole, outer ones first."""
    lines = hunk.side(sign)
    for start, line in enumerate(lines):
        found = re.match(r"( *)def (\w+)\b", line)
        if not found:
            continue
        indent = len(found[1])
        first = start
        while first > 0 and lines[first - 1].startswith(" " * indent + "@"):
            first -= 1
        end = start + 1
        while end < len(lines) and _goes_on(lines[end], indent):
            end += 1
        if end == len(lines) and not hunk.ends_file():
            continue
        text = textwrap.dedent("\n".join(lines[first:end])).rstrip()
        try:
            tree = tree_of(text, "the function")
        except RefusedRowError:
            continue
        if len(tree.body) == 1 and isinstance(tree.body[0], ast.FunctionDef):
            yield _Shown(found[2], text, tuple(each for each in (*lines[:first], *lines[end:]) if each.strip()))


def _goes_on(line: str, indent: int) -> bool:
    """May `line` belong to a function that is indented by `indent`?"""
    text = line.lstrip(" ")
    return not text or len(line) - len(text) > indent or text[0] in ")]}"
