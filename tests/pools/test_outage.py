"""The server is away: lanes work on, results are collected, Ctrl-C ends, and nothing is done twice. Slow."""

import signal
import time
from collections.abc import Iterator

import pytest

from tests.pools.conftest import SLOW, Pools, alive, connected, engine_of, kill, server_pid, up_again, worker_pid
from tests.pools.test_faults import finish, same
from tests.rehearsal_runs import Coral
from tests.waiting import until

pytestmark = [pytest.mark.server, pytest.mark.slow(reason="the server is away for minutes"), pytest.mark.five_lanes]


@pytest.fixture
def patient(pools: Pools) -> Iterator[Pools]:
    pools.environment["PREFECT_CLIENT_MAX_RETRIES"] = "12"  # what `coral` sets by default
    yield pools


def test_the_server_is_away_for_a_while(patient: Pools, undisturbed: Coral) -> None:
    run = patient.start(base_model__name=SLOW)
    until(lambda: patient.work_done("training") >= 1 and len(patient.queue().open_digests()) >= 2, 120)
    kill(server_pid(patient))
    before = patient.work_done("training")
    try:
        until(lambda: patient.work_done("training") > before, 40, "lanes go on without the server")
        time.sleep(30)  # subject: an outage of half a minute
    finally:
        up_again(patient)
    finish(run)
    same(patient, undisturbed)


def test_a_long_training_outlives_a_long_outage(patient: Pools) -> None:
    """Longer than a lease and than the automation for lost lanes waits: the beats go on, and no job is begun again."""
    settings = {"search__population": "4", "search__generations": "1", "problems__monitor": "0"}
    run = patient.start(base_model__name="rehearsal:train=130", infra__lease="20", **settings)
    lane = until(patient.working, 90)
    kill(server_pid(patient))
    beat = lane.beat
    try:
        for _ in range(6):
            time.sleep(20)  # subject: two minutes of outage
            now = patient.queue().lanes.read(lane.lane)
            assert now is not None and now.beat > beat, "a lane that waits for the server does not beat"
            beat = now.beat
    finally:
        up_again(patient)
    first = until(lambda: patient.work_done("training") >= 1, 60)
    assert first
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=200)
    losses = [line for line in (patient.run / "timings.jsonl").read_text().splitlines() if "lane-lost" in line]
    assert not losses, losses


def test_ctrl_c_while_the_server_is_away(patient: Pools) -> None:
    run = patient.start(base_model__name="rehearsal:train=60", search__generations="1")
    until(patient.working, 90)
    engines = [pid for note in patient.lanes() if (pid := engine_of(note))]
    kill(server_pid(patient))
    try:
        time.sleep(8)  # subject: a stop in the middle of an outage
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate(timeout=200)
        assert run.returncode == 130, out
        # their processes stay until Prefect could be told of it, with nothing in them that costs
        until(lambda: not patient.lanes(), 30, "lanes must end although the server is away")
        assert engines and not any(alive(pid) for pid in engines)
    finally:
        up_again(patient)


def test_a_worker_that_was_killed_is_said_while_prefect_thinks_it_online(pools: Pools) -> None:
    """Prefect takes more than a minute to notice; who waits for a lane is told within 15 seconds."""
    with connected(pools.url) as client:  # after an outage the server learns it from the next beat
        until(lambda: any(w.status == "ONLINE" for w in client.read_workers_for_work_pool("coral-a100")), 90)
    kill(worker_pid(pools, "coral-a100"))
    try:
        run = pools.start(base_model__name=SLOW)
        waiting = until(lambda: pools.runs.exists() and pools.queue().open_digests() and time.monotonic(), 60)
        assert run.stdout is not None
        said = next((line for line in run.stdout if "coral-a100" in line and "jobs wait" in line), "")
        assert time.monotonic() - waiting < 20, "15 s, and some for a loaded machine"
        # on a loaded machine Prefect may have noticed by now, and the line says what it says
        expected = ("asked for work", "coral doctor"), ("are silent", "prefect worker start")
        assert any(all(part in said for part in parts) for parts in expected), said
    finally:
        up_again(pools)
    finish(run)
