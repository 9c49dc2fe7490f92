"""Rules of the house that a reader would otherwise have to remember (design.md)."""

import ast
import subprocess
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("coral_core", "flows", "deployments")
MODULES = sorted(path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py"))
KNOWN = {
    ".ci", ".git", ".gitignore", ".github", ".dockerignore", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "SECURITY.md",
    "benchmarks", "configs", "constraints.txt", "coral_core", "deployments", "docs", "examples", "flows", "prefect.yaml", "pyproject.toml", "tests",
    ".prefectignore",
}  # fmt: skip
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


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


ENGINE = [path for path in MODULES if path.is_relative_to(ROOT / "coral_core")]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def against(rule: Callable[[Path], Iterable[object]], paths: Iterable[Path]) -> dict[str, list[object]]:
    """File -> what in it is against the rule."""
    found = {name_of(path): list(rule(path)) for path in paths}
    return {name: places for name, places in found.items() if places}


def test_the_engine_knows_nothing_of_prefect_and_flows() -> None:
    def outside(path: Path) -> Iterator[str]:
        return (name for name in imported(parsed(path)) if name.split(".")[0] in ("prefect", "flows"))

    assert against(outside, ENGINE) == {}


OWN_PROCESS = {"run_tests.py", "quixbugs_recorder.py", "zygote.py", "source_form.py", "syntax.py"}


def test_lanes_parse_one_at_a_time() -> None:
    """`ast.parse` in two threads at once raises a SystemError now and then; `coral_core.syntax.parse` does not."""

    def calls(path: Path) -> Iterator[int]:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Attribute) and node.attr == "parse" and getattr(node.value, "id", "") == "ast":
                yield node.lineno

    assert against(calls, (path for path in MODULES if path.name not in OWN_PROCESS)) == {}


def test_commands_start_without_heavy_imports() -> None:
    packages = ("torch", "prefect", "matplotlib", "transformers", "peft")

    def heavy(path: Path) -> Iterator[str]:
        return (name for name in at_top(parsed(path)) if name.split(".")[0] in packages)

    assert against(heavy, (ROOT / "flows" / "cli").glob("*.py")) == {}


def test_no_pickle_no_torch_load_no_builtin_hash() -> None:
    """Between processes goes plain JSON; weights are safetensors; hash() differs from process to process."""

    def unsafe(path: Path) -> Iterator[str]:
        packages = ("pickle", "cloudpickle", "dill", "joblib", "shelve")
        yield from (name for name in imported(parsed(path)) if name.split(".")[0] in packages)
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id == "hash":
                yield f"hash( on line {node.lineno}"
            if isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == "torch.load":
                yield f"torch.load on line {node.lineno}"

    assert against(unsafe, MODULES) == {}


def test_every_module_says_what_it_is() -> None:
    without = [name_of(path) for path in MODULES if (tree := parsed(path)).body and not ast.get_docstring(tree)]
    assert without == [], "a module begins with a docstring"


BOUNDARY = ROOT / "flows" / "prefect_api"
BEHIND_THE_BOUNDARY = ("httpx", "urllib.request", "prefect.settings", "prefect.runtime.deployment")


def beyond_the_boundary(tree: ast.AST) -> Iterator[str]:
    """What only flows/prefect_api may do: read Prefect's settings, make its clients, ask its REST API."""
    yield from (name for name in imported(tree) if name in BEHIND_THE_BOUNDARY)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "prefect.client.orchestration":
            yield from (alias.name for alias in node.names if alias.name == "get_client")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.startswith("PREFECT_") and node.value.replace("_", "").isalnum():
                yield node.value
            if node.value == "/api":
                yield "an address that ends in /api"


def test_one_room_knows_prefects_settings_and_rest_api() -> None:
    others = (path for path in MODULES if path.parent != BOUNDARY)
    assert against(lambda path: beyond_the_boundary(parsed(path)), others) == {}


@pytest.mark.parametrize(
    "code",
    [
        "import httpx",
        "from prefect.settings import PREFECT_API_URL",
        "from prefect.client.orchestration import get_client",
        'os.environ["PREFECT_API_URL"]',
        'url.removesuffix("/api")',
    ],
)
def test_the_rule_of_the_boundary_sees(code: str) -> None:
    assert list(beyond_the_boundary(ast.parse(code)))


def test_names_say_what_is_inside() -> None:
    assert [name_of(path) for path in MODULES if path.stem in VAGUE or path.parent.name in VAGUE] == []


ORDER = (
    "config", "problems", "prompting", "judge", "scoring", "problem_sources", "jobs", "search", "lm", "store", "ledger",
    "queue", "lanes", "runs", "execution", "evolution", "report", "comparison",
    "repair", "verification",
)  # fmt: skip
"""The rooms of coral_core from the ground up: each imports only those before it, and the modules at the root."""
MOST_LOOSE = {"coral_core": 14, "flows": 8}


def room_of(module: str) -> int:
    """Height of a module's room in `ORDER`; modules at the root of coral_core are the ground."""
    parts = module.split(".")
    return ORDER.index(parts[1]) + 1 if len(parts) > 1 and parts[1] in ORDER else 0


def test_rooms_import_only_rooms_below() -> None:
    """Late imports count, too: an arrow that is hidden in a function is still one."""

    def above(path: Path) -> Iterator[str]:
        own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        return (name for name in imported(parsed(path)) if name.startswith("coral_core.") and room_of(name) > own)

    public = {ROOT / "coral_core" / name for name in ("__init__.py", "api.py")}  # the public API names everything
    assert against(above, (path for path in ENGINE if path not in public)) == {}


@pytest.mark.parametrize("package", MOST_LOOSE)
def test_few_modules_stand_at_the_root(package: str) -> None:
    loose = [path.name for path in (ROOT / package).glob("*.py") if path.name != "__init__.py"]
    assert len(loose) <= MOST_LOOSE[package], loose


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
    assert rooms == set(ORDER)


def sleeps(tree: ast.AST) -> Iterator[int]:
    """Lines on which `sleep` is called, whoever's it is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rsplit(".", 1)[-1] == "sleep":
            yield node.lineno


def test_tests_wait_for_conditions() -> None:
    """A sleep is a wait for something, which `tests/waiting.py` does, or the subject of its test, and then says so."""

    def unexplained(path: Path) -> Iterator[int]:
        lines = path.read_text(encoding="utf-8").splitlines()
        return (number for number in sleeps(parsed(path)) if "# subject: " not in lines[number - 1])

    assert against(unexplained, (path for path in TESTS if path.name != "waiting.py")) == {}


def test_slow_tests_say_why() -> None:
    """`@pytest.mark.slow(reason="...")`: what it takes, and which quick test covers the same promise."""

    def silent(path: Path) -> Iterator[int]:
        tree = parsed(path)
        reasons = {
            id(node.func)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and any(keyword.arg == "reason" for keyword in node.keywords)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "pytest.mark.slow" and id(node) not in reasons:
                yield node.lineno

    assert against(silent, TESTS) == {}
