"""Every second of a lane is booked to one state of its device, and to one job."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coral_core.config import RunConfig
from coral_core.errors import EngineError
from coral_core.evolution.job_runner import Planner
from coral_core.genome import default_lora
from coral_core.jobs.jobs import DeviceTime
from coral_core.lanes import device_clock
from coral_core.lanes.device_clock import DeviceClock
from coral_core.lanes.lane import Lane
from coral_core.lm.engine_client import InlineEngine
from coral_core.store.store import Store


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(device_clock, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_each_second_has_one_state_and_one_job(clock: Clock) -> None:
    device = DeviceClock()
    clock.now += 1
    with device.during("loading"):
        clock.now += 2
    with device.during("computing"):
        clock.now += 4
        assert device.life() == DeviceTime(idle=1, loading=2, computing=4), "also while it computes"
    with device.during("judging"):
        clock.now += 8
    assert device.since_last_job() == DeviceTime(idle=1, loading=2, computing=4, judging=8)
    clock.now += 16
    with pytest.raises(KeyError), device.during("computing"):
        clock.now += 32
        raise KeyError
    assert device.since_last_job() == DeviceTime(idle=16, computing=32)
    assert device.since_last_job() == DeviceTime()
    assert device.life() == DeviceTime(idle=17, loading=2, computing=36, judging=8)


def test_shares() -> None:
    assert DeviceTime().shares() == {}
    found = DeviceTime(computing=5, loading=2, judging=2, idle=1).shares()
    assert found == {"computing": 0.5, "loading": 0.2, "judging": 0.2, "idle": 0.1, "waiting": pytest.approx(0.3)}


class Slow(InlineEngine):
    """Takes seconds of the test's clock: 5 to load, 10 to train, 20 to generate."""

    clock: Clock

    def _send(self, op: str, *rest: Any) -> Any:
        self.clock.now += {"load": 5, "train": 10, "generate": 20}[op]
        return super()._send(op, *rest)


def test_a_job_reports_the_lanes_seconds_since_the_job_before(clock: Clock, tmp_path: Path) -> None:
    settings = {
        "base_model": {"name": "rehearsal"},
        "problems": {"fitness": 4, "retention": 2, "monitor": 0, "held_out": 4, "pairs": 8},
    }
    plan = Planner.of_config(RunConfig.model_validate(settings))
    store = Store(tmp_path / "store")
    store.prepare()
    engine = Slow()
    engine.clock = clock
    lane = Lane(store, engine)
    clock.now += 3  # before the first job
    heavy = default_lora("rehearsal")
    adapter = lane.train(plan.training(heavy), 600)
    assert adapter.cost.device == DeviceTime(loading=5, computing=10, idle=3)
    assert store.read_adapter(adapter.training_digest) == adapter
    clock.now += 7
    job = plan.evaluation(heavy)
    found = lane.evaluate(job, 600)
    assert found.cost.device == DeviceTime(computing=20, idle=7)
    assert lane.evaluate(job, 600) == found, "what the store has costs the lane nothing"

    def fail(*_: Any) -> Any:
        clock.now += 2
        raise EngineError("no")

    engine._send, works = fail, engine._send  # type: ignore[method-assign]
    other = job.model_copy(update={"replicate": 1})
    with pytest.raises(EngineError):
        lane.evaluate(other, 600)
    engine._send = works  # type: ignore[method-assign]
    assert lane.evaluate(other, 600).cost.device == DeviceTime(computing=22), "the failed try counts with the next job"
    assert lane.clock.life().seconds == clock.now - 100
    lane.close()
