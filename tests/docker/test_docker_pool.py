"""Lanes as containers of a real Docker daemon: the same history, and what containers add to the failure table."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pools.conftest import Pools, command
from tests.pools.test_faults import SLOW
from tests.waiting import until

pytestmark = pytest.mark.docker
IMAGE = "coral-x-control:test"


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def lanes() -> list[str]:
    """Containers of lanes that run."""
    return docker("ps", "-q", "--filter", "label=coral-pool=coral-a100").split()


class Contained(Pools):
    """Evolutions in the control image, as the control pool runs them: one Python for search and lanes."""

    def arguments(self, *extra: str, **settings: str) -> list[str]:
        own = super().arguments(*extra, **settings)
        inside = ["coral", "evolve", "/app/configs/quickstart.yaml", *own[own.index("--set") :]]
        place = str(self.folder.parent)
        options = ["--rm", "--init", "--network=host", f"--volume={place}:{place}", "--env=CORAL_HOME=/tmp/coral"]
        return ["docker", "run", *options, f"--env=PREFECT_API_URL={self.url}", IMAGE, *inside]


class Installation:
    """A server and docker workers of this machine."""

    def __init__(self, home: Path, store: Path) -> None:
        self.home = home
        self.store = store
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        code = f"from flows.prefect_api.local_server import join\nprint(join({port}))"
        environment = {**os.environ, "CORAL_HOME": str(home)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        self.url = done.stdout.strip().splitlines()[-1]
        self.environment = environment | {
            "PREFECT_API_URL": self.url,
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        self.setup()
        self.workers = [self._worker(pool) for pool in ("coral-a100", "coral-a10g")]

    def setup(self, image: str = IMAGE, store: Path | None = None, pull: str = "Never") -> None:
        arguments = ["--type", "docker", "--network", "host", "--store", str(store or self.store)]
        arguments += ["--lane-image", image, "--control-image", IMAGE, "--pull-policy", pull, "--no-gpus"]
        arguments += ["--api-url", self.url]
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "setup", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _worker(self, pool: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "docker"]
        log = (self.home / f"{pool}.log").open("wb")
        return subprocess.Popen(
            command,
            env=self.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's & has it ignored
        )

    def close(self) -> None:
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait(timeout=30)
        command(self.home, "down")


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    store = tmp_path_factory.mktemp("shared")
    for folder in (store, *store.parents[:3]):
        folder.chmod(0o755 | folder.stat().st_mode)
    made = Installation(tmp_path_factory.mktemp("home"), store)
    yield made
    made.close()


@pytest.fixture
def pools(installation: Installation, request: pytest.FixtureRequest) -> Contained:
    folder = installation.store / request.node.name
    folder.mkdir()
    made = Contained(installation.home, folder, installation.url)
    folder.chmod(0o777)  # as an operator gives it to user 1000 of the images
    return made


def test_the_history_is_that_of_the_local_executor(pools: Contained, installation: Installation) -> None:
    result = pools.evolve(base_model__name=SLOW)
    assert result.returncode == 0, result.stdout + result.stderr
    until(lambda: not lanes(), 60, "containers must end when nothing waits")
    local = Contained(installation.home, pools.folder / "local", installation.url)
    local.folder.mkdir()
    local.folder.chmod(0o777)
    command = local.arguments("--executor", "local", base_model__name=SLOW)
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert pools.history() == local.history()


def test_a_container_is_killed(pools: Contained) -> None:
    run = pools.start(base_model__name=SLOW)
    until(pools.working, 120)
    docker("kill", lanes()[0])
    out, _ = run.communicate(timeout=300)
    assert run.returncode == 0, out
    assert len(pools.done()) == len(set(pools.done()))


@pytest.mark.parametrize("pull", ["Never", "IfNotPresent", "Always"])
def test_a_wrong_image_is_named(pools: Contained, installation: Installation, pull: str) -> None:
    installation.setup(image="no-such-image:1", pull=pull)
    try:
        result = pools.evolve()
        assert result.returncode != 0 and "no-such-image" in result.stderr, result.stderr
        assert "3 lanes of pool" in result.stderr
    finally:
        installation.setup()


def test_a_store_that_containers_do_not_share_is_named(
    pools: Contained, installation: Installation, tmp_path: Path
) -> None:
    """Lanes get another directory than the one that the evolution writes to: said before the first job."""
    installation.setup(store=tmp_path)  # it is closed to user 1000 of the images besides
    try:
        result = pools.evolve()
        assert result.returncode != 0 and "is not the store of the evolution" in result.stderr, result.stderr
        assert "Mount the same directory" in result.stderr
        assert not pools.work_done()
    finally:
        installation.setup()


def test_a_lane_is_nobody_special_and_has_no_way_out(pools: Contained) -> None:
    run = pools.start(base_model__name="rehearsal:train=8")
    until(pools.working, 120)
    facts = json.loads(docker("inspect", lanes()[0]))[0]
    host = facts["HostConfig"]
    run.terminate()
    run.communicate(timeout=60)
    assert facts["Config"]["User"] not in ("", "root", "0") and not host["Privileged"]
    assert host["CapDrop"] == ["ALL"] and "no-new-privileges" in host["SecurityOpt"]
    assert host["Memory"] == 16 * 2**30 and host["Binds"] == [
        f"{installation_store(pools)}:{installation_store(pools)}"
    ]
    until(lambda: not lanes(), 60, "containers must end within 30 s of a stop")


def installation_store(pools: Contained) -> str:
    return str(pools.folder.parent)
