"""What an importer takes from a row: the program, its function, the units of its tests, and the bug if there is one."""

import ast
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from coral_core.problems.problem import BugClass
from coral_core.syntax import UNPARSABLE, bound_names, depth, parse, used_names

LONGEST_CODE = 100_000
"""Characters of a program, of its tests, or of a bug."""
DEEPEST = 100
"""Levels of a syntax tree; linters are given no deeper ones."""

Unit = tuple[str, str, str]
"""Kind (code, call), name, and code of a unit of the tests (`call_recorder`)."""


class RefusedRowError(Exception):
    """A row cannot become a problem.

    Args:
        kind: The reason in a few words, the same for all rows of the kind; reports count by it.
        detail: What it is about in this row.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True)
class Material:
    """A function with tests of it, taken from one row."""

    name: str
    """Id of the problem in the file that is written."""
    entry_point: str
    program: str
    """A module that defines the function, rightly; the tests run in it."""
    units: tuple[Unit, ...]
    buggy: str | None = None
    """The same module with the row's own bug; None: bugs are mutants of the function."""
    bug_class: BugClass = "unknown"
    all_must_pass: bool = True
    """Refuse the row when a unit fails; False: leave the unit out."""
    arguments_after: bool = False
    """Compare arguments after every call, as in `package`; False: only where the reference changes them."""


@dataclass(frozen=True)
class StandAlone:
    """A function and the statements around it that it needs, as texts."""

    setup: str
    function: str


def tree_of(code: str, what: str) -> ast.Module:
    """The syntax tree of a text from a row.

    Args:
        code: The text.
        what: Its name in the reason.

    Raises:
        RefusedRowError: it is too long, no Python, or nested too deeply.
    """
    if len(code) > LONGEST_CODE:
        raise RefusedRowError("too long", f"{what} has {len(code)} characters, more than {LONGEST_CODE}")
    try:
        tree = parse(code)
        levels = depth(tree)
    except UNPARSABLE as error:
        raise RefusedRowError("not Python 3", f"{what}: {type(error).__name__}: {error}"[:200]) from None
    if levels > DEEPEST:
        raise RefusedRowError("nested too deeply", f"{what} is nested {levels} levels deep")
    return tree


def readable(code: str) -> str:
    """`code` with plain line ends, without a byte order mark; tabs in front of statements stay."""
    return code.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")


def text_of(code: str, nodes: Iterable[ast.stmt]) -> str:
    """The lines of some statements of a text, in its order; decorators included."""
    numbers: set[int] = set()
    for node in nodes:
        first = min(part.lineno for part in (node, *getattr(node, "decorator_list", ())))
        numbers.update(range(first, (node.end_lineno or first) + 1))
    lines = code.split("\n")
    pieces: list[str] = []
    for number in sorted(numbers):
        if pieces and number - 1 not in numbers and lines[number - 1].lstrip().startswith(("def ", "class ", "@")):
            pieces.append("")
        pieces.append(lines[number - 1])
    return "\n".join(pieces)


def function_of(tree: ast.Module, name: str) -> ast.FunctionDef:
    """The function that a module defines last under a name.

    Raises:
        RefusedRowError: there is none.
    """
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if not found:
        raise RefusedRowError("no such function", f"{name} is no function at the top of the module")
    return found[-1]


def needed(tree: ast.Module, roots: Sequence[ast.stmt]) -> list[ast.stmt]:
    """The statements of a module that bind names which `roots` use, also through each other, in order; without `roots`.

    Star imports are always needed. Statements without names (calls, asserts) never are.
    """
    wanted = used_names(roots)
    waiting = [node for node in tree.body if node not in roots]
    taken: list[ast.stmt] = [node for node in waiting if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]
    waiting = [node for node in waiting if node not in taken]
    while used := [node for node in waiting if bound_names(node) & wanted]:
        taken += used
        waiting = [node for node in waiting if node not in used]
        wanted |= used_names(used)
    future = [node for node in waiting if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    return sorted([*taken, *future], key=lambda node: node.lineno)


def stand_alone(program: str, entry_point: str, what: str = "the program", classes: Collection[str] = ()) -> StandAlone:
    """A function of a module and what it needs of it.

    Args:
        program: Text of the module.
        entry_point: The function.
        what: Name of the text in reasons.
        classes: Names of classes that its arguments and values are of; they are needed too.

    Raises:
        RefusedRowError: the module cannot be read, or does not define the function.

    Example:
        >>> found = stand_alone("import re, os\\nX = 1\\nY = X\\ndef f(a):\\n    return a + Y", "f")
        >>> found.setup
        'X = 1\\nY = X'
        >>> found.function
        'def f(a):\\n    return a + Y'
    """
    tree = tree_of(program, what)
    function = function_of(tree, entry_point)
    defined = [
        node for node in tree.body if isinstance(node, (ast.ClassDef, ast.Assign)) and bound_names(node) & {*classes}
    ]
    around = [node for node in (*defined, *needed(tree, [function, *defined])) if entry_point not in bound_names(node)]
    return StandAlone(text_of(program, around), text_of(program, [function]))


def foreign_imports(setup: str) -> list[str]:
    """Modules that a text imports at its top and that the sandbox lacks."""
    names: list[str] = []
    for node in parse(setup).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if not _at_hand(alias.name)]
        elif isinstance(node, ast.ImportFrom) and (node.level or not _at_hand(node.module or "")):
            names.append("." * node.level + (node.module or ""))
    return names


def without_foreign_imports(nodes: Sequence[ast.stmt], given: str) -> list[ast.stmt]:
    """Statements without imports of modules that the sandbox lacks (all but the standard library and pytest), and without those of the function `given`."""
    kept: list[ast.stmt] = []
    for node in nodes:
        if isinstance(node, ast.Import) and not all(_at_hand(alias.name) for alias in node.names):
            continue
        if isinstance(node, ast.ImportFrom) and (node.level or not _at_hand(node.module or "")):
            continue
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == given for alias in node.names):
            continue
        kept.append(node)
    return kept


def _at_hand(module: str) -> bool:
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names or root == "pytest"
