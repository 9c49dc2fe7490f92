"""The statements that a text which stands alone is made of: what each uses and binds, and how it is written."""

import ast
import builtins
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from weakref import WeakKeyDictionary

from coral_core.problem_sources.package.modules import FUNCTIONS, IMPORTS, Function, Module
from coral_core.problem_sources.package.rewriting import (
    Refused,
    check_imports,
    early_names,
    free_names,
    is_annotated,
    renamed,
    replaced,
    without_early,
)

BUILTIN = set(dir(builtins))


@dataclass(eq=False)
class Part:
    """A statement of a module that is needed."""

    module: Module
    place: int
    statement: ast.stmt
    names: set[str] = field(default_factory=set)
    """Names of the text that it uses."""
    methods: dict[str, list[Function]] = field(default_factory=dict)
    """Methods of a class that are not among the kept ones (yet)."""
    own_methods: tuple[str, ...] = ()
    """Names of all methods of a class, in order."""
    bound: set[str] = field(default_factory=set)
    """Names that the body of a class binds beside them."""
    kept: list[Function] = field(default_factory=list)

    def kept_in_order(self) -> list[Function]:
        """The kept methods in the order of the class: decorators may be methods before them."""
        return sorted(self.kept, key=lambda item: self.own_methods.index(item.name))


@dataclass(frozen=True)
class Reading:
    """A statement or method as texts have it, and what it uses; the same for every function that needs it.

    Attributes:
        node: It, cleaned; shared, so never changed.
        names: Free names.
        early: Those that it uses when it is executed.
        later: Those that it uses elsewhere than in decorators and defaults.
        attributes: Names after a dot, and names that it imports.
    """

    node: ast.AST
    names: frozenset[str]
    early: frozenset[str]
    later: frozenset[str]
    attributes: frozenset[str]

    @classmethod
    def of(cls, node: ast.AST) -> Self:
        return cls(
            node=node,
            names=frozenset(free_names(node)),
            early=frozenset(early_names(node)),
            later=frozenset(free_names(without_early(node)) if isinstance(node, FUNCTIONS) else ()),
            attributes=frozenset(
                item.attr if isinstance(item, ast.Attribute) else item.name.rpartition(".")[2]
                for item in ast.walk(node)
                if isinstance(item, (ast.Attribute, ast.alias))
            ),
        )


READINGS: WeakKeyDictionary[ast.stmt, Reading] = WeakKeyDictionary()
"""Statement or method of a module -> its reading, where that is the same in all texts."""
_TEXTS: WeakKeyDictionary[ast.stmt, dict[tuple[object, ...], str]] = WeakKeyDictionary()
"""Statement of a text -> other names and kept methods -> its text."""
_ANNOTATED: WeakKeyDictionary[ast.stmt, bool] = WeakKeyDictionary()


def short_name(module: Module) -> str:
    """The last part of a module's name; the package's for an ``__init__``."""
    return module.file.removesuffix(".py").removesuffix("/__init__").rpartition("/")[2]


def is_constant(part: Part) -> bool:
    """Does it bind a literal to names that nothing else of its module binds or changes?"""
    literal = isinstance(part.statement, (ast.Assign, ast.AnnAssign)) and isinstance(part.statement.value, ast.Constant)
    return literal and all(part.module.places(name) == [part.place] for name in names_bound(part))


def with_methods(part: Part) -> ast.stmt:
    """The statement with the methods that were kept.

    Statements of a class that use methods, or what such statements bind, come after the methods; those that use a method which was
    left out are left out too.
    """
    node = part.statement
    if isinstance(node, ast.ClassDef):
        kept = part.kept_in_order()
        after, missing = set(part.own_methods), set(part.own_methods) - {item.name for item in kept}
        early: list[ast.stmt] = []
        late: list[ast.stmt] = []
        for item in node.body:
            if isinstance(item, ast.Pass):
                continue
            if missing & _loaded(item):
                missing |= bound_in(item)
            elif after & {name.id for name in ast.walk(item) if isinstance(name, ast.Name)}:
                after |= bound_in(item)
                late.append(item)
            else:
                early.append(item)
        return replaced(node, body=[*early, *kept, *late] or [ast.Pass()])
    return node


def text_of(part: Part, names: Mapping[str, str]) -> str:
    """The text of a statement with the methods that were kept, with other names for some of its globals."""
    texts = _TEXTS.setdefault(part.statement, {})
    key = (frozenset(names.items()), *part.kept_in_order())
    if key not in texts:
        texts[key] = ast.unparse(ast.fix_missing_locations(renamed(with_methods(part), names)))
    return texts[key]


def holds_annotations(node: ast.stmt) -> bool:
    """Is anything annotated in a statement?"""
    if node not in _ANNOTATED:
        _ANNOTATED[node] = any(map(is_annotated, ast.walk(node)))
    return _ANNOTATED[node]


def _loaded(node: ast.AST) -> set[str]:
    """Names that a statement of a class reads or deletes."""
    return {item.id for item in ast.walk(node) if isinstance(item, ast.Name) and not isinstance(item.ctx, ast.Store)}


def names_bound(part: Part) -> set[str]:
    """Names of its module that the statement binds or fills."""
    return part.module.names_at.get(part.place, set())


def bound_in(statement: ast.stmt) -> set[str]:
    """Names that a statement of a class or module binds."""
    if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
        return {statement.name}
    targets = {
        part.id for part in ast.walk(statement) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    }
    return targets | {item.name for item in ast.walk(statement) if isinstance(item, (*FUNCTIONS, ast.ClassDef))}


def is_special(name: str) -> bool:
    """True for names such as ``__init__``, which Python calls by itself."""
    return name.startswith("__") and name.endswith("__")


def decorator_name(node: ast.expr) -> str:
    """The last part of the name of a decorator, called or not; "" when it has none."""
    inner = node.func if isinstance(node, ast.Call) else node
    return inner.attr if isinstance(inner, ast.Attribute) else inner.id if isinstance(inner, ast.Name) else ""


def of_library(module: Module, base: ast.expr) -> set[str]:
    """Names that a class of the standard library defines, if `base` is one other than object; else none."""
    names: list[str] = []
    inner = base
    while isinstance(inner, ast.Attribute):
        names.insert(0, inner.attr)
        inner = inner.value
    if not isinstance(inner, ast.Name):
        return set()
    places = module.binding.get(inner.id)
    statement = module.statements[places[-1]] if places else None
    found: object = builtins
    try:
        if isinstance(statement, ast.ImportFrom) and not statement.level:
            if (statement.module or "").split(".")[0] not in sys.stdlib_module_names:
                return set()
            found = importlib.import_module(statement.module or "")
            names.insert(0, statement.names[0].name)
        elif isinstance(statement, ast.Import):
            name = statement.names[0].name
            if name.split(".")[0] not in sys.stdlib_module_names:
                return set()
            found = importlib.import_module(name if statement.names[0].asname else name.split(".")[0])
        elif statement is None:
            names.insert(0, inner.id)
        else:
            return set()
        for name in names:
            found = getattr(found, name)
    except (ImportError, AttributeError):
        return set()
    return set(dir(found)) if isinstance(found, type) and found is not object else set()


def is_library(module: Module, name: str) -> bool:
    """May an annotation use `name`: is it built in, or imported from the standard library?"""
    places = module.binding.get(name)
    if not places:
        return name in BUILTIN
    statement = module.statements[places[-1]]
    if not isinstance(statement, IMPORTS):
        return False
    try:
        check_imports(statement)
    except Refused:
        return False
    return True
