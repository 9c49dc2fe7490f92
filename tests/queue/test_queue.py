"""Tickets, claims, fair service and lanes, without Prefect: many threads, one folder."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coral_core.config import BaseModelConfig, BudgetConfig, RunConfig
from coral_core.errors import StoreError
from coral_core.evolution.job_runner import Planner
from coral_core.genome import HeavyGenes
from coral_core.jobs.job_content import job_for_patch, problem_set
from coral_core.jobs.jobs import BaseModelIdentity, IdentityJob, TestResult
from coral_core.lanes.worker import LaneWorker
from coral_core.ledger import Ledger
from coral_core.lm.engine_client import InlineEngine
from coral_core.queue.lane_board import LaneNote
from coral_core.queue.queue import Failure, JobQueue, Ticket
from coral_core.search.strategy import make_search
from coral_core.store.store import Store
from tests.waiting import until

SMALL = {
    "base_model": {"name": "rehearsal"},
    "search": {"population": 8},
    "problems": {"fitness": 6, "retention": 2, "monitor": 2, "held_out": 6, "pairs": 8},
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def queue(store: Store, name: Any = "training") -> JobQueue:
    made = JobQueue(store, name)
    made.prepare()
    return made


def planner(**changes: Any) -> Planner:
    config = RunConfig.model_validate(SMALL | changes)
    return Planner.of_config(config)


def genes(plan: Planner) -> list[HeavyGenes]:
    found = {genome.heavy.digest(): genome.heavy for genome in make_search(plan.config).ask()}
    return list(found.values())


def training(plan: Planner, heavy: HeavyGenes, run_id: str = "one", **more: Any) -> Ticket:
    job = plan.training(heavy)
    return Ticket(
        kind="training", digest=job.digest(), run_id=run_id, job=job.model_dump(mode="json"), seconds=60, **more
    )


@pytest.fixture(scope="module")
def plan() -> Iterator[Planner]:
    yield planner()


def test_larger_trainings_go_first_and_tests_before_evaluations(store: Store, plan: Planner) -> None:
    q = queue(store)
    small, large = (training(plan, heavy, size=size) for heavy, size in zip(genes(plan), (5, 50), strict=False))
    for ticket in (small, large):
        q.submit(ticket)
    taken = q.take("lane")
    assert taken is not None and taken[0] == large
    job = job_for_patch(plan.config, problem_set(plan.config.problems).fitness[0].problem_id, "x = 1")
    test = Ticket(kind="test", digest=job.digest(), run_id="one", job=job.model_dump(mode="json"), seconds=60)
    evaluation = plan.evaluation(None)
    other = test.model_copy(update={"kind": "evaluation", "digest": evaluation.digest(), "size": 900_000})
    assert test.file < other.file


def test_a_job_is_claimed_once_however_many_lanes_reach_for_it(store: Store, plan: Planner) -> None:
    q = queue(store)
    tickets = [training(plan, heavy) for heavy in genes(plan)]
    for ticket in tickets:
        q.submit(ticket)
    taken: list[str] = []
    start = threading.Barrier(8)

    def reach(number: int) -> None:
        own = JobQueue(store, "training")
        start.wait()
        while (found := own.take(f"lane-{number}")) is not None:
            taken.append(found[0].digest)

    threads = [threading.Thread(target=reach, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(ticket.digest for ticket in tickets)


def test_a_job_that_may_not_begin_is_given_back_and_another_evolution_is_served(store: Store, plan: Planner) -> None:
    q = queue(store)
    for run_id, heavy in zip(("one", "one", "two"), genes(plan), strict=False):
        q.submit(training(plan, heavy, run_id))
    asked: list[str] = []

    def begin(ticket: Ticket) -> bool:
        asked.append(ticket.run_id)
        assert [claim.digest for claim in q.claims()] == [ticket.digest], "it is booked under its claim"
        return ticket.run_id == "one"

    taken = q.take("lane", begin=begin)
    assert taken is not None and taken[0].run_id == "two" and asked == ["one", "two"]
    q.finish(taken[1], taken[0])

    def unbooked(ticket: Ticket) -> bool:
        raise StoreError("the account cannot be written")

    with pytest.raises(StoreError, match="the account"):
        q.take("lane", begin=unbooked)
    assert not q.claims() and len(q.waiting("one")) == 2


def test_two_evolutions_that_want_one_training_get_one(store: Store, plan: Planner) -> None:
    q = queue(store)
    first, second = (training(plan, genes(plan)[0], run_id) for run_id in ("one", "two"))
    q.submit(first)
    q.submit(second)
    worker = LaneWorker(store, JobQueue(store, "training"), 0.2, make_engine=InlineEngine)
    assert worker.run() == "idle"
    assert store.read_adapter(first.digest) is not None
    assert not q.has_ticket(first) and not q.has_ticket(second) and not q.claims()
    (note,) = q.lanes.notes()
    assert note.jobs == 1 and note.state == "ended"


def test_a_failed_job_waits_for_the_executor_and_is_not_taken_again(store: Store, plan: Planner) -> None:
    q = queue(store)
    ticket = training(plan, genes(plan)[0])
    q.submit(ticket.model_copy(update={"digest": "0" * 64}))  # not the digest of that job
    LaneWorker(store, JobQueue(store, "training"), 0.2, make_engine=InlineEngine).run()
    (failed,) = q.all_failed()
    assert failed.ticket.failures[0].error == "EngineError" and failed.ticket.tries == 1
    assert "Deploy one version" in failed.ticket.failures[0].message and "Traceback" in failed.traceback
    assert q.take("lane") is None and not q.claims()


def test_a_broken_claim_frees_the_job_and_the_old_lane_cannot_finish_it(store: Store, plan: Planner) -> None:
    q = queue(store)
    ticket = training(plan, genes(plan)[0])
    q.submit(ticket)
    taken = q.take("dead")
    assert taken is not None
    _, claim = taken
    assert q.take("other") is None
    assert q.break_claim(claim) and not q.break_claim(claim)
    again = q.take("other")
    assert again is not None and again[0] == ticket
    q.release(claim)
    assert q.holds(again[1]), "a lane whose claim was broken must not release another's"
    q.fail(claim, ticket, Failure(lane="dead", error="EngineError", message="late"))
    assert not q.all_failed()


def test_a_job_that_must_run_alone_waits_and_holds_others_off(store: Store, plan: Planner) -> None:
    q = queue(store)
    first, second, third = genes(plan)[:3]
    q.submit(training(plan, first, size=9))
    busy = q.take("a", host="h")
    assert busy is not None
    q.submit(training(plan, second, size=8, alone=True))
    assert q.take("b", host="h") is None
    elsewhere = q.take("c", host="other")
    assert elsewhere is not None and elsewhere[1].alone
    q.release(elsewhere[1])
    q.release(busy[1])
    q.withdraw(busy[0])
    alone = q.take("b", host="h")
    assert alone is not None and alone[1].alone
    q.submit(training(plan, third))
    assert q.take("a", host="h") is None and q.take("a", host="other") is not None


def test_a_withdrawn_job_is_stopped_and_the_lane_lives_on(store: Store) -> None:
    slow = planner(base_model={"name": "rehearsal:train=60"})
    quick = planner()
    q = queue(store)
    ticket = training(slow, genes(slow)[0])
    q.submit(ticket)
    worker = LaneWorker(store, JobQueue(store, "training"), 2.0)
    thread = threading.Thread(target=worker.run)
    thread.start()
    until(q.claims, 30)
    q.withdraw(ticket)
    after = training(quick, genes(quick)[1])
    q.submit(after)
    thread.join(timeout=40)
    assert not thread.is_alive() and store.read_adapter(ticket.digest) is None
    assert store.read_adapter(after.digest) is not None and not q.all_failed()
    (account,) = Ledger(store).accounts()
    assert account.work["one"]["training"].jobs == 1, "a job that was stopped on purpose does not say what jobs take"


def test_a_lane_whose_beat_stands_still_is_silent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    board = queue(store).lanes
    note = LaneNote(lane="l", queue="training", started=0.0, beat=1)
    for _ in range(4):
        assert not board.silent(note, lease=60)
        now += 20
    assert board.silent(note, lease=60)
    assert not board.silent(note.model_copy(update={"beat": 2}), lease=60)


def test_who_did_not_look_counts_beats_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dispatcher that stood still itself has not seen that a lane stood still."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    board = queue(store).lanes
    note = LaneNote(lane="l", queue="training", started=0.0, beat=1)
    assert not board.silent(note, lease=60)
    now += 100
    assert not board.silent(note, lease=60)
    for _ in range(6):
        now += 10
        assert not board.silent(note, lease=60)
    now += 10
    assert board.silent(note, lease=60)


def test_a_lane_beats_while_its_order_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API may take minutes to answer; who does not beat is taken for dead."""
    monkeypatch.setattr("coral_core.lanes.worker.BEAT_SECONDS", 0.05)
    monkeypatch.setattr("coral_core.lanes.worker.ASK_SECONDS", 0.05)
    asked, answer = threading.Event(), threading.Event()

    def order() -> Any:
        asked.set()
        answer.wait(20)
        return "stop"

    q = queue(store)
    worker = LaneWorker(store, q, 30, command=order)
    thread = threading.Thread(target=worker.run)
    thread.start()
    assert asked.wait(10)
    before = q.lanes.read(worker.note.lane)
    assert before is not None
    until(lambda: (after := q.lanes.read(worker.note.lane)) and after.beat > before.beat + 2, 10)
    answer.set()
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_a_test_job_comes_back_through_the_queue(store: Store, plan: Planner) -> None:
    q = queue(store, "evaluation")
    problem = problem_set(plan.config.problems).fitness[0]
    job = job_for_patch(plan.config, problem.problem_id, problem.reference)
    q.submit(Ticket(kind="test", digest=job.digest(), run_id="one", job=job.model_dump(mode="json"), seconds=60))
    LaneWorker(store, JobQueue(store, "evaluation"), 0.2).run()
    result = q.answer(job.digest(), TestResult)
    assert result is not None and result.passed


def test_a_lane_does_not_wait_at_the_expense_of_who_may_not_spend_any_more(store: Store, plan: Planner) -> None:
    """Nothing lies in its queue, so nothing is closed to it; but its seconds are paid by the one that it worked for."""
    q = queue(store, "evaluation")
    problem = problem_set(plan.config.problems).fitness[0]
    job = job_for_patch(plan.config, problem.problem_id, problem.reference)
    q.submit(Ticket(kind="test", digest=job.digest(), run_id="one", job=job.model_dump(mode="json"), seconds=60))
    Ledger(store).set_budget("one", BudgetConfig.model_validate({"evolution": {"gpu_hours": 1.5 / 3600}}))
    assert LaneWorker(store, q, 30, ledger=Ledger(store)).run() == "budget"
    assert q.answer(job.digest(), TestResult) is not None and not q.runs()


def test_a_lane_says_what_the_base_model_is_on_its_machine(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORAL_REHEARSAL_MACHINE", "B")
    job = IdentityJob(queue="training", base_model=BaseModelConfig(name="rehearsal"))
    q = queue(store)
    q.submit(Ticket(kind="identity", digest=job.digest(), run_id="one", job=job.model_dump(mode="json"), seconds=60))
    Ledger(store).set_budget("one", BudgetConfig())
    LaneWorker(store, q, 0.2, ledger=Ledger(store)).run()
    found = q.answer(job.digest(), BaseModelIdentity)
    assert found is not None and found.numerics_class.endswith("on B")
    (account,) = Ledger(store).accounts()
    assert account.spent and not account.work, "a question is paid for, and says nothing about what jobs take"


def test_a_lane_of_another_machine_refuses_the_job(
    store: Store, plan: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORAL_REHEARSAL_MACHINE", "B")
    q, ticket = queue(store), training(plan, genes(plan)[0])
    q.submit(ticket)
    LaneWorker(store, q, 0.2).run()
    failed = q.failed(ticket)
    assert failed is not None
    message = failed.ticket.failures[-1].message
    assert "on B)" in message and "--again" in message and store.read_adapter(ticket.digest) is None


def test_a_lane_whose_machine_is_sick_leaves_the_next_try_to_another(store: Store, plan: Planner) -> None:
    class Short(InlineEngine):
        def load(self, base: BaseModelConfig) -> BaseModelIdentity:
            raise OSError(12, "Cannot allocate memory")

    q, ticket = queue(store), training(plan, genes(plan)[0])
    q.submit(ticket)
    with pytest.raises(OSError, match="allocate"):
        LaneWorker(store, q, 0.2, make_engine=Short).run()
    failed = q.failed(ticket)
    assert failed is not None and "Cannot allocate memory" in failed.ticket.failures[-1].message
    (note,) = q.lanes.notes()
    assert note.state == "ended" and note.jobs == 1 and not q.claims()


def test_rubbish_in_the_queue_is_passed_over(store: Store, plan: Planner, caplog: pytest.LogCaptureFixture) -> None:
    q = queue(store)
    ticket = training(plan, genes(plan)[0])
    q.submit(ticket)
    path = q.root / "tickets" / "one" / f"2-000000-{'f' * 64}.json"
    path.write_text("{half")
    taken = q.take("lane")
    assert taken is not None and taken[0] == ticket
    assert "counts as absent" in caplog.text


def _submit_all(q: JobQueue, *names: str) -> None:
    for number, name in enumerate(names):
        p = planner(seed=number)
        for heavy in genes(p):
            q.submit(training(p, heavy, name))


def _serve(q: JobQueue, count: int) -> list[str]:
    """Evolutions whose jobs a single lane does."""
    order = []
    for _ in range(count):
        taken = q.take("l")
        assert taken is not None
        order.append(taken[0].run_id)
        q.finish(taken[1], taken[0])
    return order


def test_one_lane_serves_two_evolutions_in_turn(store: Store) -> None:
    """Turns that an evolution did not take, before it came or between two generations, are gone."""
    q = queue(store)
    _submit_all(q, "old")
    assert _serve(q, 3) == ["old"] * 3
    _submit_all(q, "old", "new")
    assert _serve(q, 6) == ["new", "old"] * 3


def test_lanes_are_shared_by_jobs_in_flight(store: Store) -> None:
    """An evolution with long jobs holds no more lanes than one with short jobs."""
    q = queue(store)
    _submit_all(q, "long", "short")
    lanes = {name: q.take(name) for name in "abcd"}
    assert sorted(taken[0].run_id for taken in lanes.values() if taken) == ["long", "long", "short", "short"]
    for name, taken in lanes.items():
        if taken and taken[0].run_id == "short":
            q.finish(taken[1], taken[0])
            again = q.take(name)
            assert again is not None and again[0].run_id == "short"


def test_a_job_that_runs_alone_gets_its_machine_also_from_others(store: Store) -> None:
    """Two lanes of one machine that another evolution keeps busy: when it is its turn, they come to rest for it."""
    q = queue(store)
    _submit_all(q, "other")
    lanes = {name: q.take(name, host="box") for name in ("a", "b")}
    plan = planner(seed=9)
    alone = training(plan, genes(plan)[0], "mine").model_copy(update={"alone": True})
    q.submit(alone)
    for name in ("a", "b", "a"):
        held = lanes[name]
        if held is not None:
            q.finish(held[1], held[0])
        lanes[name] = q.take(name, host="box")
    assert lanes["b"] is not None and lanes["b"][0].run_id == "mine" and lanes["a"] is None
