"""Mutation operators: one-line bugs of a named class, on the syntax tree of any function.

Each operator examines one node and yields every way to break it. The caller checks whether a mutant is a bug (a test
fails). Not covered: bugs over several lines.
"""

import ast
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from coral_core.problems.problem import BugClass
from coral_core.syntax import parse


class Mutation(NamedTuple):
    """A broken source text."""

    bug_class: BugClass
    source: str


Mutator = tuple[BugClass, Callable[[], str | None]]
"""A bug class, and a function that makes the broken text; None where that text does not parse."""
Edit = tuple[ast.AST, ast.AST | None]
"""A node of the tree, and what takes its place (None: the statement is removed)."""
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
_OPPOSITES = (
    ("min", "max"),
    ("any", "all"),
    ("append", "extend"),
    ("lower", "upper"),
    ("isupper", "islower"),
    ("startswith", "endswith"),
    ("union", "intersection"),
)
_CALLS: dict[str, tuple[str, ...]] = {
    **{name: (other,) for pair in _OPPOSITES for name, other in (pair, pair[::-1])},
    "sum": ("len", "max"),
    "len": ("sum",),
    "sorted": ("list",),
    "abs": ("int",),
    "add": ("discard",),
    "strip": ("lstrip",),
    "split": ("splitlines",),
}


def mutations(source: str) -> list[Mutation]:
    """Every one-step mutation of `source`, in a fixed order, without repeats.

    Raises:
        SyntaxError: `source` does not parse.

    Example:
        >>> mutations("def f(a):\\n    return a < 1")[0]
        Mutation(bug_class='comparison', source='def f(a):\\n    return a <= 1')
    """
    unchanged = ast.unparse(parse(source))
    distinct: dict[str, Mutation] = {}
    for bug_class, mutate in mutators(source):
        text = mutate()
        if text is not None and text != unchanged:
            distinct.setdefault(text, Mutation(bug_class, text))
    return list(distinct.values())


def mutators(source: str, classes: Sequence[BugClass] = ()) -> list[Mutator]:
    """The mutations of `source` as calls, since generating each text is the expensive part.

    Args:
        source: Python code.
        classes: Bug classes to make; empty: all.

    Raises:
        SyntaxError: `source` does not parse.
    """
    tree = parse(source)
    places = _places(tree)
    return [
        (bug_class, partial(_mutated, tree, places[id(node)], replacement))
        for bug_class, operator in _OPERATORS
        if not classes or bug_class in classes
        for part in ast.walk(tree)
        for node, replacement in operator(part)
    ]


def _places(tree: ast.Module) -> dict[int, Place]:
    """The place of each node, by its id (valid as long as `tree` lives)."""
    places: dict[int, Place] = {}
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if isinstance(value, ast.AST):
                places[id(value)] = parent, field, None
            elif isinstance(value, list):
                places.update((id(item), (parent, field, index)) for index, item in enumerate(value))
    return places


def _mutated(tree: ast.Module, place: Place, replacement: ast.AST | None) -> str | None:
    """The text of `tree` with the node at `place` replaced (None: removed); `tree` itself is left unchanged."""
    parent, field, index = place
    before = getattr(parent, field)
    after: object = replacement
    if index is not None:
        after = [*before[:index], *([] if replacement is None else [replacement]), *before[index + 1 :]]
    setattr(parent, field, after)  # undone below: copying the tree per mutation would cost more than unparsing it
    try:
        text = ast.unparse(tree)
        parse(text)
    except (SyntaxError, ValueError, IndexError, TypeError):
        return None
    finally:
        setattr(parent, field, before)
    return text


def _comparison(node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            for other in _COMPARISONS.get(type(op), ()):
                ops = [*node.ops[:place], other(), *node.ops[place + 1 :]]
                yield node, ast.Compare(node.left, ops, node.comparators)


def _arithmetic(node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, (ast.BinOp, ast.AugAssign)):
        for other in _ARITHMETIC.get(type(node.op), ()):
            if isinstance(node, ast.BinOp):
                yield node, ast.BinOp(node.left, other(), node.right)
            else:
                yield node, ast.AugAssign(node.target, other(), node.value)


def _constant(node: ast.AST) -> Iterator[Edit]:
    match node:
        case ast.Constant(value=bool(value)):
            yield node, ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from ((node, ast.Constant(changed)) for changed in (value + 1, value - 1) if changed >= 0)


def _called_name(node: ast.AST) -> Iterator[Edit]:
    match node:
        case ast.Call(func=ast.Name(id=name) as called):
            yield from ((called, ast.Name(other, ast.Load())) for other in _CALLS.get(name, ()))
        case ast.Call(func=ast.Attribute(value=owner, attr=name) as called):
            yield from ((called, ast.Attribute(owner, other, ast.Load())) for other in _CALLS.get(name, ()))


def _variable(node: ast.AST) -> Iterator[Edit]:
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return
    spec = node.args
    bound = [argument.arg for argument in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
    bound += [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
    names = list(dict.fromkeys(bound))
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and part.id in names:
            yield from ((part, ast.Name(other, ast.Load())) for other in names if other != part.id)


def _boolean(node: ast.AST) -> Iterator[Edit]:
    match node:
        case ast.BoolOp(op=op, values=values):
            yield node, ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield node, operand
        case ast.If(test=ast.Name() | ast.Call() as test) | ast.While(test=ast.Name() | ast.Call() as test):
            yield test, ast.UnaryOp(ast.Not(), test)
        case ast.Return(value=ast.Constant(value=bool(value))):
            yield node, ast.Return(ast.Constant(not value))


def _index(node: ast.AST) -> Iterator[Edit]:
    match node:
        case ast.Subscript(value=owner, slice=ast.Slice(lower=lower, upper=upper, step=step), ctx=ctx):
            if (lower is None) != (upper is None):
                yield node, ast.Subscript(owner, ast.Slice(upper, lower, step), ctx)
        case ast.Subscript(slice=ast.Constant()):
            return
        case ast.Subscript(value=owner, slice=index, ctx=ctx):
            for op in (ast.Add(), ast.Sub()):
                yield node, ast.Subscript(owner, ast.BinOp(index, op, ast.Constant(1)), ctx)


def _missing_statement(node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        for block in ast.walk(node):
            for field in ("body", "orelse", "finalbody"):
                body = getattr(block, field, None)
                if not isinstance(body, list) or len(body) < 2:
                    continue  # a block must keep a statement
                for statement in body[1 if block is node else 0 :]:
                    if isinstance(statement, (ast.AugAssign, ast.Assign)) or (
                        isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant)
                    ):
                        yield statement, None


def _missing_call(node: ast.AST) -> Iterator[Edit]:
    match node:
        case ast.Call(func=ast.Name(), args=[argument], keywords=[]):
            yield node, argument
        case ast.Call(func=ast.Attribute(value=owner), args=[], keywords=[]):
            yield node, owner


_OPERATORS: tuple[tuple[BugClass, Callable[[ast.AST], Iterator[Edit]]], ...] = (
    ("comparison", _comparison),
    ("arithmetic", _arithmetic),
    ("constant", _constant),
    ("called-name", _called_name),
    ("variable", _variable),
    ("boolean", _boolean),
    ("index", _index),
    ("missing-step", _missing_statement),
    ("missing-step", _missing_call),
)
