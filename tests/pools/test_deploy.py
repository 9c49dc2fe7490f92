"""`coral setup` and `prefect deploy --all` on a server of people's own."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.schemas.actions import WorkPoolUpdate

from flows.installation.pool_templates import DEPLOYMENTS, POOLS
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
def test_prefect_deploy_makes_the_deployments_that_setup_makes(bare: dict[str, str], tmp_path: Path) -> None:
    """People may use either after a change of `prefect.yaml`; setup alone makes pools."""
    url = bare["PREFECT_API_URL"]

    def run(*command: str) -> None:
        done = subprocess.run([sys.executable, "-m", *command], env=bare, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def deployed() -> list[dict[str, Any]]:
        with connected(url) as client:
            found = [client.read_deployment_by_name(name) for name in DEPLOYMENTS]
        own = {
            "id",
            "created",
            "updated",
            "version",
            "version_id",
            "version_info",
            "created_by",
            "updated_by",
            "last_polled",
        }
        own |= {"status", "labels", "work_queue_id"}
        rows = [each.model_dump(mode="json", exclude=own) for each in found]
        for row in rows:
            limit = row.pop("global_concurrency_limit")
            row["limit"] = limit and limit["limit"]
            row["schedules"] = [
                {key: schedule[key] for key in ("slug", "active", "schedule", "parameters")}
                for schedule in row["schedules"]
            ]
            for schedule in row["schedules"]:
                schedule["schedule"].pop("anchor_date", None)
        return rows

    run("flows.cli", "setup", "--workdir", str(tmp_path))
    made = deployed()
    evolve, train, *_ = made
    assert evolve["limit"] == 1 and [schedule["active"] for schedule in evolve["schedules"]] == [False]
    assert train["work_pool_name"] == "coral-a100" and train["entrypoint"] == "flows.lane.train_adapters"
    run("prefect", "--no-prompt", "deploy", "--all")
    assert deployed() == made
    run("flows.cli", "setup", "--workdir", str(tmp_path))
    assert deployed() == made
    with connected(url) as client:
        assert {pool.name for pool in client.read_work_pools()} == {pool.name for pool in POOLS}


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
    assert "coral setup --as-installed" in seen["todo"]
    assert coral("setup", "--as-installed").returncode == 0
    assert templates()["state"] == "ok"
    with connected(url) as client:
        assert "secretKeyRef" in str(client.read_work_pool("coral-a100").base_job_template)
