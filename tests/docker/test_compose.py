"""`deployments/compose.yaml`, really brought up: server, Postgres, workers; an evolution through it; down."""

import json
import os
import shutil
import socket
import stat
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.test_docker_pool import docker
from tests.rehearsal_runs import ROOT, SMALL
from tests.waiting import until

pytestmark = pytest.mark.docker
PROJECT = "coral-x"


class Composed:
    """The compose file with images of this checkout, a store of its own and no GPU."""

    def __init__(self, store: Path) -> None:
        self.store = store
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        socket_path = Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
        self.environment = os.environ | {
            "CORAL_STORE": str(store),
            "POSTGRES_PASSWORD": uuid.uuid4().hex,
            "CORAL_API_PASSWORD": uuid.uuid4().hex,
            "DOCKER_SOCKET": str(socket_path),
            "DOCKER_GID": str(socket_path.stat().st_gid),
            "CORAL_PORT": str(self.port),
            "CORAL_GPUS": "--no-gpus",
            "CORAL_CONTROL_IMAGE": "coral-x-control:test",
            "CORAL_LANE_IMAGE": "coral-x-control:test",  # the model of the rehearsal needs no torch
            "CORAL_WORKER_IMAGE": "coral-x-worker:test",
        }
        self.compose = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]

    def call(self, *arguments: str, seconds: float = 600) -> "subprocess.CompletedProcess[str]":
        command = [*self.compose, "-p", PROJECT, "-f", str(ROOT / "deployments" / "compose.yaml"), *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=seconds)

    def coral(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self.call("run", "--rm", "-T", "coral", *arguments)


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    store = tmp_path_factory.mktemp("composed")
    for folder in store.parents[:3]:
        folder.chmod(folder.stat().st_mode | 0o755)
    os.chown(store, 1000, 1000)  # as the file's first lines say
    made = Composed(store)
    done = made.call("up", "-d")
    try:
        if done.returncode != 0:
            pytest.fail(done.stdout + done.stderr + made.call("logs", "--tail", "40").stdout)
        yield made
    finally:
        made.call("down", "--volumes")


def test_an_evolution_runs_through_it(composed: Composed) -> None:
    pairs = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    result = composed.coral("evolve", "/app/configs/quickstart.yaml", "--executor", "work-pools", *pairs)
    assert result.returncode == 0, result.stdout + result.stderr + composed.call("logs", "--tail", "60").stdout
    (run,) = composed.store.glob("runs/*/run.json")
    assert (run.parent / "report.json").is_file(), "relative paths of a configuration lie on the store"
    jobs = [json.loads(line) for line in (run.parent / "timings.jsonl").read_text().splitlines()]
    assert any(job["type"] == "job" and not job["cached"] for job in jobs)


def test_one_that_is_started_as_a_deployment_leaves_its_run_on_the_store(composed: Composed) -> None:
    config = {"name": "deployed", "infra": {"executor": "work-pools"}}
    for key, value in SMALL.items():
        section, _, name = key.partition(".")
        config.setdefault(section, {})[name] = int(value) if value.isdigit() else value  # type: ignore[index]
    command = ["prefect", "deployment", "run", "evolve/evolve", "--watch", "--param", f"config={json.dumps(config)}"]
    result = composed.call("run", "--rm", "-T", "--entrypoint", "", "coral", *command)
    assert result.returncode == 0, result.stdout + result.stderr + composed.call("logs", "--tail", "60").stdout
    (run,) = composed.store.glob("runs/deployed-*/report.json")
    assert run.is_file()


def test_patches_are_judged_by_a_deployment(composed: Composed) -> None:
    patch = {"problem": "builtin/fitness/first-index/0000", "patch": "def nothing(): pass"}
    command = ["prefect", "deployment", "run", "test-patches/test-patches", "--watch"]
    command += ["--param", f"patches={json.dumps([patch])}"]
    result = composed.call("run", "--rm", "-T", "--entrypoint", "", "coral", *command)
    assert result.returncode == 0, result.stdout + result.stderr + composed.call("logs", "--tail", "60").stdout


def test_status_sees_the_pools_and_doctor_of_the_workers_is_not_root(composed: Composed) -> None:
    status = composed.coral("status", "--json")
    assert status.returncode == 0, status.stdout + status.stderr
    pools = {pool["name"]: pool for pool in json.loads(status.stdout)["pools"]}
    assert set(pools) == {"coral-control", "coral-a100", "coral-a10g"}
    assert all(pool["workers_online"] == 1 for pool in pools.values()), pools
    worker = composed.call("ps", "-q", "a100").stdout.strip()
    assert json.loads(docker("inspect", worker))[0]["Config"]["User"] == "coral"


def test_the_api_asks_for_the_password(composed: Composed) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{composed.port}/api/admin/version", timeout=20)
    assert refused.value.code == 401
    with urllib.request.urlopen(f"http://127.0.0.1:{composed.port}/api/health", timeout=20) as health:
        assert health.status == 200


def test_down_leaves_no_container(composed: Composed) -> None:
    lanes = ("ps", "-q", "--filter", "label=coral-pool")
    until(lambda: not docker(*lanes), 90, "lanes must end when nothing waits")  # while one lives, its network stays
    done = composed.call("down", "--volumes", seconds=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}") == ""
    assert stat.S_ISDIR((composed.store / "runs" / "store").stat().st_mode), "the store stays"
