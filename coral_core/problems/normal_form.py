"""Normal forms: two functions with equal normal forms must be in the same split.

The normal form is the syntax tree with names alpha-renamed in order of appearance, docstrings dropped and constants kept.
Built-in names and attributes keep their names.
"""

import ast
import builtins
import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

from coral_core.problems.problem import Problem, ProblemSet
from coral_core.syntax import parse

NEAR_DUPLICATE = 0.95
"""Two normal forms whose token sequences match at least this much are near-duplicates (difflib ratio)."""
_TOKEN = re.compile(r"\w+|[^\w\s]|\n")


class Undocumented(ast.NodeTransformer):
    """Removes docstrings and annotations of arguments and results."""

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.AST:
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if not isinstance(node, ast.ClassDef):
            node.returns = None
        return self.generic_visit(node)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _definition  # noqa: N815 (names that ast calls)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node


class _Rename(Undocumented):
    """Renames what the source binds, and free names that are not built in."""

    def __init__(self, bound: set[str]) -> None:
        self.bound = bound
        self.names: dict[str, str] = {}

    def _new(self, name: str) -> str:
        if name not in self.bound and hasattr(builtins, name):
            return name
        return self.names.setdefault(name, f"v{len(self.names)}")

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.AST:
        node.name = self._new(node.name)
        return super()._definition(node)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _definition  # noqa: N815 (names that ast calls)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self._new(node.arg)
        return super().visit_arg(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._new(node.id)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        node.name = self._new(node.name) if node.name else None
        return self.generic_visit(node)


def _bound(tree: ast.Module) -> set[str]:
    """Names that `tree` defines or assigns in any scope: after `max = 0`, max counts as a variable."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
    return names


@lru_cache(maxsize=200_000)
def normal_form(source: str) -> str:
    r"""Normal form of a source text, as text.

    Raises:
        SyntaxError: `source` does not parse.

    Example:
        >>> print(normal_form("def add(a, b):\n    return max(a, b)"))
        def v0(v1, v2):
            return max(v1, v2)
    """
    tree = parse(source)
    return ast.unparse(_Rename(_bound(tree)).visit(tree))


def near_duplicates(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int, float]]:
    r"""Pairs of sources whose normal forms have token sequences that match by at least `NEAR_DUPLICATE`.

    Args:
        first: Source texts.
        second: Source texts to compare each of them with.

    Returns:
        Triples (index in `first`, index in `second`, similarity in [0, 1]), sorted.

    Raises:
        SyntaxError: a text does not parse.

    Example:
        >>> near_duplicates(["def f(a):\n    return a + 1"], ["def g(b):\n    return b + 1", "def h():\n    pass"])
        [(0, 0, 1.0)]
    """
    left, right = ([_TOKEN.findall(normal_form(text)) for text in texts] for texts in (first, second))
    bags = [Counter(tokens) for tokens in left]
    matches: list[tuple[int, int, float]] = []
    for j, tokens in enumerate(right):
        bag = Counter(tokens)
        matcher: difflib.SequenceMatcher[str] | None = None
        for i, others in enumerate(left):
            total = len(tokens) + len(others)
            # Lengths and shared tokens bound the ratio from above and spare nearly all of the quadratic work.
            if 2 * min(len(tokens), len(others)) < NEAR_DUPLICATE * total:
                continue
            if 2 * (bag & bags[i]).total() < NEAR_DUPLICATE * total:
                continue
            if matcher is None:  # it indexes its second sequence: once for all of `first`
                matcher = difflib.SequenceMatcher(None, others, tokens, autojunk=False)
            matcher.set_seq1(others)
            ratio = matcher.ratio()
            if ratio >= NEAR_DUPLICATE:
                matches.append((i, j, ratio))
    return sorted(matches)


def texts_of(problems: ProblemSet) -> Iterator[tuple[str, str, str]]:
    """Split, name and text of both sides of each pair and problem; the name begins with the split."""
    for number, pair in enumerate(problems.pairs):
        for text in dict.fromkeys((pair.fixed, pair.buggy)):
            yield "training", f"training: pair {number}", text
    for split in ("fitness", "monitor", "held_out"):
        members: tuple[Problem, ...] = getattr(problems, split)
        for problem in members:
            for text in dict.fromkeys((problem.reference, problem.buggy)):
                yield split, f"{split}: {problem.problem_id}", text


def check_split(problems: ProblemSet) -> list[tuple[str, str]]:
    """Pairs of names (split and problem) whose texts have equal normal forms in two splits; empty when there are none."""
    owners: dict[str, tuple[str, str]] = {}
    overlaps: list[tuple[str, str]] = []
    for split, name, text in texts_of(problems):
        owner, first = owners.setdefault(normal_form(text), (split, name))
        if owner != split:
            overlaps.append((first, name))
    return overlaps
