"""What can happen to the store while lanes work: gone, half-written, a lane killed at the worst instant."""

import os
import shutil
import subprocess
import sys

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.pools.conftest import SLOW, Pools, alive
from tests.pools.test_faults import finish
from tests.rehearsal_runs import Coral
from tests.waiting import until

pytestmark = pytest.mark.server

SABOTEUR = """
import os, sys
from coral_core.queue.queue import JobQueue
from coral_core.lanes.worker import LaneWorker
from coral_core.store.store import Store
finish = JobQueue.finish
def killed(queue, claim, ticket):
    os.kill(os.getpid(), 9) if ticket.kind == "training" else finish(queue, claim, ticket)
JobQueue.finish = killed
store = Store(sys.argv[1])
LaneWorker(store, JobQueue(store, "training"), linger=30).run()
"""


@pytest.mark.slow(reason="a run whose lease has to run out; tests/queue holds the claim")
def test_a_lane_is_killed_between_publishing_and_acknowledging(pools: Pools, undisturbed: Coral) -> None:
    """The result counts, the claim is swept, and nobody trains it again."""
    with temporary_settings({PREFECT_API_URL: pools.url}), get_client(sync_client=True) as client:
        client.update_work_pool("coral-a100", WorkPoolUpdate(is_paused=True))
        try:
            run = pools.start(base_model__name=SLOW, infra__lease="8")
            until(lambda: pools.store.root.exists() and pools.queue().open_digests())
            lane = subprocess.run([sys.executable, "-c", SABOTEUR, str(pools.store.root)], timeout=200)
            assert lane.returncode == -9
            (claim,) = pools.queue().claims()
            assert pools.store.read_adapter(claim.digest) is not None
        finally:
            client.update_work_pool("coral-a100", WorkPoolUpdate(is_paused=False))
    finish(run)
    assert pools.history() == undisturbed.history()
    trainings = len(list((pools.runs / "store" / "adapters").iterdir()))
    assert pools.work_done("training") == trainings - 1, "the published one was trained again"
    assert not pools.queue().claims()


@pytest.mark.slow(reason="two runs")
def test_the_store_goes_away(pools: Pools, undisturbed: Coral) -> None:
    """A clear error, no lane that lives on, nothing made on the bare mount point; mounted again, the run goes on."""
    run = pools.start(base_model__name=SLOW)
    until(lambda: pools.work_done("training") >= 2 and pools.working())
    lanes = [note.pid for note in pools.lanes()]
    away = pools.folder / "unmounted"
    os.rename(pools.store.root, away)
    pools.store.root.mkdir()  # what a mount point looks like without its mount
    out, _ = run.communicate(timeout=300)
    assert run.returncode == 3, out
    assert f"store {pools.store.root}" in out and "mount" in out.lower(), out
    until(lambda: not any(alive(pid) for pid in lanes), 40, "a lane lives on without its store")
    made = {path.name for path in pools.store.root.iterdir()}
    assert made <= {"prefect-cache"}, "somebody writes below the mount point"  # Prefect may, its pointers
    shutil.rmtree(pools.store.root)
    os.rename(away, pools.store.root)
    resumed = pools.call("resume", "latest", "--runs", str(pools.runs))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert pools.history() == undisturbed.history()


@pytest.mark.slow(reason="a run; make test has a broken entry in tests/flows")
def test_half_written_results_are_made_again(pools: Pools, undisturbed: Coral) -> None:
    """A store with cut files, as a crashed disk leaves them: each is set aside, said, and done once more."""
    shutil.copytree(undisturbed.runs / "store", pools.runs / "store")
    adapter = sorted((pools.runs / "store" / "adapters").iterdir())[0] / "adapter_model.safetensors"
    evaluation = sorted((pools.runs / "store" / "evaluations").glob("*.json"))[0]
    for file in (adapter, evaluation):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    result = pools.evolve(base_model__name=SLOW)
    assert result.returncode == 0, result.stderr
    assert pools.history() == undisturbed.history()
    assert pools.work_done("training") == 1 and pools.work_done("evaluation") == 1
    assert "is broken" in result.stdout + result.stderr
