"""Small runs of the real command with the rehearsal base model, on one Prefect server for all tests."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import warm_commands

ROOT = Path(__file__).parents[1]
SMALL = {
    "base_model.name": "rehearsal",
    "search.generations": "2",
    "search.population": "4",
    "search.elites": "1",
    "problems.fitness": "12",
    "problems.retention": "4",
    "problems.monitor": "4",
    "problems.held_out": "12",
    "problems.pairs": "16",
    "search.champion_repeats": "2",
    "search.usual_loras": "0",  # they would fill three of four places, all of one rank
}


def heeds_ctrl_c() -> None:
    """A shell's background job ignores SIGINT, and so would what tests start in one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Coral:
    """The `coral` command with folders of its own."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.started: list[subprocess.Popen[str]] = []
        self.environment = {**os.environ, "CORAL_HOME": str(home), "COLUMNS": "120"}
        for name in ("PREFECT_API_URL", "PREFECT_HOME"):
            self.environment.pop(name, None)

    def arguments(self, *extra: str, **settings: str) -> list[str]:
        values = (
            SMALL
            | {"runs": str(self.runs), "store.path": str(self.runs / "store")}
            | {k.replace("__", "."): v for k, v in settings.items()}
        )
        pairs = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
        return [sys.executable, "-m", "flows.cli", "evolve", str(ROOT / "configs" / "quickstart.yaml"), *pairs, *extra]

    def evolve(
        self, *extra: str, env: dict[str, str] | None = None, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        return self.call(*self.arguments(*extra, **settings)[3:], env=env)

    def start(self, *extra: str, **settings: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            self.arguments(*extra, **settings),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=heeds_ctrl_c,
        )
        self.started.append(process)
        return process

    def end(self) -> None:
        """A test that failed half-way must leave nothing running."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def call(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return warm_commands.run([*arguments], environment=self.environment | (env or {}))

    @property
    def run(self) -> Path:
        return next(path.parent for path in self.runs.glob("*/run.json"))

    def history(self) -> bytes:
        return (self.run / "history.jsonl").read_bytes()

    def report(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.call("report", "latest", "--runs", str(self.runs), "--json").stdout)
        return data

    def done(self) -> list[str]:
        """Digests of the jobs that were really done, by all sessions together."""
        rows = []
        for line in (self.run / "timings.jsonl").read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return [row["digest"] for row in rows if row["type"] == "job" and not row["cached"]]


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """No other process of these tests is in here with the same `folder`."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of pytest-xdist share in this session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


KEEPER = """
import sys
from flows.prefect_api.local_server import api
with api():
    print("up", flush=True)
    sys.stdin.read()
"""


@contextmanager
def served(path: Path) -> Iterator[Path]:
    """A local Prefect server for CORAL_HOME=`path`, started here unless it lives already, and kept."""
    environment = {**os.environ, "CORAL_HOME": str(path)}
    environment.pop("PREFECT_API_URL", None)
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert keeper.stdout is not None and keeper.stdout.readline().strip() == "up"
    yield path
    keeper.communicate(timeout=200)


@pytest.fixture(scope="session")
def home(shared: Path) -> Iterator[Path]:
    """The home of one server that all tests share, in all workers; what stops or kills a server has one of its own."""
    path = shared / "home"
    with ExitStack() as stack:
        with one_at_a_time(shared):
            path.mkdir(exist_ok=True)
            stack.enter_context(served(path))
        yield path


@pytest.fixture
def coral(home: Path, tmp_path: Path) -> Iterator[Coral]:
    made = Coral(home, tmp_path)
    yield made
    made.end()


@pytest.fixture(scope="session")
def finished(home: Path, shared: Path) -> Coral:
    """A finished small run that tests, in all workers, may read and copy, but not change."""
    coral = Coral(home, shared / "finished")
    with one_at_a_time(shared):
        if not any(coral.runs.glob("*/report.json")):
            result = coral.evolve()
            assert result.returncode == 0, result.stderr
    return coral
