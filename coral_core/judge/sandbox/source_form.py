"""Normal form of a source text, as a digest: two texts with one digest do the same.

Left out: layout, comments, docstrings, `pass`, bare constants, annotations, names of local
variables and parameters. Kept: everything that a caller can see (names at module level and
in classes, names of attributes and of keyword arguments). So the buggy code with a comment,
a docstring, another layout or other local names is known for what it is.

The child computes it before the patch's turn, where deep or huge texts harm nobody else.
Standard library only: the zygote loads this file by its path.
"""

import ast
import hashlib
from typing import Any

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_SILENT = ("ctx", "kind", "type_comment", "type_ignores", "annotation", "returns")
_NAMED = {
    "Name": ("id",),
    "arg": ("arg",),
    "FunctionDef": ("name",),
    "AsyncFunctionDef": ("name",),
    "ClassDef": ("name",),
    "ExceptHandler": ("name",),
    "MatchAs": ("name",),
    "MatchStar": ("name",),
    "MatchMapping": ("rest",),
    "Nonlocal": ("names",),
}
"""Fields that hold a name which a function may bind."""


def fingerprint(source: str) -> str:
    """Digest of the normal form of `source`; "" when it has none that can be computed (no syntax, too deep)."""
    try:
        writer = _Writer(ast.parse(source))
        return hashlib.sha256("\x1f".join(writer.out).encode("utf-8", "backslashreplace")).hexdigest()
    except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError):
        return ""


def empty(statement: ast.stmt) -> bool:
    """A statement that does nothing: `pass`, a docstring, a bare constant, a bare annotation of a name."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None and isinstance(statement.target, ast.Name)
    return isinstance(statement, ast.Pass)


class _Writer:
    """Writes a tree as words; local names become numbers in the order in which each function at the top meets them."""

    def __init__(self, tree: ast.Module) -> None:
        self.out: list[str] = []
        self.local: set[str] = set()
        self.kept: set[str] = set()
        self.numbers: dict[str, int] = {}
        self._collect(tree)
        self.local -= self.kept
        for statement in tree.body:
            self.numbers = {}
            if not empty(statement):
                self._node(statement)

    def _collect(self, tree: ast.Module) -> None:
        """Which names functions bind, and which of them somebody outside could see."""
        waiting: list[tuple[Any, bool]] = [(tree, False)]
        while waiting:
            node, inside = waiting.pop()
            if isinstance(node, ast.Attribute):
                self.kept.add(node.attr)
            elif isinstance(node, ast.keyword) and node.arg:
                self.kept.add(node.arg)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                self.kept.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
            elif isinstance(node, ast.Global):
                self.kept.update(node.names)
            elif not isinstance(node, ast.Name) or isinstance(node.ctx, ast.Store):
                within = inside or isinstance(node, ast.arg)
                for field in _NAMED.get(type(node).__name__, ()):
                    value = getattr(node, field)
                    (self.local if within else self.kept).update(value if isinstance(value, list) else [value or ""])
            below = (inside or isinstance(node, _FUNCTIONS)) and not isinstance(node, ast.ClassDef)
            waiting.extend((child, below) for child in ast.iter_child_nodes(node))

    def _statements(self, body: list[ast.stmt]) -> None:
        self.out.append("[")
        for statement in body:
            if not empty(statement):
                self._node(statement)
        self.out.append("]")

    def _node(self, node: ast.AST) -> None:
        kind = type(node).__name__
        if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
            node = ast.Assign(targets=[node.target], value=node.value)
            kind = "Assign"
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and node.value.value is None:
            node = ast.Return(value=None)
        self.out.append(kind)
        if isinstance(node, ast.Constant):
            self.out.append(f"{type(node.value).__name__} {node.value!r}")
            return
        named = _NAMED.get(kind, ())
        for field in node._fields:
            value = getattr(node, field, None)
            if field in _SILENT:
                continue
            if field in named:
                for name in value if isinstance(value, list) else [value]:
                    self.out.append(self._name(name))
            else:
                self._value(value)
        self.out.append(";")

    def _value(self, value: Any) -> None:
        if isinstance(value, ast.AST):
            self._node(value)
        elif isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            self._statements(value)
        elif isinstance(value, list):
            self.out.append("[")
            for item in value:
                self._value(item)
            self.out.append("]")
        else:
            self.out.append(repr(value))

    def _name(self, name: str | None) -> str:
        if name is None or name not in self.local:
            return repr(name)
        return f"#{self.numbers.setdefault(name, len(self.numbers))}"
