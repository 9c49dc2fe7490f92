"""A slow API in a submission holds up nothing else of the evolution."""

import threading
from typing import Any

import pytest

from coral_core.config import RunConfig
from coral_core.ledger import Ledger
from coral_core.store.store import Store
from flows.work_pools import pool_executor as pools
from flows.work_pools.pool_executor import WorkPoolExecutor
from tests.work_pools.test_pool_executor import CONFIG, JOB, PLANNER, NoFleet

LONG = 60.0
"""Ends what hangs; measures nothing."""


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
            claimed = executor._pools["training"].queue.take("lane", "5f0f5c1e-0000-4000-8000-000000000000", "box")
        assert asked.wait(LONG)
        executor.submit_evaluation(PLANNER.evaluation(None))  # returns although the API has not answered
        assert executor.running() == (JOB.digest()[:12],)
    finally:
        answer.set()
        executor.close()
