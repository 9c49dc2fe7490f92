"""The scripts in examples/ run as their first lines say, each in an empty folder."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm_commands

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("[0-9]_*.py"))
ON_SERVERS = {"7_work_pools.py"}
QUICK = {"1_quickstart.py", "5_a_problem_source.py", "6_the_judge_alone.py"}
SLOW = pytest.mark.slow(reason="an evolution each; make test has the first one, and tests of what the others show")


@pytest.fixture(scope="session")
def plug_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's plug-in as pip installs it, in a folder of its own."""
    copy = tmp_path_factory.mktemp("plug-in")
    shutil.copytree(
        EXAMPLES / "plug_in", copy / "source", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    )
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", *install, "--target", str(copy / "installed"), str(copy / "source")]
    subprocess.run(command, check=True)
    return copy / "installed"


def run(script: Path, folder: Path, *paths: Path) -> str:
    """What the script prints. It runs in `folder`, with a home and modules of its own."""
    environment = {
        **os.environ,
        "CORAL_HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *paths))),
    }
    environment.pop("PREFECT_API_URL", None)
    done = warm_commands.run([], script=script, cwd=folder, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(script, id=script.name, marks=() if script.name in QUICK else SLOW)
        for script in SCRIPTS
        if script.name not in ON_SERVERS
    ],
)
def test_an_example_runs(script: Path, plug_in: Path, tmp_path: Path) -> None:
    assert run(script, tmp_path, plug_in).strip()


@pytest.mark.server
@pytest.mark.slow(reason="starts an installation of pools; the other examples run in every test")
def test_the_example_of_work_pools_runs(tmp_path: Path) -> None:
    printed = run(EXAMPLES / "7_work_pools.py", tmp_path)
    assert "coral-a100: 1 worker" in printed and "champion g" in printed
    assert not (tmp_path / "home" / "up.json").exists()


def test_there_are_examples_and_each_says_how_to_run_it() -> None:
    assert len(SCRIPTS) >= 6
    for script in SCRIPTS:
        text = ast.get_docstring(ast.parse(script.read_text())) or ""
        assert f"python examples/{script.name}" in text, script


def test_the_list_of_examples_is_complete() -> None:
    page = (EXAMPLES / "README.md").read_text()
    assert re.findall(r"\]\((\d_\w+\.py)\)", page) == [script.name for script in SCRIPTS]


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    """As it stands, but for the base model and the sizes, which would take minutes."""
    [block] = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(block.strip().splitlines()) <= 10
    quick = block.replace("configs/quickstart.yaml", str(EXAMPLES / "example.yaml"))
    assert quick != block
    script = tmp_path / "readme.py"
    script.write_text(quick)
    assert "g00" in run(script, tmp_path)
