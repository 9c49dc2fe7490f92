"""Rules of the house that a reader would otherwise have to remember (design.md)."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("coral_core", "flows", "deployments")
MODULES = sorted(path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py"))
KNOWN = {
    ".ci", ".git", ".gitignore", ".github", ".dockerignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "SECURITY.md",
    "benchmarks", "configs", "constraints.txt", "coral_core", "deployments", "docs", "flows", "prefect.yaml", "pyproject.toml", "tests",
    ".prefectignore",
}  # fmt: skip
ROOMS = {"config", "ledger", "lm", "queue", "repair", "report", "scoring", "search", "verification"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "service", "misc"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules that `tree` imports, at the top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def at_top(tree: ast.Module) -> Iterator[str]:
    """Modules that are imported as soon as `tree` is."""
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imported(node)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [path for path in MODULES if path.is_relative_to(ROOT / "coral_core")], ids=name_of)
def test_the_engine_knows_nothing_of_prefect_and_flows(path: Path) -> None:
    outside = [name for name in imported(parsed(path)) if name.split(".")[0] in ("prefect", "flows")]
    assert outside == []


OWN_PROCESS = {"recorder.py", "zygote.py", "form.py", "syntax.py"}


@pytest.mark.parametrize("path", [path for path in MODULES if path.name not in OWN_PROCESS], ids=name_of)
def test_lanes_parse_one_at_a_time(path: Path) -> None:
    """`ast.parse` in two threads at once raises a SystemError now and then; `coral_core.syntax.parse` does not."""
    calls = [
        node.lineno
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and node.attr == "parse" and getattr(node.value, "id", "") == "ast"
    ]
    assert calls == []


@pytest.mark.parametrize("path", sorted((ROOT / "flows" / "cli").glob("*.py")), ids=name_of)
def test_commands_start_without_heavy_imports(path: Path) -> None:
    heavy = [
        name
        for name in at_top(parsed(path))
        if name.split(".")[0] in ("torch", "prefect", "matplotlib", "transformers", "peft")
    ]
    assert heavy == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_pickle_no_torch_load_no_builtin_hash(path: Path) -> None:
    """Between processes goes plain JSON; weights are safetensors; hash() differs from process to process."""
    tree = parsed(path)
    found = [
        name for name in imported(tree) if name.split(".")[0] in ("pickle", "cloudpickle", "dill", "joblib", "shelve")
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "hash":
            found.append(f"hash( on line {node.lineno}")
        if isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == "torch.load":
            found.append(f"torch.load on line {node.lineno}")
    assert found == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is(path: Path) -> None:
    tree = parsed(path)
    assert not tree.body or ast.get_docstring(tree), "a module begins with a docstring"


def test_names_say_what_is_inside() -> None:
    assert [name_of(path) for path in MODULES if path.stem in VAGUE or path.parent.name in VAGUE] == []


def test_rooms_of_the_engine_know_each_other_only_where_data_must_pass() -> None:
    """scoring -> repair and lm -> repair (for the prompt); report reads what all leave behind."""
    allowed = {("scoring", "repair"), ("lm", "repair"), ("repair", "scoring")}
    crossings = set()
    for path in MODULES:
        if not path.is_relative_to(ROOT / "coral_core"):
            continue
        room = path.relative_to(ROOT / "coral_core").parts[0]
        for name in imported(parsed(path)):
            parts = name.split(".")
            if parts[0] == "coral_core" and len(parts) > 1 and parts[1] in {"search", "repair", "lm", "scoring"}:
                crossings.add((room, parts[1]))
    crossings = {
        (room, other) for room, other in crossings if room != other and room in {"search", "repair", "lm", "scoring"}
    }
    assert crossings <= allowed


def test_the_top_level_is_the_one_of_the_plan() -> None:
    """Only what git would carry counts: environments and caches are ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} <= KNOWN
    rooms = {path.name for path in (ROOT / "coral_core").iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert rooms == ROOMS
