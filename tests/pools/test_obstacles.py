"""What stands in the way of lanes on a real server: named by the evolution, by status and by health alike; it goes on by itself."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolUpdate

from tests.pools.conftest import SLOW, Pools, connected
from tests.waiting import until

pytestmark = pytest.mark.server
TRAIN = "train-adapters/train-adapters"
POOL = "coral-a100"


@pytest.fixture
def client(pools: Pools) -> Iterator[SyncPrefectClient]:
    with connected(pools.url) as made:
        yield made


def output(pools: Pools, run: "subprocess.Popen[str]") -> str:
    """What the evolution has said in its log so far."""
    assert run.poll() is None, run.communicate()[0]
    done = pools.call("logs", "latest", "--runs", str(pools.runs), "--level", "warning", "--json")
    return "\n".join(line["message"] for line in json.loads(done.stdout)["lines"]) if done.returncode == 0 else ""


def named_everywhere(pools: Pools, run: "subprocess.Popen[str]", words: str) -> None:
    """The same words in the evolution's log, in status and in health, which is red: jobs wait."""
    until(lambda: words in output(pools, run), 60, f"the evolution does not say {words!r}")
    status = json.loads(pools.call("status", "--runs", str(pools.runs), "--json").stdout)
    assert words in [each["text"] for each in status["obstacles"]], status["obstacles"]
    health = pools.call("health", "--runs", str(pools.runs), "--json")
    checks = {check["name"]: check for check in json.loads(health.stdout)["checks"]}
    assert health.returncode == 1 and checks["lane starts"]["state"] == "bad", checks
    assert words in checks["lane starts"]["found"] and "jobs wait for it" in checks["lane starts"]["text"]


@contextmanager
def queue_paused(client: SyncPrefectClient) -> Iterator[str]:
    queue = client.request(
        "GET", "/work_pools/{name}/queues/{queue}", path_params={"name": POOL, "queue": "default"}
    ).json()
    path: Any = "/work_pools/{name}/queues/{queue}"
    where = {"name": POOL, "queue": queue["name"]}
    client.request("PATCH", path, path_params=where, json={"is_paused": True})
    try:
        yield f"work queue default of pool {POOL} is paused"
    finally:
        client.request("PATCH", path, path_params=where, json={"is_paused": False})


@contextmanager
def queue_limit(client: SyncPrefectClient) -> Iterator[str]:
    path: Any = "/work_pools/{name}/queues/{queue}"
    where = {"name": POOL, "queue": "default"}
    client.request("PATCH", path, path_params=where, json={"concurrency_limit": 0})
    try:
        yield f"work queue default of pool {POOL} has a concurrency limit of 0"
    finally:
        client.request("PATCH", path, path_params=where, json={"concurrency_limit": None})


@contextmanager
def pool_paused(client: SyncPrefectClient) -> Iterator[str]:
    client.update_work_pool(POOL, WorkPoolUpdate(is_paused=True))
    try:
        yield f"work pool {POOL} is paused"
    finally:
        client.update_work_pool(POOL, WorkPoolUpdate(is_paused=False))


@contextmanager
def pool_limit(client: SyncPrefectClient) -> Iterator[str]:
    client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=0))
    try:
        yield f"work pool {POOL} has a concurrency limit of 0"
    finally:
        client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=2))


@contextmanager
def deployment_limit(client: SyncPrefectClient) -> Iterator[str]:
    made = client.read_deployment_by_name(TRAIN).id
    client.update_deployment(made, DeploymentUpdate(concurrency_limit=1))
    limit = client.read_deployment(made).global_concurrency_limit
    assert limit is not None
    client.request(
        "PATCH", "/v2/concurrency_limits/{id_or_name}", path_params={"id_or_name": limit.id}, json={"limit": 0}
    )
    try:
        yield f"deployment {TRAIN} has a concurrency limit of 0"
    finally:
        client.request("PATCH", "/deployments/{id}", path_params={"id": made}, json={"concurrency_limit": None})


@pytest.mark.slow(reason="a run that waits twice; tests/monitoring/test_start_checks.py holds the words")
def test_a_paused_queue_is_named_and_a_deployment_made_again_is_found(pools: Pools, client: SyncPrefectClient) -> None:
    """One evolution meets both, one after the other, and ends as if nothing had been."""
    with queue_paused(client) as words:
        run = pools.start(search__generations="1")
        named_everywhere(pools, run, words)
        old = client.read_deployment_by_name(TRAIN)
        client.delete_deployment(old.id)
        gone = f"waiting for deployment {TRAIN}: the server has none of that name"
        until(lambda: gone in output(pools, run), 60, "it does not say that the deployment is gone")
        status = json.loads(pools.call("status", "--runs", str(pools.runs), "--json").stdout)
        assert gone in [each["text"] for each in status["obstacles"]]
        new = client.create_deployment(
            flow_id=old.flow_id,
            name=old.name,
            work_pool_name=POOL,
            work_queue_name="default",
            entrypoint=old.entrypoint,
            path=old.path,
            parameter_openapi_schema=old.parameter_openapi_schema,
            enforce_parameter_schema=old.enforce_parameter_schema,
            pull_steps=old.pull_steps,
        )
        assert new != old.id
    said, _ = run.communicate(timeout=1200)
    assert run.returncode == 0, said
    for text in (words, gone):
        assert 1 <= said.count(text) <= 3, f"said again and again: {said}"
    assert said.count("could be started") <= 2, said
    health = pools.call("health", "--runs", str(pools.runs), "--json")
    checks = {check["name"]: check for check in json.loads(health.stdout)["checks"]}
    assert checks["lane starts"]["state"] == "ok", checks["lane starts"]


@pytest.mark.slow(reason="a run that waits four times")
def test_every_closed_door_is_named_and_opens_again(pools: Pools, client: SyncPrefectClient) -> None:
    """One evolution meets them all: each is closed before the one before it opens."""
    before = ExitStack()
    words = before.enter_context(queue_limit(client))
    try:
        run = pools.start(search__generations="1")
        named_everywhere(pools, run, words)
        for door in (pool_paused, pool_limit, deployment_limit):
            closed = ExitStack()
            words = closed.enter_context(door(client))
            before.close()
            before = closed
            named_everywhere(pools, run, words)
    finally:
        before.close()
    said, _ = run.communicate(timeout=1200)
    assert run.returncode == 0, said


@pytest.mark.slow(reason="a run that waits for a set-up")
def test_a_pool_that_was_deleted_and_made_again(pools: Pools, client: SyncPrefectClient) -> None:
    """Its deployment has no queue until set-up ran again, and lanes that waited there would never be taken."""
    run = pools.start(base_model__name=SLOW)
    until(lambda: pools.working(), 120)
    client.delete_work_pool(POOL)
    lost = f"deployment {TRAIN} has no work pool or queue any more: it was deleted"
    for note in pools.lanes("training"):  # those that work would go on; others are wanted
        pools.queue().lanes.ask_to_end(note.lane)
    until(lambda: lost in output(pools, run), 120)
    assert pools.call("setup", "--workdir", str(pools.folder)).returncode == 0
    pools.call("up", "--port", pools.url.removesuffix("/api").rsplit(":", 1)[1])
    said, _ = run.communicate(timeout=1200)
    assert run.returncode == 0, said
