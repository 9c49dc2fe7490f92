"""The dispatcher of the work-pools executor without a server: what ends a wait, and what begins anew."""

import asyncio
import errno
import shutil
import threading
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coral_core.config import RunConfig
from coral_core.errors import EngineError, StoreError
from coral_core.evolution.job_runner import JobRunner, Planner, Recorder
from coral_core.execution.local import LocalExecutor
from coral_core.genome import HeavyGenes
from coral_core.jobs.jobs import BaseModelIdentity, IdentityJob, TrainedAdapter
from coral_core.lanes.worker import LaneWorker
from coral_core.ledger import Ledger
from coral_core.lm.engine_client import InlineEngine
from coral_core.queue.lane_board import LaneNote, lane_name
from coral_core.queue.queue import Failure, FailureReason, JobQueue, Ticket
from coral_core.runs.records import JobTiming
from coral_core.runs.run_folder import RunFolder
from coral_core.search.strategy import make_search
from coral_core.store.store import Store
from flows.cli.jobs import retry, rows
from flows.work_pools import pool_executor as pools
from flows.work_pools.fleet import UNKNOWN, Notice
from flows.work_pools.pool_executor import WorkPoolExecutor
from tests.waiting import still, until

CONFIG = RunConfig.model_validate(
    {
        "base_model": {"name": "rehearsal"},
        "problems": {"fitness": 6, "retention": 2, "monitor": 2, "held_out": 6, "pairs": 8},
    }
)
PLANNER = Planner.of_config(CONFIG)
JOB = PLANNER.training(make_search(CONFIG).ask()[0].heavy)


class NoFleet:
    """No lane ever comes."""

    def __init__(self, *_: Any) -> None: ...

    def refresh(self) -> bool:
        return True

    def start(self, *_: Any) -> None: ...

    def close(self) -> None: ...

    def notice(self, *_: Any) -> Notice:
        return Notice()

    def living(self, *_: Any) -> list[Any]:
        return []

    serving = ended_starts = living


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkPoolExecutor:
    monkeypatch.setattr(pools, "Fleet", NoFleet)
    monkeypatch.setattr(pools, "LOOK_SECONDS", 0.1)
    store = Store(tmp_path / "store")
    store.prepare()
    ledger = Ledger(store)
    ledger.set_budget("run", CONFIG.budget)
    return WorkPoolExecutor(CONFIG.infra, store, "run", ledger)


def ticket() -> Ticket:
    size = JOB.heavy.rank * len(JOB.heavy.target_modules)
    job = JOB.model_dump(mode="json")
    return Ticket(kind="training", digest=JOB.digest(), run_id="run", job=job, seconds=60, size=size)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ESTALE, errno.EACCES])
def test_a_store_that_cannot_be_written_ends_the_wait(
    executor: WorkPoolExecutor, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The ticket cannot be taken back either: that must not keep the error from who waits."""
    future: Future[Any] = executor.submit_training(JOB)

    def closed(*_: Any) -> None:
        raise OSError(number, "no")

    def gone(*_: Any) -> None:
        raise StoreError("store: it cannot be written")

    monkeypatch.setattr(JobQueue, "withdraw", closed)
    monkeypatch.setattr(JobQueue, "check", gone)
    with pytest.raises(StoreError, match="cannot be written"):
        future.result(timeout=10)
    assert executor._thread.is_alive()
    executor.close()


def test_leaving_cancels_everybody_although_a_ticket_stays(
    executor: WorkPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    futures = [executor.submit_training(JOB), executor.submit_evaluation(PLANNER.evaluation(None))]

    def closed(*_: Any) -> None:
        raise OSError(errno.EROFS, "no")

    monkeypatch.setattr(JobQueue, "withdraw", closed)
    executor.close()
    assert all(future.cancelled() for future in futures)


@pytest.mark.parametrize(("reason", "again"), [("store", True), ("base-model", True), ("other", False)])
def test_a_job_that_was_given_up_starts_anew(executor: WorkPoolExecutor, reason: str, again: bool) -> None:
    """After a full disk, say; a failure that is only about to be tried again keeps its count."""
    queue = executor._pools["training"].queue
    queue.submit(ticket())
    taken = queue.take("lane")
    assert taken is not None
    queue.fail(taken[1], taken[0], Failure(lane="lane", reason=FailureReason(reason), error="", message="full"))
    executor._closing.set()
    executor._thread.join()
    executor._closing.clear()
    executor.submit_training(JOB)
    assert (queue.failed(ticket()) is None) == again
    assert [t.failures for t in queue.waiting("run")] == ([()] if again else [])


def test_an_answer_that_a_dead_evolution_left_is_not_believed(executor: WorkPoolExecutor) -> None:
    job = IdentityJob(queue="training", base_model=CONFIG.base_model)
    queue = executor._pools["training"].queue
    queue.publish_answer(job.digest(), PLANNER.base("training").model_copy(update={"numerics_class": "an old machine"}))
    future = executor.submit_identity(job)
    assert queue.answer(job.digest(), BaseModelIdentity) is None and not future.done()
    queue.publish_answer(job.digest(), PLANNER.base("training"))
    assert future.result(timeout=10) == PLANNER.base("training")
    executor.close()


@pytest.mark.parametrize("error", ["OSError", "BlockingIOError", "MemoryError", "JudgeError", "KeyError"])
def test_what_may_be_of_one_machine_is_tried_again(executor: WorkPoolExecutor, error: str) -> None:
    """A machine without room for another process, say, must not end the search at the first try."""
    future = executor.submit_training(JOB)
    queue = executor._pools["training"].queue
    for tries in range(1, CONFIG.infra.attempts):
        play(queue, lambda ticket, claim: queue.fail(claim, ticket, Failure(lane="lane", error=error, message="sick")))
        until(lambda tries=tries: [t.tries for t in queue.waiting("run")] == [tries])
    play(queue, lambda ticket, claim: queue.fail(claim, ticket, Failure(lane="lane", error=error, message="sick")))
    with pytest.raises(EngineError, match="sick"):
        future.result(timeout=10)
    executor.close()


def play(queue: JobQueue, act: Any, lane: str = "lane") -> Ticket:
    """Be a lane: take the next job and `act`."""
    found: list[Any] = []
    until(lambda: found.append(queue.take(lane)) or found[-1])
    act(*found[-1])
    taken: Ticket = found[-1][0]
    return taken


def lose_lanes(executor: WorkPoolExecutor, future: Future[Any], answers: bool) -> list[Ticket]:
    """Lanes die of every job, one after the other; but they answer what base model they have, if they do."""
    queue, taken = executor._pools["training"].queue, []

    def act(ticket: Ticket, claim: Any) -> None:
        if ticket.kind == "identity" and answers:
            queue.publish_answer(ticket.digest, PLANNER.base("training"))
            queue.finish(claim, ticket)
        else:
            queue.lanes.write(LaneNote(lane=claim.lane, queue="training", started=0.0, state="ended", ended="killed"))

    while (found := until(lambda: future.done() or queue.take(f"lane-{len(taken)}"))) is not True:
        taken.append(found[0])
        act(*found)
        until(lambda: queue.claim(taken[-1].digest) is None)
        until(lambda: not answers or taken[-1].kind != "identity" or taken[-1].digest not in executor._pending)
    return [ticket for ticket in taken if ticket.kind == "training"]


def test_a_job_that_takes_its_lane_down_each_time_makes_its_genome_infeasible(executor: WorkPoolExecutor) -> None:
    """Out of a container's memory, say: alone each time, and between the losses the lanes did other work."""
    future = executor.submit_training(JOB)
    tries = lose_lanes(executor, future, answers=True)
    found = future.result(timeout=0)
    assert found.infeasible == "poison" and "10 lanes were lost" in found.reason and "(killed)" in found.reason
    assert [ticket.losses for ticket in tries] == list(range(10)), "a lane took a job as if it had not been lost before"
    assert [ticket.alone for ticket in tries] == [False] * 2 + [True] * 8
    assert executor._store.read_adapter(JOB.digest()) == found and not executor._pools["training"].queue.all_failed()
    executor.close()


def test_lanes_that_do_nothing_else_either_are_no_evidence(executor: WorkPoolExecutor) -> None:
    """The job is given up, stays listed with its reason, and can be tried again by hand."""
    future = executor.submit_training(JOB)
    lose_lanes(executor, future, answers=False)
    with pytest.raises(EngineError, match=r"10 lanes were lost.*coral jobs retry"):
        future.result(timeout=0)
    executor.close()
    store, queue = executor._store, executor._pools["training"].queue
    assert store.read_adapter(JOB.digest()) is None
    (row,) = [row for row in rows(store) if row["digest"] == JOB.digest()]
    assert row["state"] == "failed" and row["tries"] == 10 and "killed" in row["reason"]
    retry(JOB.digest()[:12], store=str(store.root))
    assert [t.failures for t in queue.waiting("run")] == [()] and queue.failed(ticket()) is None


def test_a_question_that_no_lane_answered_is_no_failed_job() -> None:
    noted: list[Any] = []
    folder: Any = SimpleNamespace(append_timing=noted.append, run_id="run")
    recorder = Recorder(folder)
    for kind in ("training", "identity", "evaluation"):
        recorder.job_failed(
            kind, "0" * 64, Failure(lane="l", error="lane-lost", message="killed", reason=FailureReason.LANE_LOST)
        )
    assert [row.kind for row in noted] == ["training", "evaluation"]


@pytest.mark.parametrize("times", [2, 9])
def test_a_machine_that_is_short_of_processes_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    left = [OSError(errno.EAGAIN, "no more processes")] * times

    class Short(InlineEngine):
        def load(self, base: Any) -> BaseModelIdentity:
            if left:
                raise left.pop()
            return super().load(base)

    monkeypatch.setattr("coral_core.execution.local.EngineProcess", Short)
    store = Store(tmp_path / "store")
    store.prepare()
    with LocalExecutor(CONFIG.infra, store) as local:
        future = local.submit_training(JOB)
        if times < CONFIG.infra.attempts:
            assert future.result(timeout=30).infeasible is None
        else:
            with pytest.raises(EngineError, match="no more processes"):
                future.result(timeout=30)
    assert len(left) == max(0, times - CONFIG.infra.attempts)


def test_a_lane_of_another_server_keeps_its_job_while_it_beats(
    executor: WorkPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store may be used with several servers; only its notes know of all lanes."""
    monkeypatch.setattr(executor._fleet, "ended_state", lambda *_: UNKNOWN, raising=False)
    queue, run = executor._pools["training"].queue, "5f0f5c1e-0000-4000-8000-000000000000"
    note = LaneNote(
        lane=lane_name("training", run),
        queue="training",
        started=0,
        state="working",
        digest=JOB.digest(),
        flow_run_id=run,
    )
    queue.lanes.write(note)
    future = executor.submit_training(JOB)
    until(lambda: queue.has_ticket(ticket()))
    assert queue.take(note.lane, run, "another box") is not None
    still(lambda: queue.claim(JOB.digest()) and not queue.waiting("run")[0].failures, 0.6)  # several looks
    next(executor._store.root.rglob(f"{note.lane}.json")).unlink()  # nothing says any more that it lives
    until(lambda: queue.claim(JOB.digest()) is None)
    future.cancel()
    executor.close()


@pytest.mark.parametrize("loss", ["gone", "of other genes"])
def test_a_lost_adapter_in_a_chain_is_trained_again_and_blames_no_genome(
    executor: WorkPoolExecutor, tmp_path: Path, loss: str
) -> None:
    store = Store(tmp_path / "store")
    later = HeavyGenes.model_validate(JOB.heavy.model_dump() | {"warm_start": JOB.heavy})
    job = PLANNER.training(later)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    worker = LaneWorker(store, JobQueue(store, "training"), 3.0)
    thread = threading.Thread(target=worker.run)
    thread.start()

    async def session() -> None:
        jobs = JobRunner(store, executor, Recorder(folder))
        await jobs.trained(JOB, "parent")
        path = store.adapter_path(JOB.digest())
        if loss == "gone":
            shutil.rmtree(path)
        else:  # sound as a file, and not what the genes say
            (path / "adapter_config.json").write_text("{}")
            (path / "manifest.json").unlink()
            scratch = store.scratch()
            shutil.copytree(path, scratch, dirs_exist_ok=True)
            shutil.rmtree(path)
            store.publish_adapter(JOB.digest(), scratch, TrainedAdapter(training_digest=JOB.digest()))
        await jobs.trained(job, "child")
        jobs.close()

    try:
        asyncio.run(session())
    finally:
        thread.join(timeout=60)
        executor.close()
    for each in job.chain():
        adapter = store.read_adapter(each.digest())
        assert adapter is not None and adapter.infeasible is None
    trained = [line.digest for line in folder.timings() if isinstance(line, JobTiming)]
    assert trained == [JOB.digest(), JOB.digest(), job.digest()]
    assert not JobQueue(store, "training").all_failed()
