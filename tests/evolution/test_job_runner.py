"""Each job of an evolution is done once; a slow store holds up nothing; what memory drops is read from the store again."""

import asyncio
import threading
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coral_core.config import RunConfig
from coral_core.errors import StoreError
from coral_core.evolution import job_runner as module
from coral_core.evolution.job_runner import JobRunner, JobStep, Planner, Recorder, Steps
from coral_core.evolution.loop import failure_recorded
from coral_core.jobs.jobs import Cost, Evaluation
from coral_core.runs.progress import build_progress
from coral_core.runs.records import JobTiming
from coral_core.runs.run_folder import RunFolder, identify_run
from coral_core.store.store import Store
from tests.waiting import until_in_loop

CONFIG = RunConfig.model_validate({"base_model": {"name": "rehearsal"}, "search": {"population": 4}})
PLANNER = Planner.of_config(CONFIG)
LONG = 60.0
"""Ends what hangs; measures nothing."""


def runner(
    store: Any, executor: Any = None, steps: Steps | None = None, keep: int = 0
) -> tuple[JobRunner, list[JobTiming]]:
    booked: list[JobTiming] = []
    folder: Any = SimpleNamespace(append_timing=booked.append)
    return JobRunner(store, executor, Recorder(folder), steps, keep), booked


def test_an_evaluation_that_was_dropped_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 1)
    job = PLANNER.evaluation(None)
    stored: dict[str, Any] = {job.digest(): Evaluation.model_construct(records=("verdict",), passed=("p",))}
    jobs, booked = runner(SimpleNamespace(root="store", read_evaluation=stored.get), keep=16)
    jobs._remember(job.digest(), stored[job.digest()])
    for n in range(16):
        jobs._remember(f"other {n}", stored[job.digest()])
    assert len(jobs._evaluations) == 16 and job.digest() not in jobs._evaluations
    found = asyncio.run(jobs.evaluated(job, "base_model"))
    assert (found.records, found.passed) == ((), ("p",))
    assert list(jobs._evaluations)[-1] == job.digest() and booked == []
    del jobs._evaluations[job.digest()], stored[job.digest()]
    with pytest.raises(StoreError, match="was published and is gone"):
        asyncio.run(jobs.evaluated(job, "base_model"))


class SlowStore:
    """Each submission waits until somebody else has got on."""

    def __init__(self) -> None:
        self.entered, self.others_went_on = threading.Event(), threading.Event()
        self.order: list[Any] = []

    def submit_evaluation(self, job: Any) -> Future[Any]:
        self.entered.set()
        assert self.others_went_on.wait(LONG), "nobody else could do anything meanwhile"
        self.order.append(job)
        future: Future[Any] = Future()
        future.set_result(SimpleNamespace(cost=Cost(seconds=1.0)))
        return future


async def test_other_coroutines_go_on_while_a_submission_waits() -> None:
    slow = SlowStore()
    runner_, booked = runner(None, slow)
    wanted: Any = [SimpleNamespace(split="fitness", number=n) for n in range(40)]
    jobs = [asyncio.create_task(runner_._submit(job, f"{job.number:064d}", "g")) for job in wanted]
    await until_in_loop(slow.entered.is_set)
    assert await asyncio.to_thread(lambda: "threads of others are free, too") and not any(job.done() for job in jobs)
    slow.others_went_on.set()
    await asyncio.gather(*jobs)
    assert slow.order == wanted, "they are put down in the order in which they were submitted"
    assert len(booked) == 40


async def test_a_stop_does_not_wait_for_a_submission() -> None:
    slow = SlowStore()
    jobs, _ = runner(None, slow)
    job = asyncio.create_task(jobs._submit("job", "0" * 64, "g"))  # type: ignore[arg-type]
    await until_in_loop(slow.entered.is_set)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    slow.others_went_on.set()


async def test_two_who_ask_at_once_get_one_job_and_steps_see_what_was_found() -> None:
    stored: dict[str, Any] = {}
    seen: list[tuple[str, bool]] = []

    class Seen(Steps):
        async def job(self, step: JobStep) -> None:
            seen.append((step.label, step.found))
            await asyncio.sleep(0)  # subject: the other one asks meanwhile
            stored[step.digest] = Evaluation.model_construct(records=(), passed=())

    job = PLANNER.evaluation(None)
    store = SimpleNamespace(root="store", read_evaluation=stored.get)
    jobs, booked = runner(store, steps=Seen())
    await asyncio.gather(jobs.evaluated(job, "a"), jobs.evaluated(job, "b"))
    assert seen == [("a", False)] and booked == [], "the step booked nothing"
    again, booked = runner(store, steps=Seen())
    await again.evaluated(job, "a")
    assert seen[1:] == [("a", True)] and [timing.cached for timing in booked] == [True]


def test_what_fails_before_there_is_a_session_is_on_record(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"runs": str(tmp_path / "runs"), "store": {"path": str(tmp_path / "store")}})
    folder = RunFolder.create(config, identify_run(config), [])
    with pytest.raises(StoreError), failure_recorded(folder):
        raise StoreError("start.json: is gone\nRestore it")
    found = build_progress(folder, Store(config.store.path))
    assert (found.status, found.error) == ("failed", "StoreError: start.json: is gone")
