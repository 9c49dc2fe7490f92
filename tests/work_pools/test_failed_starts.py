"""How many lanes have to fail before their first job until the machine is blamed."""

import time

from flows.work_pools.pool_executor import MOST_FAILED_STARTS, FailedStarts


def test_lanes_started_side_by_side_count_once() -> None:
    """A worker's death ends all that it was just starting."""
    starts = FailedStarts()
    started = time.monotonic()
    assert [starts.add(started + n * 1e-9) for n in range(3 * MOST_FAILED_STARTS)] == [False] * 9
    assert starts.failed == 1


def test_starts_that_fail_one_after_the_other_are_told_of() -> None:
    starts = FailedStarts()
    assert [starts.add(time.monotonic() + 1e-6) for _ in range(MOST_FAILED_STARTS)] == [False, False, True]
    assert not starts.add(time.monotonic() + 1e-6), "it is counted from the begin again"


def test_a_lane_that_does_something_clears_the_account() -> None:
    starts = FailedStarts()
    for _ in range(4):
        assert not starts.add(time.monotonic() + 1e-6)
        assert not starts.add(time.monotonic() + 1e-6)
        starts.reset()
