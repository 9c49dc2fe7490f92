"""Rewrites definitions so that they can stand in another module, and finds the names that they use."""

import ast
import doctest
import symtable
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeVar

from coral_core.problem_sources.package.modules import FUNCTIONS, IMPORTS, Function, catches_import_errors
from coral_core.syntax import parse

Statement = TypeVar("Statement", bound=ast.stmt | ast.ExceptHandler)


NO_FIELDS = ("ClassVar", "InitVar")


class Refused(Exception):  # noqa: N818 (a finding about a function)
    """A function cannot become problems; the text gives the reason."""


class Clean(ast.NodeTransformer):
    """Removes answers (examples in docstrings), and annotations with names that are not `available`."""

    def __init__(self, available: Callable[[str], bool]) -> None:
        self._available = available

    def _kept(self, annotation: ast.expr | None) -> ast.expr | None:
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = _expression(annotation.value)
        if annotation is None or self._at_hand(annotation):
            return annotation
        # dataclasses make no field of these, whatever they hold
        if (
            isinstance(annotation, ast.Subscript)
            and _last_name(annotation.value) in NO_FIELDS
            and self._at_hand(annotation.value)
        ):
            return ast.Subscript(annotation.value, ast.Name("object", ast.Load()), ast.Load())
        return None

    def _at_hand(self, annotation: ast.expr) -> bool:
        return not any(
            (isinstance(part, ast.Constant) and isinstance(part.value, str))
            or (isinstance(part, ast.Name) and not self._available(part.id))
            for part in ast.walk(annotation)
        )

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = self._kept(node.annotation)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = self._kept(node.annotation) or ast.Name("object", ast.Load())
        return self.generic_visit(node)

    def _definition(self, node: Function | ast.ClassDef) -> ast.AST:
        text = ast.get_docstring(node)
        if text is not None:
            plain = _without_examples(text)
            rest = node.body[1:]
            node.body = [ast.Expr(ast.Constant(plain)), *rest] if plain else rest or [ast.Pass()]
        if not isinstance(node, ast.ClassDef):
            node.returns = self._kept(node.returns)
        return self.generic_visit(node)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _definition  # noqa: N815 (names that ast calls)


def mangled(owner: str, name: str) -> str:
    """The name that `name` stands for in the body of the class `owner`.

    >>> mangled("_Cache", "__size"), mangled("Cache", "__len__"), mangled("Cache", "size")
    ('_Cache__size', '__len__', 'size')
    """
    private = name.startswith("__") and not name.endswith("__") and owner.strip("_")
    return f"_{owner.lstrip('_')}{name}" if private else name


class _Unbound(ast.NodeTransformer):
    """Writes a method so that it means the same outside its class: private names, ``super()`` and ``__class__``.

    Args:
        owner: Qualified name of the class.
        first: Name of the method's first parameter.
    """

    def __init__(self, owner: str, first: str) -> None:
        self.owner, self.first = owner, first

    def _name(self, name: str) -> str:
        return mangled(self.owner.rpartition(".")[2], name)

    def _owner(self) -> ast.expr:
        owner = _expression(self.owner)
        assert owner is not None
        return owner

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = self._name(node.name)
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        node.attr = self._name(node.attr)
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self._name(node.arg)
        return self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        node.arg = self._name(node.arg) if node.arg else None
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id == "__class__":
            return self._owner()
        node.id = self._name(node.id)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args:
            node.args = [self._owner(), ast.Name(self.first, ast.Load())]
        return self.generic_visit(node)


class _OfClass(ast.NodeTransformer):
    """Writes names of the body of a class as its attributes, but for lambdas, which do not see them."""

    def __init__(self, owner: str, names: Collection[str]) -> None:
        self.owner, self.names = owner, names

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        found = _expression(f"{self.owner}.{node.id}") if node.id in self.names else None
        return found or node


def unbound(node: ast.FunctionDef, owner: str, names: Collection[str]) -> ast.FunctionDef:
    """A method as a function outside its class.

    Args:
        node: The method; it is changed.
        owner: Qualified name of the class.
        names: Names that the body of the class binds, which defaults may use.
    """
    defaults, of_class = node.args, _OfClass(owner, names)
    defaults.defaults = [of_class.visit(item) for item in defaults.defaults]
    defaults.kw_defaults = [item and of_class.visit(item) for item in defaults.kw_defaults]
    parameters = [*node.args.posonlyargs, *node.args.args]
    made = _Unbound(owner, parameters[0].arg if parameters else "").visit(node)
    assert isinstance(made, ast.FunctionDef)
    return made


def forwarded(top: ast.ClassDef, node: Function, name: str, method: str) -> ast.ClassDef:
    """A class with a forwarder to the function `name` in place of the method `node` of it, or of a class in it.

    The text of the method must not be seen there.
    """
    first = {"instance": "self, ", "class": "cls, "}.get(method, "")
    forwarder = parse(f"def {node.name}({first}*args, **kwargs):\n    return {name}({first}*args, **kwargs)").body[0]
    assert isinstance(forwarder, ast.FunctionDef)
    forwarder.decorator_list = node.decorator_list
    made = _exchanged(top, node, forwarder)
    if made is top or not isinstance(made, ast.ClassDef):
        raise Refused("its definition stands in a block of its class that is not taken apart")
    return made


def _exchanged(within: ast.AST, old: ast.AST, new: ast.AST) -> ast.AST:
    """`within` with another statement in place of one of it that no function holds."""
    if within is old:
        return new
    if not isinstance(within, (ast.stmt, ast.ExceptHandler)) or isinstance(within, FUNCTIONS):
        return within
    fields = {name: held for name, held in ast.iter_fields(within) if isinstance(held, list)}
    changed = {name: [_exchanged(item, old, new) for item in held] for name, held in fields.items()}
    same = all(one is two for name, held in fields.items() for one, two in zip(held, changed[name], strict=True))
    return within if same else replaced(within, **changed)


def replaced(node: Statement, **fields: object) -> Statement:
    """A definition with other fields; what is in the fields is shared with `node`."""
    kept = {name: getattr(node, name) for name in node._fields if hasattr(node, name)}
    return ast.copy_location(type(node)(**kept | fields), node)


def copied(node: ast.stmt) -> ast.stmt:
    return parse(ast.unparse(node)).body[0]


def _expression(text: str) -> ast.expr | None:
    """The expression in a text; None where there is none."""
    try:
        [statement] = parse(text).body
    except (SyntaxError, ValueError):
        return None
    return statement.value if isinstance(statement, ast.Expr) else None


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _without_examples(docstring: str) -> str:
    """`docstring` up to its first example. A text that doctest cannot read is dropped whole."""
    try:
        before, *_ = doctest.DocTestParser().parse(docstring)
    except ValueError:
        return ""
    return str(before).strip()


def check_imports(statement: ast.stmt) -> None:
    """Raises `Refused` when `statement` imports more than the standard library, unless it can do without."""
    for part in _unguarded(statement):
        if isinstance(part, ast.ImportFrom) and part.level:
            raise Refused(f"needs a relative import on line {part.lineno} (from {'.' * part.level}{part.module or ''})")
        if not isinstance(part, IMPORTS):
            continue
        for module in [alias.name for alias in part.names] if isinstance(part, ast.Import) else [part.module or ""]:
            if module.split(".")[0] not in sys.stdlib_module_names:
                raise Refused(f"needs {module} (line {part.lineno}), which is not in the standard library")


def _unguarded(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node`, without the bodies of ``try`` statements that go on after a failed import."""
    yield node
    guarded = isinstance(node, ast.Try) and any(map(catches_import_errors, node.handlers))
    for name, held in ast.iter_fields(node):
        if guarded and name == "body":
            continue
        for part in held if isinstance(held, list) else [held]:
            if isinstance(part, ast.AST):
                yield from _unguarded(part)


def free_names(node: ast.AST) -> set[str]:
    """Names that a statement or expression takes from its module. Raises `Refused` for an import it may not have."""
    if isinstance(node, ast.stmt):
        check_imports(node)
    return global_names(node)


def global_names(node: ast.AST) -> set[str]:
    """Names that a statement or expression takes from its module, whatever it imports."""
    statement = ast.Expr(node) if isinstance(node, ast.expr) else node
    assert isinstance(statement, ast.stmt)
    names: set[str] = set()

    def walk(table: symtable.SymbolTable, top: bool) -> None:
        for symbol in table.get_symbols():
            if symbol.is_global() if not top else symbol.is_referenced() or symbol.is_global():
                names.add(symbol.get_name())
        for child in table.get_children():
            walk(child, False)

    walk(symtable.symtable(ast.unparse(ast.fix_missing_locations(statement)), "module", "exec"), True)
    if isinstance(statement, ast.AugAssign):
        return names
    bound = {statement.name} if isinstance(statement, (*FUNCTIONS, ast.ClassDef)) else set()
    if not bound:
        stored = [
            part for part in ast.walk(statement) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
        ]
        bound = {part.id for part in stored}
    return names - bound - {"__class__"}  # which symtable adds for super()


def without_early(node: Function) -> ast.stmt:
    """A function without decorators and defaults, which are evaluated where it is defined."""
    copy = copied(node)
    assert isinstance(copy, FUNCTIONS)
    copy.decorator_list = []
    copy.args.defaults = [ast.Constant(None) for _ in copy.args.defaults]
    copy.args.kw_defaults = [None if item is None else ast.Constant(None) for item in copy.args.kw_defaults]
    return copy


def early_names(node: ast.AST) -> set[str]:
    """Names that a statement uses when it is executed, without the bodies of functions that it defines."""
    names: set[str] = set()
    waiting = [node]
    while waiting:
        item = waiting.pop()
        if isinstance(item, (*FUNCTIONS, ast.Lambda)):
            arguments = item.args
            waiting += [*arguments.defaults, *(value for value in arguments.kw_defaults if value is not None)]
            waiting += getattr(item, "decorator_list", [])
            continue
        if isinstance(item, ast.Name):
            names.add(item.id)
        waiting += ast.iter_child_nodes(item)
    return names


def is_annotated(part: ast.AST) -> bool:
    if isinstance(part, ast.FunctionDef):
        return part.returns is not None
    return isinstance(part, ast.AnnAssign) or (isinstance(part, ast.arg) and part.annotation is not None)


class _Rename(ast.NodeTransformer):
    """Gives a statement's globals other names. What binds one of the names itself is refused: it may mean something else."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names, self.inside = names, False

    def _refuse(self, name: str | None) -> None:
        if name in self.names:
            raise Refused(f"needs two things called {name}, and one of them is also a name within a definition")

    def _scope(self, node: ast.AST) -> ast.AST:
        outer, self.inside = self.inside, True
        found = self.generic_visit(node)
        self.inside = outer
        return found

    def _definition(self, node: Function | ast.ClassDef) -> ast.AST:
        if self.inside:
            self._refuse(node.name)
        node.name = self.names.get(node.name, node.name)
        return self._scope(node)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _definition  # noqa: N815 (names that ast calls)
    visit_Lambda = visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _scope  # noqa: N815

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if self.inside and not isinstance(node.ctx, ast.Load):
            self._refuse(node.id)
        return ast.copy_location(ast.Name(self.names.get(node.id, node.id), node.ctx), node)

    def _bound(self, node: ast.AST) -> ast.AST:
        bound = [getattr(node, field, None) for field in ("arg", "name", "asname", "rest")]
        for name in [*bound, *getattr(node, "names", ())]:
            self._refuse(name.split(".")[0] if isinstance(name, str) else None)
        return self.generic_visit(node)

    visit_arg = visit_alias = visit_ExceptHandler = visit_MatchAs = visit_MatchStar = visit_MatchMapping = _bound  # noqa: N815
    visit_Global = visit_Nonlocal = _bound  # noqa: N815


def renamed(node: ast.stmt, names: Mapping[str, str]) -> ast.stmt:
    """`node`, or a copy in which other names stand for globals of its module.

    Args:
        node: A statement of the module.
        names: Name -> other name.

    Raises:
        Refused: it binds one of the names other than at the top level.
    """
    used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} | {getattr(node, "name", "")}
    if not used & names.keys():
        return node
    made: ast.stmt = _Rename(names).visit(copied(node))
    return made


def replaced_import(statement: ast.Import | ast.ImportFrom, name: str) -> ast.stmt:
    """An import of one thing, under another name. Raises `Refused` where it has none of its own (``import a.b``)."""
    found = copied(statement)
    assert isinstance(found, IMPORTS)
    alias = found.names[0]
    if isinstance(found, ast.Import) and alias.asname is None and "." in alias.name:
        raise Refused(f"needs two things called {alias.name.split('.')[0]}")
    alias.asname = name
    return found


def joined(texts: Iterable[str]) -> str:
    """Statements as one text: two blank lines around definitions, none between lines that belong together."""
    whole = ""
    for text in texts:
        block = "\n" in text
        whole += text if not whole else f"\n\n\n{text}" if block or whole.endswith("\n") else f"\n{text}"
        whole += "\n" if block else ""
    return whole.rstrip("\n")
