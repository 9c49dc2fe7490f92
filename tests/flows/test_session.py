"""What a long session drops from memory is read from the store again, and booked once; one that never began says why."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coral_core.config import RunConfig
from coral_core.errors import StoreError
from coral_core.evolution.planner import Planner
from coral_core.jobs.jobs import Evaluation
from coral_core.runs.progress import build_progress
from coral_core.runs.run_folder import RunFolder, identify_run
from coral_core.store.store import Store
from flows import session as module
from flows.observe import events
from flows.observe.heartbeat import failure_noted
from flows.session import Session
from flows.tasks import evaluated


def test_an_evaluation_that_was_dropped_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 1)
    config = RunConfig.model_validate({"base_model": {"name": "rehearsal"}, "search": {"population": 4}})
    planner = Planner.of_config(config)
    job = planner.evaluation(None)
    stored: dict[str, Any] = {job.digest(): Evaluation.model_construct(records=("verdict",), passed=("p",))}
    store = SimpleNamespace(root="store", read_evaluation=stored.get)
    session: Any = Session(planner=planner, store=store, executor=None, folder=None)  # type: ignore[arg-type]
    session.keep(job.digest(), stored[job.digest()])
    for n in range(16):
        session.keep(f"other {n}", stored[job.digest()])
    assert len(session.evaluations) == 16 and job.digest() not in session.evaluations
    found = asyncio.run(evaluated(session, job, "base_model"))
    assert (found.records, found.passed) == ((), ("p",))
    assert list(session.evaluations)[-1] == job.digest() and session.board.jobs_done == 0
    del session.evaluations[job.digest()], stored[job.digest()]
    with pytest.raises(StoreError, match="was published and is gone"):
        asyncio.run(evaluated(session, job, "base_model"))


def test_what_fails_before_there_is_a_session_is_on_record(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"runs": str(tmp_path / "runs"), "store": {"path": str(tmp_path / "store")}})
    folder = RunFolder.create(config, identify_run(config), [])
    with pytest.raises(StoreError), failure_noted(folder):
        raise StoreError("start.json: is gone\nRestore it")
    found = build_progress(folder, Store(config.store.path))
    assert (found.status, found.error) == ("failed", "StoreError: start.json: is gone")


def test_the_event_of_a_failure_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, str, dict[str, Any]]] = []
    monkeypatch.setattr(events, "_emit", lambda name, run_id, text, **payload: sent.append((name, text, payload)))
    events.evolution_ended("a-run", "failed", "g000-001", 0.5, "StoreError: /data is full.")
    (name, text, payload) = sent[0]
    assert (name, text) == ("ended", "a-run failed: StoreError: /data is full. Best: g000-001, fitness 0.500.")
    assert payload["outcome"] == "failed" and payload["error"] == "StoreError: /data is full."
