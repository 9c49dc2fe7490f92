"""The failure table against a real server and real workers: nothing lost, nothing done twice, history identical."""

import json
import signal
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from tests.pools.conftest import SLOW, Pools, alive, command, connected, engine_of, kill, up_again, worker_pid
from tests.rehearsal_runs import Coral
from tests.waiting import until

pytestmark = pytest.mark.server


def finish(process: "subprocess.Popen[str]") -> str:
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    return out


def same(pools: Pools, undisturbed: Coral, repeated: int = 0) -> None:
    """Equal history; lanes tried `repeated` jobs more than there are, and no job was published twice."""
    assert pools.history() == undisturbed.history()
    done = pools.done()
    assert len(done) == len(set(done))
    trainings = len(list((pools.runs / "store" / "adapters").iterdir()))
    assert trainings <= pools.work_done("training") <= trainings + repeated
    for name in ("training", "evaluation"):
        queue = pools.queue(name)
        assert not queue.claims() and not queue.open_digests() and not queue.all_failed()


@pytest.mark.slow(reason="two runs and idle lanes; make test compares the history after a lane was killed")
def test_the_history_is_that_of_the_local_executor(pools: Pools, undisturbed: Coral) -> None:
    result = pools.evolve(base_model__name=SLOW)
    assert result.returncode == 0, result.stdout + result.stderr
    same(pools, undisturbed)
    until(lambda: not pools.lanes(), 30, "an idle evolution must hold no lane")
    again = pools.evolve(base_model__name=SLOW)
    assert again.returncode == 0 and pools.history() == undisturbed.history()
    assert pools.report()["counts"] == {**pools.report()["counts"], "trainings": 0, "evaluations": 0}


def test_a_lane_is_killed(pools: Pools, undisturbed: Coral) -> None:
    run = pools.start(base_model__name=SLOW)
    lane = until(pools.working)
    kill(lane.pid)
    finish(run)
    same(pools, undisturbed)
    lost = [note for note in pools.queue().lanes.notes() if note.pid == lane.pid]
    assert lost[0].state == "working", "a killed lane says no goodbye"


@pytest.mark.slow(reason="a run; make test kills a lane and the evolution")
def test_a_worker_is_killed(pools: Pools, undisturbed: Coral) -> None:
    """Its lanes go on without it: what they log is no more read, and that ends nobody."""
    run = pools.start(base_model__name=SLOW)
    lane = until(pools.working)
    before = lane.jobs
    kill(worker_pid(pools, "coral-a100"))
    until(lambda: (n := pools.queue().lanes.read(lane.lane)) and n.jobs > before + 1)
    up_again(pools)
    finish(run)
    same(pools, undisturbed)
    with connected(pools.url) as client:
        state = until(lambda: (s := client.read_flow_run(UUID(lane.flow_run_id)).state) and s.is_final() and s)
    assert state.is_completed(), state.message


@pytest.mark.slow(reason="a run; make test kills a lane and the evolution")
def test_an_engine_is_killed(pools: Pools, undisturbed: Coral) -> None:
    run = pools.start(base_model__name=SLOW)
    until(lambda: (lane := pools.working()) and (pid := engine_of(lane)) and (kill(pid) or True))
    finish(run)
    same(pools, undisturbed, repeated=1)


@pytest.mark.slow(reason="a run at the pace of a real engine; make test kills a lane")
def test_the_evolution_is_killed_and_started_again(pools: Pools, undisturbed: Coral) -> None:
    run = pools.start(base_model__name=SLOW)
    until(lambda: pools.work_done() >= 2)
    run.kill()
    run.wait()
    lanes = {note.lane for note in pools.lanes()}
    assert lanes, "lanes must outlive the evolution"
    finish(pools.start(base_model__name=SLOW))
    same(pools, undisturbed)
    assert lanes & {n.lane for n in pools.queue().lanes.notes() if n.jobs > 1}


@pytest.mark.slow(reason="a lease has to run out")
def test_a_lane_stands_still(pools: Pools, undisturbed: Coral) -> None:
    import os

    run = pools.start(base_model__name=SLOW, infra__lease="6")
    lane = until(pools.working)
    os.kill(lane.pid, signal.SIGSTOP)
    try:
        finish(run)
        same(pools, undisturbed)
    finally:
        kill(lane.pid)


@pytest.mark.slow(reason="a run each; tests/work_pools holds the bisection")
@pytest.mark.parametrize(("option", "reason"), [("die", "poison"), ("full", "out-of-memory")])
def test_a_job_that_fails_everywhere_makes_its_genome_infeasible(pools: Pools, option: str, reason: str) -> None:
    result = pools.evolve(base_model__name=f"rehearsal:{option}=32", genes__heavy__rank="[4, 32]")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [json.loads(line) for line in pools.history().splitlines()]
    genomes = [row for row in rows if row["type"] == "genome"]
    poisoned = [row for row in genomes if row["genome"]["heavy"]["rank"] == 32]
    assert poisoned and all(row["infeasible"] == reason and row["scores"] == {} for row in poisoned)
    assert all(row["infeasible"] is None for row in genomes if row["genome"]["heavy"]["rank"] == 4)
    assert "with nothing beside it" in poisoned[0]["reason"]


@pytest.mark.slow(reason="a run at the pace of a real engine; tests/flows stops a run, tests/work_pools its lanes")
def test_cancel_ends_lanes_and_resume_goes_on(pools: Pools, undisturbed: Coral) -> None:
    run = pools.start(base_model__name=SLOW)
    until(lambda: pools.work_done() >= 1 and pools.working())
    engines = [pid for note in pools.lanes() if (pid := engine_of(note))]
    out = pools.call("cancel", "latest", "--runs", str(pools.runs))
    assert out.returncode == 0, out.stdout + out.stderr
    assert run.wait(timeout=30) == 130
    until(lambda: not pools.lanes(), 30, "lanes must end within 30 s of a cancel", patience=1)
    assert not any(alive(pid) for pid in engines)
    assert not pools.queue().open_digests() and list((pools.runs / "store" / "adapters").iterdir())
    resumed = pools.call("resume", "latest", "--runs", str(pools.runs))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert pools.history() == undisturbed.history()


@pytest.mark.slow(reason="two runs")
def test_two_evolutions_share_trainings_and_lanes(pools: Pools) -> None:
    """Same store, same seed, other budget: what both want is trained once."""
    settings = {"base_model__name": "rehearsal:train=0.5", "search__generations": "1"}
    first = pools.start(**settings)
    second = pools.start(**settings, name="other")
    finish(first)
    finish(second)
    adapters = len(list((pools.runs / "store" / "adapters").iterdir()))
    assert pools.work_done("training") == adapters
    runs = {path.parent.name: path.read_bytes().splitlines()[1:] for path in pools.runs.glob("*/history.jsonl")}
    assert len(runs) == 2 and len({tuple(rows) for rows in runs.values()}) == 1


@pytest.mark.slow(reason="a lane for each of three jobs")
def test_jobs_by_hand(pools: Pools) -> None:
    config = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
    sets = [
        part
        for value in ("base_model.name=rehearsal", f"store.path={pools.store.root}", "problems.fitness=12")
        for part in ("--set", value)
    ]
    trained = pools.call("submit", "train", str(config), *sets)
    assert trained.returncode == 0 and json.loads(trained.stdout)["infeasible"] is None, trained.stderr
    evaluated = pools.call("submit", "evaluate", str(config), *sets)
    assert evaluated.returncode == 0 and "bugfix" in json.loads(evaluated.stdout)["scores"], evaluated.stderr
    patch = pools.folder / "patch.py"
    patch.write_text("def nothing(): pass\n")
    problems = pools.call("problems", "check", "builtin", "--json")
    name = json.loads(problems.stdout)[0]["problem"]
    judged = pools.call("submit", "test", str(config), name, str(patch), *sets)
    assert judged.returncode == 1 and json.loads(judged.stdout)["verdict"]["outcome"] == "no-function", judged.stderr
    status = json.loads(pools.call("status", "--store", str(pools.store.root), "--json").stdout)
    by_name = {pool["name"]: pool for pool in status["pools"]}
    assert set(by_name) == {"coral-control", "coral-a100", "coral-a10g"}
    assert all({"queued", "running", "lanes_online"} <= set(pool) for pool in status["pools"])
    assert by_name["coral-a10g"]["completed_last_hour"] == 2 and by_name["coral-a100"]["workers_online"] == 1


@pytest.mark.slow(reason="a command on the whole installation")
def test_set_up_again_changes_nothing(installation: tuple[Path, str]) -> None:
    home, _ = installation
    seen = command(home, "setup", "--dry-run", "--workdir", str(home))
    assert "work pool coral-a100" in seen and "would create" not in seen
