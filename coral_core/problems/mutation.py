"""Mutation operators: one-line bugs of a named class, on the syntax tree of any function.

Each operator yields every way it can break the source, in source order. The caller checks whether a mutant is a bug (a
test fails). Not covered: bugs over several lines.
"""

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from coral_core.problems.problem import BugClass
from coral_core.syntax import parse


@dataclass(frozen=True)
class Mutation:
    """One way to break a source text."""

    bug_class: BugClass
    source: str
    line: int
    what: str


Edit = tuple[ast.AST, ast.AST | None, str]
"""A node of the tree, what takes its place (None: the statement goes), and what was done."""
Place = tuple[ast.AST, str, int | None]
"""The parent of a node, the field that holds it, and where in that field when it is a list."""

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add,),
    ast.FloorDiv: (ast.Mod, ast.Mult),
    ast.Mod: (ast.FloorDiv,),
    ast.Div: (ast.Mult,),
    ast.BitAnd: (ast.BitOr, ast.BitXor),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitAnd,),
}
_CALLS: dict[str, tuple[str, ...]] = {
    "min": ("max",),
    "max": ("min",),
    "any": ("all",),
    "all": ("any",),
    "sum": ("len", "max"),
    "len": ("sum",),
    "sorted": ("list",),
    "abs": ("int",),
    "append": ("extend",),
    "extend": ("append",),
    "add": ("discard",),
    "lower": ("upper",),
    "upper": ("lower",),
    "isupper": ("islower",),
    "islower": ("isupper",),
    "startswith": ("endswith",),
    "endswith": ("startswith",),
    "strip": ("lstrip",),
    "split": ("splitlines",),
    "union": ("intersection",),
    "intersection": ("union",),
}


def mutations(source: str) -> list[Mutation]:
    """Every one-step mutation of `source`, in a fixed order, without repeats.

    Raises:
        SyntaxError: `source` does not parse.

    Example:
        >>> for found in mutations("def f(a):\\n    return a < 1")[:2]:
        ...     print(found.bug_class, "-", found.what)
        comparison - Lt became LtE
        comparison - Lt became Gt
    """
    seen = {ast.unparse(parse(source))}
    found: list[Mutation] = []
    for mutate in mutators(source):
        mutation = mutate()
        if mutation is not None and mutation.source not in seen:
            seen.add(mutation.source)
            found.append(mutation)
    return found


def mutators(source: str, classes: Sequence[BugClass] = ()) -> list[Callable[[], Mutation | None]]:
    """The mutations of `source` as calls, since making the text is the costly part.

    Args:
        source: Python code.
        classes: Bug classes to make; empty: all.
    """
    tree = parse(source)
    places = _places(tree)

    def maker(bug_class: BugClass, edit: Edit) -> Callable[[], Mutation | None]:
        def make() -> Mutation | None:
            text = _apply(tree, places[id(edit[0])], edit[1])
            return Mutation(bug_class, text, getattr(edit[0], "lineno", 1), edit[2]) if text is not None else None

        return make

    return [
        maker(bug_class, edit)
        for bug_class, operator in _OPERATORS.items()
        if not classes or bug_class in classes
        for edit in operator(tree)
    ]


def mutation_classes(source: str) -> list[BugClass]:
    """The bug class of each of ``mutators(source)``, without making any."""
    tree = parse(source)
    return [bug_class for bug_class, operator in _OPERATORS.items() for _ in operator(tree)]


def _places(tree: ast.Module) -> dict[int, Place]:
    """Where each node hangs, by its id (valid as long as `tree` lives)."""
    places: dict[int, Place] = {}
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if isinstance(value, ast.AST):
                places[id(value)] = parent, field, None
            elif isinstance(value, list):
                places.update((id(item), (parent, field, index)) for index, item in enumerate(value))
    return places


def _apply(tree: ast.Module, place: Place, replacement: ast.AST | None) -> str | None:
    """The text of `tree` with what is at `place` replaced (or, for None, removed); `tree` stays as it is."""
    parent, field, index = place
    before = getattr(parent, field)
    after: object = replacement
    if index is not None:
        after = [*before[:index], *([] if replacement is None else [replacement]), *before[index + 1 :]]
    setattr(parent, field, after)  # and back again: a copy of the tree per mutation costs more than its text
    try:
        text = ast.unparse(tree)
        parse(text)
    except (SyntaxError, ValueError, IndexError, TypeError):
        return None
    finally:
        setattr(parent, field, before)
    return text


def _comparison(tree: ast.Module) -> Iterator[Edit]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for place, op in enumerate(node.ops):
                for other in _COMPARISONS.get(type(op), ()):
                    ops = [*node.ops[:place], other(), *node.ops[place + 1 :]]
                    yield node, ast.Compare(node.left, ops, node.comparators), f"{_name(op)} became {other.__name__}"


def _arithmetic(tree: ast.Module) -> Iterator[Edit]:
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp):
            for other in _ARITHMETIC.get(type(node.op), ()):
                yield node, ast.BinOp(node.left, other(), node.right), f"{_name(node.op)} became {other.__name__}"
        elif isinstance(node, ast.AugAssign):
            for other in _ARITHMETIC.get(type(node.op), ()):
                yield node, ast.AugAssign(node.target, other(), node.value), f"{_name(node.op)} became {other.__name__}"


def _constant(tree: ast.Module) -> Iterator[Edit]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            for value in (node.value + 1, node.value - 1):
                if value >= 0:
                    yield node, ast.Constant(value), f"{node.value} became {value}"
        elif isinstance(node, ast.Constant) and type(node.value) is bool:
            yield node, ast.Constant(not node.value), f"{node.value} became {not node.value}"


def _called_name(tree: ast.Module) -> Iterator[Edit]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            for other in _CALLS.get(node.func.id, ()):
                yield node.func, ast.Name(other, ast.Load()), f"{node.func.id} became {other}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            for other in _CALLS.get(node.func.attr, ()):
                yield node.func, ast.Attribute(node.func.value, other, ast.Load()), f"{node.func.attr} became {other}"


def _variable(tree: ast.Module) -> Iterator[Edit]:
    for function in _functions(tree):
        spec = function.args
        bound = [argument.arg for argument in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
        bound += [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        names = list(dict.fromkeys(bound))
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names:
                for other in names:
                    if other != node.id:
                        yield node, ast.Name(other, ast.Load()), f"{node.id} became {other}"


def _boolean(tree: ast.Module) -> Iterator[Edit]:
    for node in ast.walk(tree):
        if isinstance(node, ast.BoolOp):
            other = ast.Or if isinstance(node.op, ast.And) else ast.And
            yield node, ast.BoolOp(other(), node.values), f"{_name(node.op)} became {other.__name__}"
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, node.operand, "not was dropped"
        elif isinstance(node, (ast.If, ast.While)) and isinstance(node.test, (ast.Name, ast.Call)):
            yield node.test, ast.UnaryOp(ast.Not(), node.test), "the condition was negated"
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and type(node.value.value) is bool:
            yield node, ast.Return(ast.Constant(not node.value.value)), "the returned truth was negated"


def _index(tree: ast.Module) -> Iterator[Edit]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Subscript):
            continue
        if isinstance(node.slice, ast.Slice):
            part = node.slice
            if part.lower is None or part.upper is None:
                swapped = ast.Slice(part.upper, part.lower, part.step)
                if part.lower is not None or part.upper is not None:
                    yield node, ast.Subscript(node.value, swapped, node.ctx), "the slice was turned round"
        elif not isinstance(node.slice, ast.Constant):
            for op, what in ((ast.Add(), "+ 1"), (ast.Sub(), "- 1")):
                shifted = ast.BinOp(node.slice, op, ast.Constant(1))
                yield node, ast.Subscript(node.value, shifted, node.ctx), f"the index was shifted by {what}"


def _missing_step(tree: ast.Module) -> Iterator[Edit]:
    for function in _functions(tree):
        for block in ast.walk(function):
            for field in ("body", "orelse", "finalbody"):
                body = getattr(block, field, None)
                if not isinstance(body, list) or len(body) < 2:
                    continue  # a block must keep a statement
                for statement in body[1 if block is function else 0 :]:
                    if isinstance(statement, (ast.AugAssign, ast.Assign, ast.Expr)) and not _is_text(statement):
                        yield statement, None, "a statement was dropped"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords and isinstance(node.func, ast.Name):
            yield node, node.args[0], f"the call of {node.func.id} was dropped"
        elif (
            isinstance(node, ast.Call) and not node.args and not node.keywords and isinstance(node.func, ast.Attribute)
        ):
            yield node, node.func.value, f"the call of {node.func.attr} was dropped"


_OPERATORS: dict[BugClass, Callable[[ast.Module], Iterator[Edit]]] = {
    "comparison": _comparison,
    "arithmetic": _arithmetic,
    "constant": _constant,
    "called-name": _called_name,
    "variable": _variable,
    "boolean": _boolean,
    "index": _index,
    "missing-step": _missing_step,
}


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def _is_text(statement: ast.stmt) -> bool:
    """A docstring: dropping it breaks nothing."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _name(node: ast.AST) -> str:
    return type(node).__name__
