"""Normal forms: when are two functions the same for the purpose of a split?

Syntax tree with names alpha-renamed in order of appearance, docstrings dropped,
constants kept. Built-in names and attributes keep their names.
"""

import ast
import builtins
import difflib
from functools import lru_cache

from coral_core.frozen import Frozen
from coral_core.repair.problem import Problem, ProblemSet

NEAR_DUPLICATE = 0.95
"""Two normal forms whose token sequences match at least this much are near-duplicates (difflib ratio)."""


class Overlap(Frozen):
    """Two texts in different splits that are the same in normal form."""

    first: str
    second: str


class _Rename(ast.NodeTransformer):
    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def _new(self, name: str) -> str:
        return name if hasattr(builtins, name) else self.names.setdefault(name, f"v{len(self.names)}")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = self._new(node.name)
        if ast.get_docstring(node, clean=False) is not None and len(node.body) > 1:
            node.body = node.body[1:]
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self._new(node.arg)
        node.annotation = None
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._new(node.id)
        return node


@lru_cache(maxsize=200_000)
def normal_form(source: str) -> str:
    """Normal form of `source` as text. Raises `SyntaxError`."""
    return ast.unparse(_Rename().visit(ast.parse(source)))


def similarity(first: str, second: str) -> float:
    """Share of matching tokens of two normal forms, in [0, 1]."""
    return difflib.SequenceMatcher(None, first.split(), second.split(), autojunk=False).ratio()


def check_split(problems: ProblemSet) -> list[Overlap]:
    """Equal normal forms that cross splits; empty when the splits are clean."""
    owner: dict[str, tuple[str, str]] = {}
    overlaps: list[Overlap] = []

    def claim(split: str, name: str, source: str) -> None:
        form = normal_form(source)
        holder = owner.setdefault(form, (split, name))
        if holder[0] != split:
            overlaps.append(Overlap(first=f"{holder[0]}: {holder[1]}", second=f"{split}: {name}"))

    for number, pair in enumerate(problems.pairs):
        claim("training", f"pair {number}", pair.fixed)
        claim("training", f"pair {number}", pair.buggy)
    for split in ("fitness", "monitor", "held_out"):
        members: tuple[Problem, ...] = getattr(problems, split)
        for problem in members:
            claim(split, problem.problem_id, problem.reference)
            claim(split, problem.problem_id, problem.buggy)
    return overlaps
