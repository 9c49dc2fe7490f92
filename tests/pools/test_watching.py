"""Status, health and logs against a real server, real workers and a real run."""

import json
import subprocess
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.pools.conftest import Pools
from tests.waiting import until


def checks(pools: Pools) -> tuple[int, dict[str, dict[str, Any]]]:
    done = pools.call("health", "--json", "--runs", str(pools.runs))
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}


@pytest.mark.slow(reason="a run; tests/cli/test_watching.py reads the same from files and an API that stands in")
@pytest.mark.server
def test_what_a_real_run_said_and_how_the_installation_is(pools: Pools) -> None:
    result = pools.evolve(search__generations="1")
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in pools.history().splitlines()]
    record = next(row for row in records if row["type"] == "genome" and row["genome"]["slot"] == 1)
    name, digest = record["genome"]["genome_id"], record["training_digest"][:12]

    def told() -> "subprocess.CompletedProcess[str]":
        return pools.call("logs", "latest", "--runs", str(pools.runs), "--genome", name, "--json")

    lines = until(
        lambda: [line for line in json.loads(told().stdout)["lines"] if "lane" in line["source"]],
        30,
        "lanes are silent",
    )
    said = [line["message"] for line in lines]
    assert any(f"training {digest} for {pools.run.name} begins, try 1" in text for text in said)
    assert any(text.startswith(f"training {digest} done in") for text in said)
    whole = pools.call("logs", "latest", "--runs", str(pools.runs)).stdout
    assert f"training {digest} of {name} submitted" in whole and "generation 0" in whole and " of waiting" in whole

    status = json.loads(pools.call("status", "--runs", str(pools.runs), "--json").stdout)
    pool = next(pool for pool in status["pools"] if pool["name"] == "coral-a10g")
    assert pool["completed_last_hour"] == pool["jobs_measured"] > 4
    assert 0 < pool["work_seconds_mean"] <= pool["work_seconds_p95"]
    assert pool["waiting_seconds_p95"] >= pool["waiting_seconds_mean"] > 0

    code, seen = checks(pools)
    assert code == 0 and {check["state"] for check in seen.values()} == {"ok"}, seen
    with temporary_settings({PREFECT_API_URL: pools.url}), get_client(sync_client=True) as client:
        automation = client.read_automations_by_name("coral: lost lanes")[0]
        found = client.read_automations_by_name(automation.name)[0]
        client.request("PATCH", "/automations/{id}", path_params={"id": found.id}, json={"enabled": False})
        try:
            code, seen = checks(pools)
            assert code == 1 and "coral: lost lanes switched off" in seen["automations"]["found"]
        finally:
            client.request("PATCH", "/automations/{id}", path_params={"id": found.id}, json={"enabled": True})
