"""The modules of a project, as syntax trees: what each binds at its top level, and which module an import means."""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path

from coral_core.syntax import UNPARSABLE, bound_names, filled_names, parse

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
IMPORTS = (ast.Import, ast.ImportFrom)


class Module:
    """The statements of one module by the names that they bind.

    Args:
        file: Path of the module, relative to the project.
        name: Its name, as other modules import it.
        tree: Its syntax tree.
        own: Top-level names of the project's own modules, which an import finds.
    """

    def __init__(self, file: str, name: str, tree: ast.Module, own: Collection[str] = ()) -> None:
        self.file, self.name = file, name
        self.is_package = file.endswith("__init__.py")
        self.future = False
        self.stars: list[ast.ImportFrom] = []
        self.stars_before: dict[int, list[ast.ImportFrom]] = {}
        """Place of a statement -> the star imports right before it."""
        self.statements: list[ast.stmt] = []
        self.binding: dict[str, list[int]] = {}
        self.filling: dict[str, list[int]] = {}
        live = list(_live(tree.body, own))
        fillers = {node.name: filled_names(ast.Module(node.body, [])) for node in live if isinstance(node, FUNCTIONS)}
        for statement in live:
            if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
                self.future = self.future or statement.names[0].name == "annotations"
            elif isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*":
                self.stars.append(statement)
                self.stars_before.setdefault(len(self.statements), []).append(statement)
            else:
                place = len(self.statements)
                self.statements.append(statement)
                bound = _bound(statement)
                for name_bound in bound:
                    self.binding.setdefault(name_bound, []).append(place)
                for name_filled in filled_names(statement, fillers) - bound:
                    self.filling.setdefault(name_filled, []).append(place)

    @cached_property
    def names_at(self) -> dict[int, set[str]]:
        """Place of a statement -> the names that it binds or fills."""
        found: dict[int, set[str]] = {}
        for name, places in (*self.binding.items(), *self.filling.items()):
            for place in places:
                found.setdefault(place, set()).add(name)
        return found

    def places(self, name: str) -> list[int]:
        """Places of the statements that bind or fill `name`; empty when none binds it."""
        bound = self.binding.get(name, [])
        return sorted({*bound, *self.filling.get(name, ())}) if bound else []

    def base_of(self, statement: ast.ImportFrom) -> str:
        """Name of the module that ``from X import`` names, with relative ones resolved."""
        if not statement.level:
            return statement.module or ""
        parts = self.name.split(".") if self.name else []
        parts = parts[: len(parts) - statement.level + self.is_package]
        return ".".join([*parts, *([statement.module] if statement.module else [])])


class Project:
    """The modules of a project.

    Args:
        root: Its directory.
        files: Its Python files that are code, relative to it.
        name_of: File -> the folder from which it is imported, and its name there.
    """

    def __init__(self, root: Path, files: Sequence[str], name_of: Callable[[Path], tuple[str, str]]) -> None:
        self.modules: dict[str, Module] = {}
        self.broken: dict[str, Exception] = {}
        self._by_name: dict[str, str] = {}
        for file in files:
            _, name = name_of(root / file)
            parts = file.removesuffix(".py").removesuffix("/__init__").split("/")
            for dotted in (".".join(parts[1:]) if parts[0] in ("src", "lib", "python") else ".".join(parts), name):
                if dotted and dotted != "__init__":
                    self._by_name[dotted] = file
        own = {dotted.split(".")[0] for dotted in self._by_name}
        for file in files:
            try:
                self.modules[file] = Module(file, name_of(root / file)[1], parse((root / file).read_bytes()), own)
            except (*UNPARSABLE, OSError) as error:
                self.broken[file] = error

    @cached_property
    def executed(self) -> dict[tuple[str, int], int]:
        """File and place of each statement -> its turn when all modules are imported, packages before what is in them.

        Definitions in this order find what they need, as they do in the project.
        """
        begun: set[str] = set()
        turns: dict[tuple[str, int], int] = {}

        def import_module(name: str) -> None:
            parts = name.split(".")
            for length in range(1, len(parts) + 1):
                if (module := self.find(".".join(parts[:length]))) is not None and module.file not in begun:
                    begun.add(module.file)
                    run(module)

        def run(module: Module) -> None:
            for place, statement in enumerate([*module.statements, None]):
                for part in (*module.stars_before.get(place, ()), *_outside_functions(statement)):
                    if isinstance(part, ast.ImportFrom):
                        import_module(base := module.base_of(part))
                        for alias in part.names:
                            import_module(f"{base}.{alias.name}")
                    elif isinstance(part, ast.Import):
                        for alias in part.names:
                            import_module(alias.name)
                turns[module.file, place] = len(turns)

        for name in sorted(self._by_name, key=lambda name: (name.count("."), name)):
            import_module(name)
        return turns

    def find(self, name: str) -> Module | None:
        """The project's module called `name`; None for a module of someone else."""
        file = self._by_name.get(name)
        return None if file is None else self.modules.get(file)

    def defines(self, module: Module, name: str, attribute: str) -> bool:
        """True when `module`, imported as `name`, defines `attribute` other than as the module of that name below it."""
        statements = [module.statements[place] for place in module.places(attribute)]
        return bool(statements) and not all(
            isinstance(item, ast.ImportFrom)
            and (module.base_of(item), item.names[0].name, attribute) == (name, attribute, attribute)
            for item in statements
        )

    def knows(self, name: str) -> bool:
        """True when `name` or the package that it begins with is the project's own."""
        return name in self._by_name or any(other.startswith(f"{name}.") for other in self._by_name)


def _outside_functions(node: ast.AST | None) -> Iterator[ast.AST]:
    """`node` and what is below it, but for the bodies of functions."""
    if node is None or isinstance(node, (*FUNCTIONS, ast.Lambda)):
        return
    yield node
    for part in ast.iter_child_nodes(node):
        yield from _outside_functions(part)


def first_line(node: Function) -> int:
    """First line of the code of a function, as its code object gives it."""
    return min([node.lineno, *(item.lineno for item in node.decorator_list)])


def definitions(statements: Sequence[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    """Functions and classes that `statements` define, also in blocks (`if`, `try`, ...), in order."""
    for statement in statements:
        if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
            yield statement
            continue
        for _, held in ast.iter_fields(statement):
            for part in held if isinstance(held, list) else ():
                if isinstance(part, ast.stmt):
                    yield from definitions([part])
                elif isinstance(part, (ast.ExceptHandler, ast.match_case)):
                    yield from definitions(part.body)


def functions_of(
    statements: Sequence[ast.stmt], owners: tuple[ast.ClassDef, ...] = ()
) -> Iterator[tuple[Function, tuple[ast.ClassDef, ...]]]:
    """Functions and methods that `statements` define, in order, with the classes around each, the outermost first."""
    for item in definitions(statements):
        if isinstance(item, ast.ClassDef):
            yield from functions_of(item.body, (*owners, item))
        else:
            yield item, owners


def _live(body: Sequence[ast.stmt], own: Collection[str]) -> Iterator[ast.stmt]:
    """The statements of a module that run on import in the judge's child, with one import per name.

    Blocks below a condition about Python's version, ``TYPE_CHECKING`` or ``__name__`` are replaced by the branch that runs
    there, and so are ``try`` statements about imports: only the standard library and the project itself are found there.
    """
    for statement in body:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield ast.copy_location(ast.Import([alias]), statement)
        elif isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                yield ast.copy_location(ast.ImportFrom(statement.module, [alias], statement.level), statement)
        elif isinstance(statement, ast.If) and (truth := _known(statement.test)) is not None:
            yield from _live(statement.body if truth else statement.orelse, own)
        elif isinstance(statement, ast.Try) and (branch := _imported(statement, own)) is not None:
            yield from _live([*branch, *statement.finalbody], own)
        else:
            yield statement


def _imported(statement: ast.Try, own: Collection[str]) -> list[ast.stmt] | None:
    """The branch of a ``try`` about imports that runs in the judge's child; None for any other statement."""
    handler = next((item for item in statement.handlers if catches_import_errors(item)), None)
    imports = [item for item in statement.body if isinstance(item, IMPORTS)]
    if handler is None or not imports:
        return None
    if not all(_is_found(item, own) for item in imports):
        return list(handler.body)
    return [*statement.body, *statement.orelse] if len(imports) == len(statement.body) else None


def catches_import_errors(handler: ast.ExceptHandler) -> bool:
    """True for ``except ImportError`` and what includes it."""
    return handler.type is None or any(
        name in ast.unparse(handler.type) for name in ("ImportError", "ModuleNotFound", "Exception")
    )


def _is_found(statement: ast.stmt, own: Collection[str]) -> bool:
    """Does an import find all that it names in the standard library or in the project itself?"""
    if isinstance(statement, ast.ImportFrom):
        base = statement.module or ""
        if statement.level or base.split(".")[0] in own:
            return True
        names = [alias.name for alias in statement.names]
        return in_library(base) and all(name == "*" or in_library(base, name) for name in names)
    return isinstance(statement, ast.Import) and all(
        alias.name.split(".")[0] in own or in_library(alias.name) for alias in statement.names
    )


@cache
def in_library(module: str, name: str = "") -> bool:
    """Does the standard library have this module, and this name in it?"""
    if module.split(".")[0] not in sys.stdlib_module_names or module in ("antigravity", "this"):
        return False
    try:
        found = importlib.import_module(module)
        return not name or hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}") is not None
    except Exception:  # a module of another platform
        return False


def _known(test: ast.expr) -> bool | None:
    """The truth of a condition that is known before the module runs; None for any other."""
    names = {part.id for part in ast.walk(test) if isinstance(part, ast.Name)}
    if names & {"TYPE_CHECKING", "__name__"} or (names == {"typing"} and "TYPE_CHECKING" in ast.unparse(test)):
        return False
    known = {"sys": sys, "hexversion": sys.hexversion, "version_info": sys.version_info}
    if names and names <= known.keys() and all(isinstance(part, _SIMPLE) for part in ast.walk(test)):
        attributes = {part.attr for part in ast.walk(test) if isinstance(part, ast.Attribute)}
        if attributes <= {"version_info", "hexversion", "major", "minor", "platform"}:
            try:
                return bool(eval(compile(ast.Expression(test), "<condition>", "eval"), {"__builtins__": {}, **known}))
            except Exception:  # an odd comparison of the project's own
                return None
    return None


_SIMPLE = (
    ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop, ast.Attribute, ast.Subscript, ast.Slice,
    ast.Tuple, ast.Constant, ast.Name, ast.expr_context,
)  # fmt: skip
"""Nodes of a condition that is evaluated here: none calls anything."""


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement at module level binds, in blocks below it too."""
    if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
        return {statement.name}
    return bound_names(statement)
