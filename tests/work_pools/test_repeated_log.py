"""What lasts is said once, and again only now and then."""

import logging

import pytest

from flows.work_pools import fleet
from flows.work_pools.fleet import REPEAT_SECONDS, RepeatedLog


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(fleet.time, "monotonic", lambda: now[0])
    return now


def test_an_hour_of_one_reason_with_changing_numbers(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    told = RepeatedLog(logging.getLogger("coral.test"))
    for second in range(3600):
        told.warn("training", "queue paused", f"paused for {second} s")
        clock[0] += 1
    assert len(caplog.records) == 3600 / REPEAT_SECONDS


def test_a_change_is_said_at_once_and_a_to_and_fro_is_not(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    told = RepeatedLog(logging.getLogger("coral.test"))
    for key in ("a", "b", "", "c"):
        told.warn("training", key, key)
    assert [record.message for record in caplog.records] == ["a", "b", "c"]
    caplog.clear()
    for second in range(600):
        told.warn("evaluation", "ab"[second % 2], "ab"[second % 2])
        clock[0] += 1
    assert len(caplog.records) == 2 * 600 / REPEAT_SECONDS


def test_topics_do_not_silence_each_other(caplog: pytest.LogCaptureFixture) -> None:
    told = RepeatedLog(logging.getLogger("coral.test"))
    for topic in ("training", "evaluation"):
        told.warn(topic, "no worker", topic)
    assert len(caplog.records) == 2
