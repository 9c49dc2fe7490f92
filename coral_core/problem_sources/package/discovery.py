"""Finds the functions and methods of a directory and the code that each needs to stand alone. Runs nothing."""

import ast
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import Field

from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from coral_core.problem_sources.package.modules import Function, Module, Project, first_line, functions_of
from coral_core.problem_sources.package.project_copy import is_output
from coral_core.problem_sources.package.rewriting import Refused as Refused
from coral_core.problem_sources.package.standalone import standalone

SKIPPED = {"node_modules", "site-packages", "__pycache__"}
SKIPPED_AT_ROOT = {"build", "dist", "env", "venv"}
TEST_FOLDERS = {"test", "tests"}
NOT_CODE = {"setup.py", "conftest.py", "noxfile.py", "tests.py", "test.py"}
MOST_FILES = 5_000


class SourceFunction(Frozen):
    """A function or method of the directory."""

    file: str
    name: str
    line: int
    first: int = Field(
        0, description="First line of its code: that of its first decorator where it has one; 0: not observed."
    )
    method: str = Field("", description="instance, class or static for a method; empty for a function of a module.")
    again: int = Field(0, description="Its line where an earlier definition of the file has its name; else 0.")
    entry_point: str = Field("", description="Its name in the standalone module.")
    reason: str = Field("", description="Why it cannot become problems; empty when it may.")
    before: str = Field("", description="Imports, constants and helpers that it needs.")
    text: str = Field("", description="Its own text.")
    needs: tuple[str, ...] = Field((), description="Own functions and classes in `before`, as file:name, sorted.")

    @property
    def key(self) -> str:
        """Unique in the directory: file:name, with the line of a second definition."""
        return f"{self.file}:{self.name}" + (f"@{self.again}" if self.again else "")

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
        text = "".join(letter if letter.isprintable() else " " for letter in text)[:1000]
        return SourceFunction(
            file=self.file,
            name=self.name,
            line=self.line,
            first=self.first,
            method=self.method,
            again=self.again,
            reason=text,
        )


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
            if name[0] != "."
            and name not in SKIPPED
            and not (path / name / "pyvenv.cfg").exists()
            and not (path == root and (name in SKIPPED_AT_ROOT or is_output(path / name)))
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


def project_of(root: Path) -> Project:
    """The modules of the code below `root`.

    Raises:
        ConfigError: there is no Python file, or there are too many.
    """
    paths = sorted(here / name for here, files in walk(root) for name in files if name.endswith(".py"))
    if not paths:
        raise ConfigError(
            f"problems.path: {root}: no Python file in it", remedy="Give a directory of functions and their tests."
        )
    names = [path.relative_to(root).as_posix() for path in paths if path.is_file()]
    return Project(root, [name for name in names if not is_test(name)], module_name)


def discover(root: Path, project: Project | None = None, files: Collection[str] | None = None) -> list[SourceFunction]:
    """Every function and method of the code below `root`, in the order of files and lines.

    Args:
        root: The directory.
        project: As `project_of` the directory; None: it is read.
        files: Only the functions of these files; None: of all.

    Raises:
        ConfigError: there is no Python file, or there are too many.
    """
    project = project or project_of(root)
    found: list[SourceFunction] = []
    for module in project.modules.values():
        if files is None or module.file in files:
            found += _functions(project, module)
    for file, error in project.broken.items():
        whole = SourceFunction(file=file, name="(the file)", line=getattr(error, "lineno", 1) or 1)
        found.append(whole.refused(f"the file does not parse: {error}"))
    return sorted(found, key=lambda item: (item.file, item.line))


def module_name(path: Path) -> tuple[str, str]:
    """The folder from which the module at `path` is imported, and its name there."""
    parts = [] if path.name == "__init__.py" else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    return str(folder), ".".join(parts)


def _functions(project: Project, module: Module) -> Iterator[SourceFunction]:
    seen: set[str] = set()

    for node, owners in functions_of(module.statements):
        if _is_overload(node):
            continue
        name = ".".join(item.name for item in (*owners, node))
        again = node.lineno if name in seen else 0
        seen.add(name)
        function = SourceFunction(
            file=module.file,
            name=name,
            line=node.lineno,
            first=first_line(node) if isinstance(node, ast.FunctionDef) else 0,
            method=_kind_of(node) if owners else "",
            again=again,
        )
        yield _standing_alone(project, module, node, owners, function, {})


def completed(project: Project, function: SourceFunction, classes: Mapping[str, str]) -> SourceFunction:
    """The function with the definitions of further classes before it, whose instances it takes or gives.

    Args:
        project: As `project_of` the directory.
        function: The function.
        classes: Qualified name -> file.

    Returns:
        The function, or the function refused.
    """
    module = project.modules[function.file]
    for node, owners in functions_of(module.statements):
        if node.lineno == function.line:
            return _standing_alone(project, module, node, owners, function, classes)
    return function.refused("its definition is not found again")


def _standing_alone(
    project: Project,
    module: Module,
    node: Function,
    owners: Sequence[ast.ClassDef],
    function: SourceFunction,
    classes: Mapping[str, str],
) -> SourceFunction:
    try:
        made = standalone(project, module, node, owners, function.method, classes)
    except Refused as refused:
        return function.refused(str(refused))
    except Exception as error:  # a definition that nobody foresaw, or one too large to parse: others are not affected
        return function.refused(f"its text cannot be taken apart ({type(error).__name__}: {error})")
    return function.model_copy(
        update={"entry_point": made.entry_point, "before": made.before, "text": made.text, "needs": made.needs}
    )


def _kind_of(node: Function) -> str:
    names = {item.id for item in node.decorator_list if isinstance(item, ast.Name)}
    implicit = node.name in ("__init_subclass__", "__class_getitem__")
    return "static" if "staticmethod" in names else "class" if "classmethod" in names or implicit else "instance"


def _is_overload(node: Function) -> bool:
    return any(ast.unparse(item).rpartition(".")[2] == "overload" for item in node.decorator_list)
