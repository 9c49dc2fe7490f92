"""Finds the functions of a directory and the code that each needs to stand alone. Works on syntax trees and runs nothing.

A function can stand alone when everything it needs, directly or indirectly, is in its own module or in the standard
library. Its text is then imports, constants, helpers and the function, written by `ast.unparse`. Comments are left out;
so are examples in docstrings, which hold answers, and annotations with names that are not available.
"""

import ast
import builtins
import doctest
import os
import symtable
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pydantic import Field

from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from coral_core.syntax import UNPARSABLE, bound_names, parse

SKIPPED = {"build", "dist", "env", "node_modules", "site-packages", "venv", "__pycache__"}
TEST_FOLDERS = {"test", "tests"}
NOT_CODE = {"setup.py", "conftest.py", "noxfile.py"}
MOST_FILES = 5_000
CLOCKS = {"now", "today", "utcnow"}
_BUILTIN = set(dir(builtins))
_FUTURE = "from __future__ import annotations"


class Refused(Exception):  # noqa: N818 (a finding about a function)
    """A function cannot become problems; the text gives the reason."""


class SourceFunction(Frozen):
    """A function of the directory."""

    file: str
    name: str
    line: int
    first: int = Field(0, description="First line of its code: that of its first decorator where it has one.")
    method: str = Field("", description="instance, class or static for a method; empty for a function of a module.")
    reason: str = Field("", description="Why it cannot become problems; empty when it may.")
    before: str = Field("", description="Imports, constants and helpers that it needs.")
    text: str = Field("", description="Its own text.")
    needs: tuple[str, ...] = Field((), description="Own functions and classes in `before`, as file:name, sorted.")

    @property
    def key(self) -> str:
        """Unique in the directory: file:name."""
        return f"{self.file}:{self.name}"

    @property
    def source(self) -> str:
        """The standalone module."""
        return self.whole(self.text)

    def whole(self, text: str) -> str:
        """The standalone module with `text` in place of the function's own."""
        return f"{self.before}\n\n\n{text}" if self.before else text

    def refused(self, reason: str) -> "SourceFunction":
        """The function with a reason in place of its text. A reason may contain the user's names; it is made one printable line."""
        text = reason.encode("utf-8", "backslashreplace").decode()
        text = "".join(letter if letter.isprintable() else " " for letter in text)[:300]
        return SourceFunction(file=self.file, name=self.name, line=self.line, reason=text)


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders below `root` and the names of their files, without hidden folders, environments and builds.

    Raises:
        ConfigError: there are more Python files than one package has.
    """
    python_files = 0
    for folder, folders, files in os.walk(root):
        path = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if name[0] != "." and name not in SKIPPED and not (path / name / "pyvenv.cfg").exists()
        )
        python_files += sum(name.endswith(".py") for name in files)
        if python_files > MOST_FILES:
            raise ConfigError(
                f"problems.path: {root}: more than {MOST_FILES} Python files",
                remedy="Give the directory of one package and its tests.",
            )
        yield path, files


def is_test(path: str) -> bool:
    """True when a file is part of the tests or of the build, not of the code.

    Args:
        path: Relative to the directory.

    Example:
        >>> is_test("tests/cases.py"), is_test("pkg/test_add.py"), is_test("pkg/add.py")
        (True, True, False)
    """
    *folders, name = path.split("/")
    return (
        name.startswith("test_") or name.endswith("_test.py") or name in NOT_CODE or bool(TEST_FOLDERS & set(folders))
    )


def discover(root: Path) -> list[SourceFunction]:
    """Every function and method of the code below `root`, in the order of files and lines.

    Raises:
        ConfigError: there is no Python file, or there are too many.
    """
    paths = sorted(here / name for here, files in walk(root) for name in files if name.endswith(".py"))
    if not paths:
        raise ConfigError(
            f"problems.path: {root}: no Python file in it", remedy="Give a directory of functions and their tests."
        )
    found: list[SourceFunction] = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        if is_test(name):
            continue
        try:
            found += _functions(name, parse(path.read_bytes()))
        except UNPARSABLE as error:
            whole = SourceFunction(file=name, name="(the file)", line=getattr(error, "lineno", 1) or 1)
            found.append(whole.refused(f"the file does not parse: {error}"))
    return found


def _functions(file: str, tree: ast.Module) -> Iterator[SourceFunction]:
    module = _Module(file, tree)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    function = SourceFunction(file=file, name=f"{node.name}.{method.name}", line=method.lineno)
                    yield function.refused("a method: only functions of a module are recorded")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = SourceFunction(file=file, name=node.name, line=node.lineno, first=first_line(node))
            try:
                yield module.standalone(node, function)
            except Refused as refused:
                yield function.refused(str(refused))
            except UNPARSABLE as error:
                yield function.refused(f"its text cannot be taken apart ({type(error).__name__}: {error})")


def first_line(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """First line of the code of a function, as its code object gives it."""
    return min([node.lineno, *(item.lineno for item in node.decorator_list)])


class _Module:
    """The statements of one module by the names they bind."""

    def __init__(self, file: str, tree: ast.Module) -> None:
        self.file = file
        self.statements: list[ast.stmt] = []
        self.binding: dict[str, list[int]] = {}
        self.future = self.stars = False
        for statement in _single_imports(tree.body):
            if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
                self.future = self.future or statement.names[0].name == "annotations"
            elif isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*":
                self.stars = True
            elif not _is_guarded(statement):
                for name in _bound(statement):
                    self.binding.setdefault(name, []).append(len(self.statements))
                self.statements.append(statement)

    def standalone(self, node: ast.FunctionDef | ast.AsyncFunctionDef, bare: SourceFunction) -> SourceFunction:
        """`bare` with its text and all that it needs. Raises `Refused`."""
        if isinstance(node, ast.AsyncFunctionDef):
            raise Refused("an asynchronous function: the judge calls plain functions")
        if sum(isinstance(self.statements[place], ast.FunctionDef) for place in self.binding[node.name]) > 1:
            raise Refused("defined more than once in its module")
        function = self._cleaned(node)
        needed: set[int] = set()
        self._collect(function, node.name, needed)
        others = [self._cleaned(self.statements[place]) for place in sorted(needed)]
        others.sort(key=lambda other: not isinstance(other, (ast.Import, ast.ImportFrom)))
        parts = [part for whole in (*others, function) for part in ast.walk(whole)]
        if any(isinstance(part, ast.Attribute) and part.attr in CLOCKS for part in parts):
            raise Refused("reads the clock: its results change from day to day")
        texts = [ast.unparse(ast.fix_missing_locations(other)) for other in others]
        if self.future and any(map(_is_annotated, parts)):
            texts.insert(0, _FUTURE)
        own = ast.unparse(ast.fix_missing_locations(function))
        definitions = (self.statements[place] for place in needed)
        needs = {f"{self.file}:{s.name}" for s in definitions if isinstance(s, (ast.FunctionDef, ast.ClassDef))}
        return bare.model_copy(update={"before": _joined(texts), "text": own, "needs": tuple(sorted(needs))})

    def _collect(self, statement: ast.stmt, owner: str, needed: set[int]) -> None:
        """Add the places of what `statement` needs, and of what that needs. Raises `Refused`."""
        for name in sorted(_free_names(statement) - {owner}):
            if name not in self.binding and name not in _BUILTIN:
                why = "may come from a star import" if self.stars else "its module does not define"
                raise Refused(f"uses the name {name}, which {why}")
            for place in self.binding.get(name, ()):
                if place not in needed:
                    needed.add(place)
                    _check_imports(self.statements[place])
                    self._collect(self._cleaned(self.statements[place]), owner, needed)

    def _cleaned(self, statement: ast.stmt) -> ast.stmt:
        """A copy without examples in docstrings and without annotations that need what is not there."""
        copy = parse(ast.unparse(statement)).body[0]
        cleaned: ast.stmt = _Clean(self._available).visit(copy)
        return cleaned

    def _available(self, name: str) -> bool:
        """May an annotation use `name`?"""
        places = self.binding.get(name, ())
        if not places:
            return name in _BUILTIN
        try:
            for place in places:
                _check_imports(self.statements[place])
        except Refused:
            return False
        return True


class _Clean(ast.NodeTransformer):
    """Removes answers (examples in docstrings), and annotations with names that are not `available`."""

    def __init__(self, available: Callable[[str], bool]) -> None:
        self._available = available

    def _kept(self, annotation: ast.expr | None) -> ast.expr | None:
        if annotation is None:
            return None
        for part in ast.walk(annotation):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                return None
            if isinstance(part, ast.Name) and not self._available(part.id):
                return None
        return annotation

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = self._kept(node.annotation)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = self._kept(node.annotation) or ast.Name("object", ast.Load())
        return self.generic_visit(node)

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.AST:
        text = ast.get_docstring(node)
        if text is not None:
            plain = _without_examples(text)
            rest = node.body[1:]
            node.body = [ast.Expr(ast.Constant(plain)), *rest] if plain else rest or [ast.Pass()]
        if not isinstance(node, ast.ClassDef):
            node.returns = self._kept(node.returns)
        return self.generic_visit(node)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _definition  # noqa: N815 (names that ast calls)


def _without_examples(docstring: str) -> str:
    """`docstring` up to its first example. A text that doctest cannot read is dropped whole."""
    try:
        before, *_ = doctest.DocTestParser().parse(docstring)
    except ValueError:
        return ""
    return str(before).strip()


def _single_imports(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, with one import per name."""
    for statement in body:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield ast.copy_location(ast.Import([alias]), statement)
        elif isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                yield ast.copy_location(ast.ImportFrom(statement.module, [alias], statement.level), statement)
        else:
            yield statement


def _is_guarded(statement: ast.stmt) -> bool:
    """True for ``if __name__ == "__main__"`` and ``if TYPE_CHECKING``, whose blocks do not run on import."""
    names = (
        {part.id for part in ast.walk(statement.test) if isinstance(part, ast.Name)}
        if isinstance(statement, ast.If)
        else set()
    )
    return bool(names & {"__name__", "TYPE_CHECKING"})


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement at module level binds, in blocks below it too."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    return bound_names(statement)


def _check_imports(statement: ast.stmt) -> None:
    """Raises `Refused` when `statement` imports more than the standard library."""
    for part in ast.walk(statement):
        if isinstance(part, ast.ImportFrom) and part.level:
            raise Refused(f"needs a relative import on line {part.lineno} (from {'.' * part.level}{part.module or ''})")
        if not isinstance(part, (ast.Import, ast.ImportFrom)):
            continue
        for module in [alias.name for alias in part.names] if isinstance(part, ast.Import) else [part.module or ""]:
            if module.split(".")[0] not in sys.stdlib_module_names:
                raise Refused(f"needs {module} (line {part.lineno}), which is not in the standard library")


def _free_names(statement: ast.stmt) -> set[str]:
    """Names that `statement` takes from its module. Raises `Refused` for an import it may not have."""
    _check_imports(statement)
    names: set[str] = set()

    def walk(table: symtable.SymbolTable, top: bool) -> None:
        for symbol in table.get_symbols():
            if symbol.is_global() if not top else symbol.is_referenced() or symbol.is_global():
                names.add(symbol.get_name())
        for child in table.get_children():
            walk(child, False)

    walk(symtable.symtable(ast.unparse(ast.fix_missing_locations(statement)), "module", "exec"), True)
    return names if isinstance(statement, ast.AugAssign) else names - _bound(statement)


def _is_annotated(part: ast.AST) -> bool:
    if isinstance(part, ast.FunctionDef):
        return part.returns is not None
    return isinstance(part, ast.AnnAssign) or (isinstance(part, ast.arg) and part.annotation is not None)


def _joined(texts: list[str]) -> str:
    """Statements as one text: two blank lines around definitions, none between lines that belong together."""
    whole = ""
    for text in texts:
        block = "\n" in text
        whole += text if not whole else f"\n\n\n{text}" if block or whole.endswith("\n") else f"\n{text}"
        whole += "\n" if block else ""
    return whole.rstrip("\n")
