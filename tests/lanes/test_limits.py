"""A job's time limit holds for all of it: engine, judge, plug-ins, and code that does not return."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from coral_core.config import RunConfig
from coral_core.errors import EngineDiedError, EngineError, EngineMemoryError, EngineTimeOutError
from coral_core.evolution.job_runner import Planner
from coral_core.jobs.jobs import Cost
from coral_core.judge.sandbox.parent import Zygote
from coral_core.lanes import lane as lane_module
from coral_core.lanes import worker as worker_module
from coral_core.lanes.worker import LaneWorker
from coral_core.lm.engine_client import InlineEngine
from coral_core.lm.requests import Done, Generated, GenerationRequest, Written
from coral_core.queue.queue import JobQueue, Ticket
from coral_core.scoring.judged import Judged
from coral_core.scoring.measuring_process import MeasuringProcess
from coral_core.scoring.plugins import measure
from coral_core.store.store import Store
from coral_core.time_limit import TimeLimit
from flows.work_pools import LocalExecutor
from tests.scoring.test_objective_plugins import EMPTY, install
from tests.waiting import until

PLUGINS = """
import os

def endless(judged):
    while True:
        pass

def dead(judged):
    os._exit(3)

def loud(judged):
    raise RuntimeError("no")

def chatty(judged):
    print("hello")
    return sum(len(texts) for texts in judged.patches) / 100 + 1 / 3

for objective in (endless, dead, loud, chatty):
    objective.version = "1"
"""
SLEEPER = "import time\ndef {}(*arguments):\n    time.sleep(3600)\n"


class Sleepers(InlineEngine):
    """Every patch that it proposes sleeps: ten seconds each, and ten again alone."""

    def generate(self, request: GenerationRequest, deadline: float, done: Done = print) -> Generated:
        names = [text.split("def ")[-1].split("(")[0] for _, text in request.prompts]
        texts = tuple((f"```python\n{SLEEPER.format(name)}```",) for name in names)
        for number, completions in enumerate(texts):
            done(0, number, completions)
        return Generated(entries=(Written(completions=texts, cost=Cost()),))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, PLUGINS, ("endless", "dead", "loud", "chatty"), "coral_plugin_of_limits")


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set as soon as a patch that sleeps is handed to the sandbox."""
    reached, real = threading.Event(), Zygote.run

    def run(zygote: Zygote, request: dict[str, Any], *more: Any) -> Any:
        if "sleep(3600)" in str(request):
            reached.set()
        return real(zygote, request, *more)

    monkeypatch.setattr(Zygote, "run", run)
    return reached


def planner(**changes: Any) -> Planner:
    settings: dict[str, Any] = {
        "base_model": {"name": "rehearsal"},
        "problems": {"fitness": 8, "retention": 2, "monitor": 0, "held_out": 4, "pairs": 8},
    }
    return Planner.of_config(RunConfig.model_validate(settings | changes))


def evaluation(plan: Planner, seconds: float, run_id: str = "one") -> Ticket:
    job = plan.evaluation(None)
    content = job.model_dump(mode="json")
    return Ticket(kind="evaluation", digest=job.digest(), run_id=run_id, job=content, seconds=seconds)


def started(store: Store, ticket: Ticket, **more: Any) -> tuple[LaneWorker, JobQueue, threading.Thread, list[Any]]:
    """A lane in a thread, with `ticket` in flight; it must not end this process."""
    queue = JobQueue(store, "evaluation")
    queue.prepare()
    queue.submit(ticket)
    worker = LaneWorker(store, JobQueue(store, "evaluation"), 0.2, **more)
    worker._leave = lambda _: worker._over.set()
    ended: list[Any] = []
    thread = threading.Thread(target=lambda: ended.append(worker.run()), daemon=True)
    thread.start()
    until(queue.claims)
    return worker, queue, thread, ended


def test_patches_that_sleep_end_with_the_time_limit_of_the_job(store: Store) -> None:
    ticket = evaluation(planner(), seconds=2)
    _, queue, thread, _ = started(store, ticket, make_engine=Sleepers)
    thread.join(timeout=30)
    assert not thread.is_alive()
    failed = queue.failed(ticket)
    assert failed is not None and failed.ticket.failures[-1].error == "EngineTimeOutError"
    assert "judging took longer" in failed.ticket.failures[-1].message
    assert store.read_evaluation(ticket.digest) is None, "a job out of time has no other verdict"


def test_an_objective_that_never_ends_is_ended_and_the_lane_goes_on(store: Store, plugins: None) -> None:
    roles = {"bugfix": "objective", "endless": "report"}
    ticket = evaluation(planner(scoring={"roles": roles}), seconds=8)
    after = evaluation(planner(), seconds=60, run_id="two")
    JobQueue(store, "evaluation").prepare()
    JobQueue(store, "evaluation").submit(after)
    _, queue, thread, ended = started(store, ticket, make_engine=InlineEngine)
    thread.join(timeout=60)
    failed = queue.failed(ticket)
    assert ended == ["idle"] and failed is not None
    assert failed.ticket.failures[-1].error == "EngineTimeOutError"
    assert "objective endless" in failed.ticket.failures[-1].message
    assert store.read_evaluation(after.digest) is not None


def test_an_objective_that_never_ends_makes_a_genome_infeasible_on_this_machine_too(
    store: Store, plugins: None
) -> None:
    roles = {"bugfix": "objective", "endless": "report"}
    infra = {"evaluation": {"minutes": 0.05}, "attempts": 2, "local_lanes": 1}
    plan = planner(scoring={"roles": roles}, infra=infra)
    with LocalExecutor(plan.config.infra, store) as executor:
        found = executor.submit_evaluation(plan.evaluation(None)).result(timeout=60)
    assert found.infeasible == "time-out" and "with nothing beside it: objective endless" in found.reason


@pytest.mark.parametrize("how", ["withdrawn", "cancelled"])
def test_a_job_in_the_judge_stops_at_once(store: Store, judging: threading.Event, how: str) -> None:
    ticket = evaluation(planner(), seconds=600)
    asked: list[Any] = []
    order: Any = lambda: asked[0] if asked else "go on"  # noqa: E731
    _, queue, thread, ended = started(store, ticket, make_engine=Sleepers, command=order)
    until(judging.is_set)
    asked.append("stop") if how == "cancelled" else queue.withdraw(ticket)
    thread.join(timeout=15)
    assert ended == ["cancelled" if how == "cancelled" else "idle"]
    assert not queue.all_failed() and not queue.claims() and store.read_evaluation(ticket.digest) is None
    assert queue.has_ticket(ticket) == (how == "cancelled")


def test_leaving_the_local_executor_does_not_wait_for_the_judge(
    store: Store, judging: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coral_core.execution.local.EngineProcess", Sleepers)
    plan = planner(infra={"local_lanes": 1})
    with LocalExecutor(plan.config.infra, store) as executor:
        future = executor.submit_evaluation(plan.evaluation(None))
        until(judging.is_set)
        began = time.monotonic()
    assert time.monotonic() - began < 10 and future.cancelled()


@pytest.mark.parametrize("how", ["outlasted", "cancelled"])
def test_code_that_does_not_return_takes_the_lane_with_it_and_not_its_ticket(
    store: Store, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(worker_module, "SLACK_SECONDS", 0.1)
    monkeypatch.setattr(worker_module, "GRACE_SECONDS", 1.0)
    stuck, reached = threading.Event(), threading.Event()
    monkeypatch.setattr(lane_module, "score", lambda *_: reached.set() or stuck.wait(60))
    ticket = evaluation(planner(), seconds=8 if how == "outlasted" else 600)
    asked: list[Any] = []
    order: Any = lambda: "stop" if asked else "go on"  # noqa: E731
    worker, queue, thread, _ = started(store, ticket, make_engine=InlineEngine, command=order)
    if how == "cancelled":
        assert reached.wait(60)
        asked.append("stop")
    assert worker._over.wait(60), "the process was not ended"
    note = queue.lanes.read(worker.note.lane)
    assert note is not None and note.state == "ended" and "did not return" in note.ended and note.jobs
    failed = queue.failed(ticket)
    assert not queue.claims() and queue.has_ticket(ticket) == (how == "cancelled")
    assert (failed.ticket.failures[-1].error if failed else "") == ("EngineTimeOutError" if how == "outlasted" else "")
    stuck.set()
    thread.join(timeout=10)


@pytest.mark.parametrize("kind", [EngineTimeOutError, EngineDiedError, EngineMemoryError])
def test_trouble_in_loading_the_base_model_is_no_finding_about_a_genome(
    store: Store, monkeypatch: pytest.MonkeyPatch, kind: type[EngineError]
) -> None:
    class Broken(InlineEngine):
        def load(self, base: Any) -> Any:
            raise kind("load: no")

    monkeypatch.setattr("coral_core.execution.local.EngineProcess", Broken)
    plan = planner(infra={"local_lanes": 1})
    with LocalExecutor(plan.config.infra, store) as executor:
        future = executor.submit_evaluation(plan.evaluation(None))
        with pytest.raises(EngineError, match=r"could not be loaded: load: no"):
            future.result(timeout=60)


def test_the_clock_starts_with_the_work() -> None:
    limit = TimeLimit(0.2)
    time.sleep(0.3)  # subject: time that is none of the job's
    assert limit.left() == 0.2 and limit.overdue() < 0, "loading the base model is not the job's work"
    limit.begin()
    time.sleep(0.3)  # subject: time of the job
    assert limit.left() < 0 < limit.overdue()


def test_objectives_are_measured_elsewhere_with_the_same_result(plugins: None) -> None:
    from dataclasses import replace

    judged: Judged = replace(EMPTY, patches=(("x", "y"), ("é",)))
    measurer = MeasuringProcess()
    try:
        for _ in range(2):
            assert measurer.measure({"chatty": "1"}, judged, TimeLimit(30)) == measure({"chatty": "1"}, judged)
        for name, version, words in (
            ("loud", "1", "RuntimeError"),
            ("chatty", "2", "version 1"),
            ("dead", "1", "ended"),
        ):
            with pytest.raises(EngineError, match=words):
                measurer.measure({name: version}, judged, TimeLimit(30))
        assert measurer.measure({"chatty": "1"}, judged, TimeLimit(30)) == measure({"chatty": "1"}, judged)
    finally:
        measurer.close()
