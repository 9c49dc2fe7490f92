"""`prefect deploy --all` on a server that knows nothing of this house."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate

from flows.installation.pool_templates import POOLS
from flows.installation.server_setup import DEPLOYMENTS
from tests.pools.conftest import connected
from tests.waiting import until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A server without anything; what a shell that uses it has in its environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        until(lambda: _answers(f"{url}/health"), 90)
        yield environment | {"PREFECT_API_URL": url}
    finally:
        server.terminate()
        server.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.slow(reason="a server of its own")
@pytest.mark.server
def test_deploying_all_makes_the_pools_that_are_missing(bare: dict[str, str]) -> None:
    with connected(bare["PREFECT_API_URL"]) as client:
        client.create_work_pool(WorkPoolCreate(name="coral-a10g", type="docker", description="somebody's"))
        for _ in range(2):
            command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
            done = subprocess.run(command, env=bare, cwd=ROOT, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stdout + done.stderr
        pools = {pool.name: pool for pool in client.read_work_pools()}
        assert set(pools) == {pool.name for pool in POOLS}
        assert (pools["coral-a10g"].type, pools["coral-a10g"].description) == ("docker", "somebody's")
        assert {pools[name].type for name in ("coral-control", "coral-a100")} == {"process"}
        evolve, train, *_ = [client.read_deployment_by_name(name) for name in DEPLOYMENTS]
        assert evolve.global_concurrency_limit is not None and evolve.global_concurrency_limit.limit == 1
        assert [schedule.active for schedule in evolve.schedules] == [False]
        assert train.work_pool_name == "coral-a100"


@pytest.mark.slow(reason="a server of its own")
@pytest.mark.server
def test_health_knows_the_templates_of_any_setup(bare: dict[str, str], tmp_path: Path) -> None:
    """A token's secret is in one part of one template alone; and what somebody changes afterwards is told."""
    url = bare["PREFECT_API_URL"]

    def coral(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.run(command, env=bare, cwd=tmp_path, capture_output=True, text=True, timeout=600)

    def templates() -> dict[str, str]:
        checks = json.loads(coral("health", "--json").stdout)["checks"]
        return next(check for check in checks if check["name"] == "pool templates")

    options = [
        "--type",
        "kubernetes",
        "--token-secret",
        "hf",
        "--api-url",
        "http://10.0.0.1:4200/api",
        "--store",
        "/srv",
    ]
    for _ in range(2):
        done = coral("setup", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert templates()["state"] == "ok"
    assert "is as it should be" in done.stdout
    with connected(url) as client:
        found = client.read_work_pool("coral-a100").base_job_template
        found["job_configuration"]["env"]["LD_PRELOAD"] = "/tmp/x.so"
        client.update_work_pool("coral-a100", WorkPoolUpdate(base_job_template=found))
    seen = templates()
    assert seen["state"] == "bad" and "coral-a100 was changed after coral setup wrote it" in seen["found"]
    assert "--token-secret hf" in seen["todo"]
