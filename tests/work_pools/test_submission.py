"""A slow store or API in a submission holds up nothing else of the evolution."""

import asyncio
import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from coral_core.config import RunConfig
from coral_core.jobs.jobs import Cost
from coral_core.ledger import Ledger
from coral_core.store.store import Store
from flows import tasks
from flows.session import Session
from flows.work_pools import pool_executor as pools
from flows.work_pools.pool_executor import WorkPoolExecutor
from tests.waiting import until_in_loop
from tests.work_pools.test_pool_executor import CONFIG, JOB, PLANNER, NoFleet

LONG = 60.0
"""Ends what hangs; measures nothing."""


def session_of(executor: Any) -> Session:
    folder: Any = SimpleNamespace(append_timing=lambda record: None, run_id="run")
    return Session(planner=PLANNER, store=None, executor=executor, folder=folder)  # type: ignore[arg-type]


class SlowStore:
    """Each submission waits until somebody else has got on."""

    def __init__(self) -> None:
        self.entered, self.others_went_on = threading.Event(), threading.Event()
        self.order: list[Any] = []

    def submit_training(self, job: Any) -> Future[Any]:
        self.entered.set()
        assert self.others_went_on.wait(LONG), "nobody else could do anything meanwhile"
        self.order.append(job)
        future: Future[Any] = Future()
        future.set_result(SimpleNamespace(cost=Cost(seconds=1.0)))
        return future

    submit_evaluation = submit_training


async def test_other_coroutines_go_on_while_a_submission_waits() -> None:
    slow = SlowStore()
    session = session_of(slow)
    jobs = [asyncio.create_task(tasks._in_lane(session, "training", f"{n:064d}", "g", f"job {n}")) for n in range(40)]  # type: ignore[arg-type]
    await until_in_loop(slow.entered.is_set)
    assert await asyncio.to_thread(lambda: "threads of others are free, too") and not any(job.done() for job in jobs)
    slow.others_went_on.set()
    await asyncio.gather(*jobs)
    assert slow.order == [f"job {n}" for n in range(40)], "they are put down in the order in which they were submitted"


async def test_a_stop_does_not_wait_for_a_submission() -> None:
    slow = SlowStore()
    session = session_of(slow)
    job = asyncio.create_task(tasks._in_lane(session, "training", "0" * 64, "g", "job"))  # type: ignore[arg-type]
    await until_in_loop(slow.entered.is_set)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    slow.others_went_on.set()


def test_an_api_that_takes_its_time_does_not_hold_the_lock_that_submissions_need(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dispatcher asks how a lane ended before it takes the lock."""
    asked, answer = threading.Event(), threading.Event()

    class Slow(NoFleet):
        def ended_state(self, flow_run_id: str) -> str | None:
            asked.set()
            assert answer.wait(LONG), "the submission waited for this answer"
            return None

    monkeypatch.setattr(pools, "Fleet", Slow)
    monkeypatch.setattr(pools, "LOOK_SECONDS", 0.1)
    store = Store(tmp_path / "store")
    store.prepare()
    config: RunConfig = CONFIG
    ledger = Ledger(store)
    ledger.set_budget("run", config.budget)
    executor = WorkPoolExecutor(config.infra, store, "run", ledger)
    try:
        executor.submit_training(JOB)
        claimed = None
        while claimed is None:
            claimed = executor._queues["training"].take("lane", "5f0f5c1e-0000-4000-8000-000000000000", "box")
        assert asked.wait(LONG)
        executor.submit_evaluation(PLANNER.evaluation(None))  # returns although the API has not answered
        assert executor.running() == (JOB.digest()[:12],)
    finally:
        answer.set()
        executor.close()
