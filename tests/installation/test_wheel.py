"""The built wheel, in an environment without the checkout and in an empty folder: the whole path of a newcomer."""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coral_core.config.config_file import BUILT_IN, built_in
from flows.installation.pool_templates import FILES
from tests.rehearsal_runs import SMALL

ROOT = Path(__file__).parents[2]
SOURCES = (
    "coral_core", "flows", "configs", "deployments", "prefect.yaml", "pyproject.toml", "README.md", "LICENSE"
)  # fmt: skip
SETTINGS = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, since a build writes beside them; no network."""
    sources, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", ".env*")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, sources / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", out, sources]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("coral_x-*.whl"))


@pytest.fixture(scope="module")
def newcomer(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Newcomer"]:
    made = Newcomer(wheel, tmp_path_factory.mktemp("newcomer"))
    yield made
    made.coral("down")


class Newcomer:
    """A person with the wheel in a fresh environment, an empty folder and a home of their own."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.folder = folder / "empty"
        self.folder.mkdir()
        environment = folder / "venv"
        venv.create(environment, with_pip=False, symlinks=True)
        self.python = environment / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*pip, wheel], check=True, timeout=600)
        # dependencies come from the environment of the tests; files like .pth in it, which name the checkout, are not read
        packages = next((environment / "lib").glob("python*/site-packages"))
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "CORAL", "PYTHON"))}
        self.environment = kept | {"CORAL_HOME": str(folder / "home"), "COLUMNS": "160", "NO_COLOR": "1"}

    def run(self, *command: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=900
        )

    def coral(self, *arguments: str, code: int = 0) -> str:
        """Output of a command that ends with `code`."""
        done = self.run(self.python.with_name("coral"), *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def history(self, runs: str) -> bytes:
        (found,) = (self.folder / runs).glob("*/history.jsonl")
        return found.read_bytes()


def test_what_is_not_code_lies_in_the_checkout_once() -> None:
    """The packages hold links to the folders where people look; a wheel holds what they point to."""
    for name in ("pools", "automations", "prefect.yaml"):
        assert (FILES / name).is_symlink() and (FILES / name).exists()
    assert (FILES / "prefect.yaml").resolve() == ROOT / "prefect.yaml"
    for name in BUILT_IN:
        assert built_in(name).is_symlink() and built_in(name).resolve() == ROOT / "configs" / f"{name}.yaml"


@pytest.mark.slow(reason="builds a wheel and starts a server of its own")
def test_the_wheel_holds_code_and_data_of_the_packages_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"coral_core", "flows"}
    data = {str(path.relative_to(ROOT)) for package in ("coral_core", "flows") for path in files(ROOT / package)}
    assert {name for name in names if ".dist-info/" not in name} == data
    assert not [name for name in names if ".env" in name]


def files(folder: Path) -> Iterator[Path]:
    """Files below `folder`, through links, without what Python writes there."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from files(path) if path.name != "__pycache__" else ()
        else:
            yield path


@pytest.mark.slow(reason="builds a wheel and starts a server of its own")
@pytest.mark.server
def test_from_the_wheel_to_an_evolution_on_work_pools(newcomer: Newcomer) -> None:
    where = newcomer.run(newcomer.python, "-c", "import flows, coral_core; print(flows.__file__, coral_core.__file__)")
    assert str(ROOT) not in where.stdout.replace(str(newcomer.folder.parent), ""), where.stdout + where.stderr

    shown = newcomer.coral("--help")
    assert all(command in shown for command in ("init", "evolve", "up", "setup", "down"))
    refused = newcomer.coral("evolve", code=2)
    assert refused.startswith("error: CONFIG: no configuration was given") and "coral init" in refused
    assert "nothing was started" in newcomer.coral("evolve", "quickstart", "--dry-run")
    assert "wrote quickstart.yaml" in newcomer.coral("init")
    assert (newcomer.folder / "quickstart.yaml").read_text() == (ROOT / "configs" / "quickstart.yaml").read_text()
    local = newcomer.coral(
        "evolve", "quickstart.yaml", *SETTINGS, "--set", "runs=local", "--set", "store.path=local/store"
    )
    assert "champion" in local

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = newcomer.coral("up", "--port", str(port))
    assert started.count("created") == 13 and started.count("worker ") == 3, started
    plan = newcomer.coral("setup", "--dry-run")
    assert plan.count("is as it should be") == 9 and plan.count("would update") == 4, plan
    assert plan == newcomer.coral("setup", "--as-installed", "--dry-run")
    newcomer.coral("evolve", "quickstart.yaml", *SETTINGS, "--executor", "work-pools")
    assert newcomer.history("runs") == newcomer.history("local")

    state = json.loads(newcomer.coral("status", "--json"))
    assert state["api"]["reachable"] and [pool["workers_online"] for pool in state["pools"]] == [1, 1, 1]
    assert [run["status"] for run in state["evolutions"]] == ["finished"] and not state["obstacles"]
    checks = {check["name"]: check["state"] for check in json.loads(newcomer.coral("health", "--json"))["checks"]}
    assert {checks[name] for name in ("pools", "pool templates", "deployments", "automations")} == {"ok"}
    ended = newcomer.coral("down")
    assert ended.count("ended worker of") == 3 and "ended the server" in ended
    assert "nothing is up" in newcomer.coral("down")
