"""Runs of a schedule: one at a time, each an edition of its own, and `coral setup` leaves schedules alone."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import DeploymentSchedule, FlowRun
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled
from prefect.types._datetime import now

from tests.pools.conftest import Pools, command
from tests.rehearsal_runs import SMALL
from tests.waiting import until

pytestmark = pytest.mark.server


@pytest.fixture
def client(installation: tuple[Path, str]) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: installation[1]}), get_client(sync_client=True) as made:
        yield made


def nightly(pools: Pools, seconds: float) -> dict[str, Any]:
    """The configuration of a small nightly run whose trainings take `seconds`."""
    tree: dict[str, Any] = {}
    values = {
        **SMALL,
        "name": "nightly",
        "runs": str(pools.runs),
        "store.path": str(pools.runs / "store"),
        "base_model.name": f"rehearsal:train={seconds}",
        "search.start_from": "last-champion",
        "search.generations": "1",
        "infra.executor": "inline",
    }
    for key, value in values.items():
        *path, last = key.split(".")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        place[last] = int(value) if value.isdigit() else value
    return tree


def scheduled(client: SyncPrefectClient, config: dict[str, Any]) -> FlowRun:
    """A run as the scheduler would make it."""
    deployment = client.read_deployment_by_name("evolve/evolve")
    return client.create_flow_run_from_deployment(
        deployment.id,
        parameters={"config": config},
        state=Scheduled(scheduled_time=now("UTC")),
        tags=["auto-scheduled"],
    )


def state(client: SyncPrefectClient, run: FlowRun) -> Any:
    return client.read_flow_run(run.id).state


@pytest.mark.slow(reason="a run at the pace of a real engine")
def test_a_scheduled_run_is_refused_while_the_one_before_still_runs(pools: Pools, client: SyncPrefectClient) -> None:
    first = scheduled(client, nightly(pools, 4))
    until(lambda: state(client, first).is_running(), 120)
    second = scheduled(client, nightly(pools, 4))
    refused = until(lambda: (s := state(client, second)).is_final() and s, 120)
    assert refused.is_cancelled() and refused.message == "Deployment concurrency limit reached."
    until(lambda: state(client, first).is_final(), 240)
    assert state(client, first).is_completed(), state(client, first).message
    (folder,) = [path.parent for path in pools.runs.glob("*/run.json")]
    edition = json.loads((folder / "run.json").read_text())["identity"]["edition"]
    assert 20260101 <= edition <= 21000101, "the scheduled date"
    begun = json.loads((folder / "history.jsonl").read_text().splitlines()[0])["start"]
    assert begun["start_from"] == "last-champion" and begun["previous"] is None


@pytest.mark.slow(reason="two set-ups each")
@pytest.mark.parametrize("slug", ["weekly", None])
def test_setup_leaves_schedules_alone(
    installation: tuple[Path, str], client: SyncPrefectClient, slug: str | None
) -> None:
    """The nightly one stays switched on, and what somebody added stays; also without a slug, as the UI makes them."""
    home, _ = installation
    work = client.read_work_pool("coral-control").base_job_template
    place = work["job_configuration"]["working_dir"]
    deployment = client.read_deployment_by_name("evolve/evolve").id

    def those() -> dict[str | None, DeploymentSchedule]:
        return {each.slug: each for each in client.read_deployment_schedules(deployment)}

    (nightly_one,) = those().values()
    assert not nightly_one.active, "off until somebody wants it"
    client.update_deployment_schedule(deployment, nightly_one.id, active=True)
    weekly = IntervalSchedule(interval=timedelta(weeks=1), timezone="Europe/Paris")
    added = {"schedule": weekly, "active": False, "slug": slug, "parameters": {"config": {"name": "weekly"}}}
    client.create_deployment_schedules(deployment, [DeploymentScheduleCreate.model_validate(added)])
    try:
        for _ in range(2):
            command(home, "setup", "--workdir", place)
            assert those().keys() == {"nightly", slug}
            assert (those()["nightly"].active, those()[slug].active) == (True, False)
            kept = those()[slug].schedule
            assert isinstance(kept, IntervalSchedule)
            assert (kept.interval, kept.timezone) == (weekly.interval, "Europe/Paris")
            assert those()[slug].parameters == {"config": {"name": "weekly"}}
    finally:
        client.delete_deployment_schedule(deployment, those()[slug].id)
        client.update_deployment_schedule(deployment, those()["nightly"].id, active=False)
    assert not those()["nightly"].active
