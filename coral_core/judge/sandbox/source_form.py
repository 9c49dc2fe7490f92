"""Digest of a source text's normal form: texts with equal digests behave alike.

Left out: layout, comments, docstrings, `pass`, bare constants, annotations, names of local variables and parameters. Kept:
everything that a caller can see (names at module level and in classes, names of attributes and of keyword arguments). So
the buggy code with a comment, a docstring, another layout or other local names is recognised.

The child computes it before the patch runs, where deep or huge texts harm no other process. Standard library only: the
zygote loads this file by its path.
"""

import ast
import hashlib
from typing import Any

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_NAMED = {
    "Name": "id",
    "arg": "arg",
    "FunctionDef": "name",
    "AsyncFunctionDef": "name",
    "ClassDef": "name",
    "ExceptHandler": "name",
    "MatchAs": "name",
    "MatchStar": "name",
    "MatchMapping": "rest",
    "Nonlocal": "names",
}
"""Field of each node that holds a name (or names) which a function may bind."""


def fingerprint(source: str, setup: str = "") -> str:
    """Digest of the normal form of a text: 64 hexadecimal digits.

    Args:
        source: The text.
        setup: Code whose statements are left out where the text repeats them at its top level.

    Returns:
        "" when it has none: it does not parse, or is nested too deeply.

    Example:
        >>> fingerprint("def f(a):  # twice" + chr(10) + " return 2 * a") == fingerprint("def f(n): return 2 * n")
        True
    """
    try:
        tree = ast.parse(source)
        repeated = {ast.dump(statement) for statement in ast.parse(setup).body}
        tree.body = [statement for statement in tree.body if not repeated or ast.dump(statement) not in repeated]
        local = _local_names(tree)
        form = [ast.dump(_Normal(local).visit(statement)) for statement in tree.body if not empty(statement)]
        return hashlib.sha256("\x1f".join(form).encode("utf-8", "backslashreplace")).hexdigest()
    except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError):
        return ""


def empty(statement: ast.AST) -> bool:
    """True for a statement that does nothing: `pass`, a docstring, a bare constant, a bare annotation of a name."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None and isinstance(statement.target, ast.Name)
    return isinstance(statement, ast.Pass)


def _names(node: ast.AST) -> list[str]:
    """The names in the field of `node` that a function may bind."""
    value = getattr(node, _NAMED.get(type(node).__name__, ""), None)
    return value if isinstance(value, list) else [value] if value else []


def _local_names(tree: ast.Module) -> set[str]:
    """Names that functions bind and that nothing outside them can refer to."""
    local: set[str] = set()
    visible: set[str] = set()
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, inside = waiting.pop()
        if isinstance(node, ast.Attribute):
            visible.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            visible.add(node.arg)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            visible.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Global):
            visible.update(node.names)
        elif not isinstance(node, ast.Name) or isinstance(node.ctx, ast.Store):
            (local if inside or isinstance(node, ast.arg) else visible).update(_names(node))
        below = (inside or isinstance(node, _FUNCTIONS)) and not isinstance(node, ast.ClassDef)
        waiting.extend((child, below) for child in ast.iter_child_nodes(node))
    return local - visible


class _Normal(ast.NodeTransformer):
    """Numbers local names in order of appearance, and removes statements without effect."""

    def __init__(self, local: set[str]) -> None:
        self.local = local
        self.numbers: dict[str, str] = {}

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
            node = ast.Assign(targets=[node.target], value=node.value)
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and node.value.value is None:
            node = ast.Return(value=None)
        elif isinstance(node, ast.Constant):
            node.kind = None
        for field in ("annotation", "returns", "type_comment"):
            if hasattr(node, field):
                setattr(node, field, None)
        names = [self._new(name) for name in _names(node)]
        if names:
            field = _NAMED[type(node).__name__]
            setattr(node, field, names if isinstance(getattr(node, field), list) else names[0])
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, [statement for statement in statements if not empty(statement)])
        return self.generic_visit(node)

    def _new(self, name: str) -> str:
        return self.numbers.setdefault(name, f"#{len(self.numbers)}") if name in self.local else name
