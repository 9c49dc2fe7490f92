"""How many lanes have to end before their first job until the machine is blamed."""

import time
from typing import Any

import pytest
from prefect.states import Completed, Crashed

from coral_core.errors import EngineError
from flows.work_pools.fleet import EndedStart
from flows.work_pools.pool_executor import MOST_FAILED_STARTS, WorkPoolExecutor
from tests.work_pools.test_pool_executor import JOB, executor

__all__ = ["executor"]


@pytest.fixture
def ended(executor: WorkPoolExecutor) -> Any:
    """Has the dispatcher see lanes that ended in a state; the thread itself is stopped."""
    executor._closing.set()
    executor._thread.join()
    executor._closing.clear()

    def see(*starts: float, state: Any = Crashed) -> None:
        fleet: Any = executor._fleet
        fleet.ended_starts = lambda _: [EndedStart("id", state(message="no image"), started) for started in starts]
        fleet.pool = lambda _: "coral-a100"
        executor._watch_starts(executor._pools["training"])

    return see


def test_lanes_started_side_by_side_count_once(executor: WorkPoolExecutor, ended: Any) -> None:
    """A worker's death ends all that it was just starting."""
    future, now = executor.submit_training(JOB), time.monotonic()
    ended(*[now + n * 1e-9 for n in range(3 * MOST_FAILED_STARTS)])
    assert executor._pools["training"].failed_starts == 1 and not future.done()
    executor.close()


def test_starts_that_fail_one_after_the_other_end_the_wait(executor: WorkPoolExecutor, ended: Any) -> None:
    future = executor.submit_training(JOB)
    for _ in range(MOST_FAILED_STARTS):
        assert not future.done()
        ended(time.monotonic() + 1e-6)
    with pytest.raises(EngineError, match=r"3 lanes of pool coral-a100 .* Crashed: no image"):
        future.result(timeout=0)
    executor.close()


def test_a_lane_that_ends_well_clears_the_count(executor: WorkPoolExecutor, ended: Any) -> None:
    future = executor.submit_training(JOB)
    for _ in range(4):
        for _ in range(MOST_FAILED_STARTS - 1):
            ended(time.monotonic() + 1e-6)
        ended(time.monotonic() + 1e-6, state=Completed)
    assert not future.done()
    executor.close()
