"""`coral drain`, and `coral jobs retry|drop` on a job that really failed."""

import json

import pytest

from tests.pools.conftest import Pools
from tests.waiting import until

pytestmark = pytest.mark.server


@pytest.mark.slow(reason="a run at the pace of a real engine")
def test_a_drained_pool_finishes_its_jobs_and_goes_on_when_told(pools: Pools) -> None:
    run = pools.start(base_model__name="rehearsal:train=4,evaluate=0.2", infra__training__lanes="1")
    until(lambda: len(pools.queue().open_digests()) > 2 and pools.working(), 120)
    lane = pools.working()
    assert lane is not None
    try:
        drained = pools.call("drain", "coral-a100")
        assert drained.returncode == 0, drained.stderr
        assert "waiting for" in drained.stdout and "ended worker of coral-a100" in drained.stdout
        assert not pools.lanes("training"), "a lane goes on in a drained pool"
        assert pools.store.read_adapter(lane.digest) is not None, "the job in flight was not finished"
        assert pools.queue().open_digests(), "nothing is left to go on with, so this shows nothing"
        assert run.poll() is None
    finally:
        again = pools.call("drain", "coral-a100", "--undo")
    assert again.returncode == 0 and "takes work again" in again.stdout
    out, _ = run.communicate(timeout=600)
    assert run.returncode == 0, out
    failures = (pools.run / "timings.jsonl").read_text().count('"type":"failure"')
    assert failures == 0, "a lane was lost"


@pytest.mark.slow(reason="a lane that dies and six commands; tests/cli/test_jobs.py holds the commands")
def test_a_job_that_failed_is_listed_tried_again_and_dropped(pools: Pools) -> None:
    store = ("--store", str(pools.runs / "store"))
    settings = pools.arguments(base_model__name="rehearsal:die=8", infra__attempts="1")[4:]  # from the file on
    failed = pools.call("submit", "train", *settings)
    assert failed.returncode != 0 and "SIGKILL" in failed.stderr
    (row,) = json.loads(pools.call("jobs", *store, "--json").stdout)["jobs"]
    assert row["state"] == "failed" and "SIGKILL" in row["reason"] and row["traceback"]

    assert "waits again" in pools.call("jobs", "retry", row["digest"][:12], *store).stdout
    (row,) = json.loads(pools.call("jobs", *store, "--json").stdout)["jobs"]
    assert row["state"] == "waiting" and row["tries"] == 0
    assert "dropped" in pools.call("jobs", "drop", row["digest"][:12], *store).stdout
    assert json.loads(pools.call("jobs", *store, "--json").stdout)["jobs"] == []
    unknown = pools.call("jobs", "retry", row["digest"][:12], *store)
    assert unknown.returncode == 2 and "no jobs begin like that" in unknown.stderr
