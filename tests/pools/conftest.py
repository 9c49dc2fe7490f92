"""A real installation (server, pools, workers) that all tests of this folder share."""

import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from coral_core.queue.lane_board import LaneNote
from coral_core.queue.queue import JobQueue, digest_of
from coral_core.store.store import Store
from tests import warm_commands
from tests.rehearsal_runs import Coral
from tests.waiting import until

os.environ.setdefault("CORAL_ROOTS", tempfile.gettempdir())
"""Of the workers that tests start: each test has a store of its own, and none lies in the folder of `coral up`."""

SLOW = "rehearsal:train=1.5,evaluate=0.3"

TRAININGS = "trainings.jsonl"

FEW_LANES = {"infra__training__lanes": "2", "infra__evaluation__lanes": "1"}
"""What two cores can feed; tests marked `five_lanes` have those of the default configuration."""


class Pools(Coral):
    """The `coral` command against the installation, with runs of its own."""

    def __init__(self, home: Path, folder: Path, url: str, few_lanes: bool = False) -> None:
        super().__init__(home, folder)
        self.url = url
        self.defaults = FEW_LANES if few_lanes else {}
        self.environment["PREFECT_API_URL"] = url
        self.environment["PREFECT_HOME"] = str(home / "prefect")
        self.environment["PREFECT_CLIENT_MAX_RETRIES"] = "6"  # about two minutes; SQLite may be busy that long
        self.environment["CORAL_REHEARSAL_LOG"] = str(home / TRAININGS)  # some commands start workers

    def evolve(self, *extra: str, env: Any = None, **settings: str) -> "subprocess.CompletedProcess[str]":
        return super().evolve("--executor", "work-pools", *extra, env=env, **self.defaults | settings)

    def start(self, *extra: str, **settings: str) -> "subprocess.Popen[str]":
        return super().start("--executor", "work-pools", *extra, **self.defaults | settings)

    @property
    def store(self) -> Store:
        return Store(self.runs / "store")

    def queue(self, name: Any = "training") -> JobQueue:
        return JobQueue(self.store, name)

    def lanes(self, name: str | None = None) -> list[LaneNote]:
        """Notes of this store's lanes that have not ended."""
        notes = self.queue().lanes.notes()
        return [note for note in notes if note.state != "ended" and name in (None, note.queue)]

    def working(self, name: str = "training") -> LaneNote | None:
        """A lane at work, and not one that is only asked what base model it has."""
        asks = {digest_of(path.name) for path in self.queue(name).root.glob("tickets/*/0-*.json")}
        return next((n for n in self.lanes(name) if n.state == "working" and n.digest not in asks), None)

    def trained(self) -> list[tuple[str, set[int]]]:
        """Every training that an engine finished for this store, also one that nobody heard of; and who did it (processes)."""
        path = Path(self.environment["CORAL_HOME"]) / TRAININGS
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [json.loads(line) for line in lines]
        return [
            (row["digest"], {row["engine"], row["lane"]})
            for row in rows
            if Path(row["out"]).is_relative_to(self.store.root)
        ]

    def booked(self, kind: str) -> list[str]:
        """Digests of the jobs of this kind that sessions booked as done."""
        rows = [json.loads(line) for line in (self.run / "timings.jsonl").read_text().splitlines() if line[-1:] == "}"]
        return [row["digest"] for row in rows if row["type"] == "job" and row["kind"] == kind and not row["cached"]]

    def work_done(self, name: str = "training") -> int:
        """Jobs that lanes finished or tried, by their own count."""
        minutes = [m for n in self.queue().lanes.notes() if n.queue == name for m in n.recent.minutes.values()]
        return sum(minute.done + minute.failed for minute in minutes)


def command(home: Path, *arguments: str, timeout: float = 600, cwd: Path | None = None) -> str:
    environment = {
        **os.environ,
        "CORAL_HOME": str(home),
        "COLUMNS": "160",
        "CORAL_REHEARSAL_LOG": str(home / TRAININGS),
    }
    for name in ("PREFECT_API_URL", "PREFECT_HOME"):
        environment.pop(name, None)
    done = warm_commands.run([*arguments], environment=environment, cwd=cwd, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def connected(url: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as made:
        yield made


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """`coral up`, and `coral down` at the end, which must leave no process behind."""
    home, work = tmp_path_factory.mktemp("pools-home"), tmp_path_factory.mktemp("pools-work")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command(home, "up", "--port", str(port), cwd=work)
    yield home, json.loads((home / "up.json").read_text())["url"]
    mine = {w["pid"] for w in json.loads((home / "up.json").read_text())["workers"]}
    command(home, "down", cwd=work)
    left = [entry.name for entry in Path("/proc").glob("[0-9]*") if str(home) in _environment(entry)]
    assert not left and not any(alive(pid) for pid in mine), left


@pytest.fixture(scope="session")
def undisturbed(installation: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Coral:
    """The same run by the local executor: what every run that is disturbed must equal byte for byte."""
    coral = Coral(installation[0], tmp_path_factory.mktemp("undisturbed"))
    result = coral.evolve(base_model__name=SLOW)
    assert result.returncode == 0, result.stderr
    return coral


def alive(pid: int) -> bool:
    """Does the process run? One that ended and was not waited for by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def _environment(entry: Path) -> str:
    try:
        return (entry / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


@pytest.fixture
def pools(installation: tuple[Path, str], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pools]:
    home, url = installation
    made = Pools(home, tmp_path, url, few_lanes=request.node.get_closest_marker("five_lanes") is None)
    yield made
    made.end()
    for note in made.lanes():  # the store goes away with the test: its lanes must not live on
        made.queue().lanes.ask_to_end(note.lane)
    until(lambda: not made.lanes() or not any(alive(n.pid) for n in made.lanes()), 40)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def up_again(pools: Pools) -> None:
    """What a service manager does: start again what is dead, on the same port."""
    port = pools.url.removesuffix("/api").rsplit(":", 1)[1]
    command(Path(pools.environment["CORAL_HOME"]), "up", "--port", port, cwd=pools.folder)


def worker_pid(pools: Pools, pool: str) -> int:
    state = json.loads((Path(pools.environment["CORAL_HOME"]) / "up.json").read_text())
    return next(int(w["pid"]) for w in state["workers"] if w["pool"] == pool)


def server_pid(pools: Pools) -> int:
    return int(json.loads((Path(pools.environment["CORAL_HOME"]) / "server.json").read_text())["pid"])


def engine_of(lane: LaneNote) -> int | None:
    """The engine process of a lane of this machine."""
    for pid in descendants(lane.pid):
        try:
            if b"coral_core.lm.engine" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        except OSError:
            continue
    return None


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        parents.setdefault(parent, []).append(int(entry.name))
    return _below(parents, pid)


def _below(parents: dict[int, list[int]], pid: int) -> list[int]:
    children = parents.get(pid, [])
    return [*children, *(below for child in children for below in _below(parents, child))]
