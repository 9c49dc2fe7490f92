"""Training and evaluation on machines of two kinds, as A100s beside A10Gs, and a control machine that is neither."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolUpdate

from coral_core.queue.lane_board import LaneNote
from tests.pools.conftest import Pools, connected

pytestmark = pytest.mark.server

KINDS = {"coral-a100": "A100", "coral-a10g": "A10G"}


@pytest.fixture
def two_kinds(installation: Any) -> Iterator[None]:
    """Lanes of the two pools play machines of two numerics classes."""
    with connected(installation[1]) as client:
        before = {name: client.read_work_pool(name).base_job_template for name in KINDS}
        for name, machine in KINDS.items():
            template = json.loads(json.dumps(before[name]))
            template["job_configuration"]["env"]["CORAL_REHEARSAL_MACHINE"] = machine
            _update(client, name, template)
        yield
        for name, template in before.items():
            _update(client, name, template)


def _update(client: SyncPrefectClient, name: str, template: dict[str, Any]) -> None:
    client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))


def lanes(pools: Pools) -> list[LaneNote]:
    return list(pools.queue().lanes.notes())


@pytest.mark.slow(reason="a run and its verification")
def test_a100s_beside_a10gs(pools: Pools, two_kinds: None) -> None:
    done = pools.evolve()
    assert done.returncode == 0, done.stdout + done.stderr
    run = json.loads(pools.history().splitlines()[0])
    assert run["base_model"]["numerics_class"].endswith("on A10G")
    assert run["training_numerics_class"].endswith("on A100")
    shown = pools.call("report", pools.run.name, "--runs", str(pools.runs), "--json")
    assert "A100" in json.loads(shown.stdout)["numerics_class"]

    started, history = len(lanes(pools)), pools.history()
    again = pools.evolve()
    assert again.returncode == 0 and pools.history() == history
    assert len(lanes(pools)) == started, "a replay asks no lane"

    checked = pools.call("verify", pools.run.name, "--runs", str(pools.runs))
    assert checked.returncode == 0 and "A100" in checked.stdout, checked.stdout


@pytest.mark.slow(reason="a run whose lane must fail")
def test_a_model_that_is_on_no_lane_is_refused_by_a_lane(pools: Pools) -> None:
    done = pools.evolve(base_model__name="/models/on-the-lanes-alone")
    assert done.returncode == 2
    first = done.stderr.strip().splitlines()[0]
    assert "/models/on-the-lanes-alone" in first and "no such directory" in first and "lane" in first, done.stderr
