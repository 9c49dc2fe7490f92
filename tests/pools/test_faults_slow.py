"""The slow half of the failure table: a lost machine, a poison job, a cancel from the UI, fair service."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Pending

from coral_core.config.budget_config import LanePrices
from coral_core.ledger import Ledger
from tests.pools.conftest import SLOW, Pools, alive, descendants, engine_of, kill, up_again, worker_pid
from tests.pools.test_faults import finish, same
from tests.rehearsal_runs import SMALL, Coral
from tests.waiting import until

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow(reason="leases, lost machines and deployed runs: minutes"),
    pytest.mark.five_lanes,
]


@pytest.fixture
def client(pools: Pools) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: pools.url}), get_client(sync_client=True) as made:
        yield made


def test_a_job_takes_its_lane_down_each_time(pools: Pools) -> None:
    """As a container that is short of memory: ten lanes are lost, and then the genome is infeasible and the search goes on."""
    run = pools.start(base_model__name="rehearsal:train=3", genes__heavy__rank="[4, 32]", search__generations="1")
    tickets = pools.runs / "store" / "queue" / "training" / "tickets"

    def largest() -> str:
        jobs = [json.loads(path.read_text()) for path in tickets.glob("*/2-*.json")]
        return next((job["digest"] for job in jobs if job["job"]["heavy"]["rank"] == 32), "")

    victim = until(largest, 120)
    lost: set[int] = set()

    def over() -> bool:
        for note in pools.lanes("training"):
            if note.digest == victim and note.pid not in lost:
                lost.add(note.pid)
                kill(note.pid)
        return run.poll() is not None

    until(over, 600)
    assert run.returncode == 0, run.communicate()[0]
    found = pools.store.read_adapter(victim)
    assert found is not None and found.infeasible == "poison" and "10 lanes were lost" in found.reason
    assert len(lost) == 10 and not pools.queue().all_failed() and not pools.queue().open_digests()
    others = [path.name for path in (pools.store.root / "adapters").iterdir() if path.name != victim]
    assert others and sorted(others) == sorted(digest for digest, _ in pools.trained())


def test_a_lane_that_never_comes(pools: Pools, undisturbed: Coral, client: SyncPrefectClient) -> None:
    """A run that a dead worker took and never started is put on record as lost; another lane starts."""
    run = pools.start(base_model__name=SLOW, infra__start="10")
    kill(worker_pid(pools, "coral-a100"))
    pending = until(lambda: _lane_runs(client, pools), 60)[0]
    with contextlib.suppress(Exception):
        client.set_flow_run_state(pending.id, Pending(), force=True)
    up_again(pools)
    finish(run)
    assert pools.history() == undisturbed.history()


def test_a_machine_is_lost(pools: Pools, undisturbed: Coral, client: SyncPrefectClient) -> None:
    """Worker, lane and engine at once: found by the beat, and Prefect's record is put right by the automation."""
    run = pools.start(base_model__name=SLOW, infra__lease="10")
    lane = until(pools.working)
    worker = worker_pid(pools, "coral-a100")
    family = [worker, *descendants(worker)]
    for pid in family:
        kill(pid)
    up_again(pools)
    finish(run)
    same(pools, undisturbed)
    until(lambda: _state(client, lane.flow_run_id) in ("Crashed", "Cancelled"), 200, "the record was not put right")


def test_a_cancel_in_the_ui_ends_a_deployed_evolution(pools: Pools, client: SyncPrefectClient) -> None:
    run = _deployed(client, pools, genes={"heavy": {"rank": [2, 4, 8, 16, 32]}})
    until(lambda: pools.runs.exists() and pools.working(), 90)
    engines = [pid for note in pools.lanes() if (pid := engine_of(note))]
    client.set_flow_run_state(run.id, Cancelling())
    until(lambda: not pools.lanes(), 40, "lanes must end within 30 s of a cancel", patience=1)
    until(lambda: _state(client, str(run.id)) == "Cancelled", 40)
    assert not any(alive(pid) for pid in engines) and not pools.queue().open_digests()
    resumed = pools.call("resume", "latest", "--runs", str(pools.runs))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr


def test_a_deployed_evolution_outlives_its_worker(pools: Pools, client: SyncPrefectClient) -> None:
    """It needs the worker to be started, and to nothing else: what it logs afterwards is in the API, and it ends well."""
    run = _deployed(client, pools)
    until(lambda: pools.runs.exists() and pools.working(), 90)
    kill(worker_pid(pools, "coral-control"))
    until(lambda: _state(client, str(run.id)) != "Running", 150)
    assert _state(client, str(run.id)) == "Completed"
    assert b'"type": "final"' in pools.history()
    up_again(pools)


def test_lanes_follow_the_work(pools: Pools) -> None:
    """None before there is work, no more than it can fill, none afterwards: one pays for active lanes only."""
    seen: list[int] = []
    run = pools.start(base_model__name="rehearsal:train=4", infra__linger="8", search__generations="1")

    def over() -> bool:
        seen.append(len([note for note in pools.lanes("training") if alive(note.pid)]))
        return run.poll() is not None

    until(over, 600)
    assert run.returncode == 0 and seen[0] == 0 and max(seen) == 2, run.communicate()[0]
    until(lambda: not any(alive(note.pid) for note in pools.lanes()), 20)
    starts = sum(note.queue == "training" for note in pools.queue().lanes.notes())
    assert starts <= 4, "a lane stays warm while there is work"


def test_two_evolutions_are_served_alike(pools: Pools) -> None:
    """Other seeds, so nothing is shared: each gets 40 to 60 % of the lane seconds while both have work."""
    settings = {"base_model__name": "rehearsal:train=1,evaluate=1", "search__generations": "3"}
    both = [pools.start(**settings, seed=str(seed), name=f"run-{seed}") for seed in (1, 2)]
    shares: list[float] = []

    def over() -> bool:
        hours = Ledger(pools.queue().store).evolutions(LanePrices())
        totals = [sum(spent.gpu_hours for run, spent in hours.items() if run.startswith(n)) for n in ("run-1", "run-2")]
        if min(totals) > 0:
            shares.append(totals[0] / sum(totals))
        return any(run.poll() is not None for run in both)

    until(over, 600, look=0.5)
    for run in both:
        finish(run)
    assert shares and 0.4 <= shares[-1] <= 0.6, shares[-5:]


def _deployed(client: SyncPrefectClient, pools: Pools, **sections: Any) -> FlowRun:
    """Start a small evolution as the UI does."""
    config: dict[str, Any] = {
        "name": "deployed",
        "runs": str(pools.runs),
        "store": {"path": str(pools.runs / "store")},
        "infra": {"executor": "work-pools"},
        **sections,
    }
    for key, value in (SMALL | {"base_model.name": "rehearsal:train=3"}).items():
        section, name = key.split(".")
        config.setdefault(section, {})[name] = int(value) if value.isdigit() else value
    deployment = client.read_deployment_by_name("evolve/evolve")
    return client.create_flow_run_from_deployment(deployment.id, parameters={"config": config})


def _lane_runs(client: SyncPrefectClient, pools: Pools) -> list[FlowRun]:
    """This store's training lanes that no worker has taken yet."""
    tag = f"store:{pools.queue().installation()[:12]}" if (pools.runs / "store" / "queue").exists() else "none"
    found = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])))
    return [run for run in found if run.name.startswith("training")]


def _state(client: SyncPrefectClient, flow_run_id: str) -> str:
    state = client.read_flow_run(UUID(flow_run_id)).state
    return state.name if state else ""
