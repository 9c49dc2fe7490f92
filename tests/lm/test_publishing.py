"""What an engine computed whose base model was changed is never published; the job is done again by another engine."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from coral_core.config import RunConfig
from coral_core.config.tree import BaseModelConfig
from coral_core.errors import AdapterError, BaseChangedError, EngineMemoryError, Infeasible
from coral_core.evolution.job_runner import Planner
from coral_core.genome import DEFAULT_LORA
from coral_core.jobs.jobs import IdentityJob, TrainedAdapter
from coral_core.lanes.lane import Lane
from coral_core.lm.base_model import TINY, identify
from coral_core.lm.engine_client import EngineProcess, InlineEngine
from coral_core.lm.rehearsal import Rehearsal
from coral_core.lm.requests import TrainingRequest
from coral_core.store.store import Store
from flows.work_pools import LocalExecutor
from tests.lm.small_models import edit

PROBLEMS = {"fitness": 8, "retention": 2, "monitor": 0, "held_out": 4, "pairs": 8}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def planner(name: str = "rehearsal") -> Planner:
    infra = {"local_lanes": 1, "attempts": 3}
    return Planner.of_config(
        RunConfig.model_validate({"base_model": {"name": name}, "problems": PROBLEMS, "infra": infra})
    )


def change(patch: pytest.MonkeyPatch, times: int) -> list[int]:
    """The base model of the next `times` requests is found changed."""
    left = [times]

    def check(self: Rehearsal) -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise BaseChangedError("the base model in memory is not what was loaded: somewhere")
        return self.checksum

    patch.setattr(Rehearsal, "check", check)
    return left


def test_neither_scores_nor_adapters_nor_findings_are_published(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, lane = planner(), Lane(store, InlineEngine())
    evaluation, training = plan.evaluation(None), plan.training(DEFAULT_LORA)
    diverging = plan.training(DEFAULT_LORA.model_copy(update={"learning_rate": 0.5}))
    change(monkeypatch, 3)
    for call in (
        lambda: lane.evaluate(evaluation, 60),
        lambda: lane.train(training, 60),
        lambda: lane.train(diverging, 60),
    ):
        with pytest.raises(BaseChangedError):
            call()
        assert lane.engine._loaded is None, "another engine does the next job"  # type: ignore[attr-defined]
    assert not list(store.entries()) and not any(path.is_dir() for path in (store.root / "tmp").iterdir())
    assert lane.evaluate(evaluation, 60).scores and lane.train(training, 60).infeasible is None
    assert lane.train(diverging, 60).infeasible == "diverged"
    lane.close()


def test_the_local_executor_does_the_job_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coral_core.execution.local.EngineProcess", InlineEngine)
    plan = planner()
    left = change(monkeypatch, 2)
    with LocalExecutor(plan.config.infra, store) as executor:
        found = executor.submit_evaluation(plan.evaluation(None)).result(timeout=120)
        assert found.infeasible is None and found.scores and left[0] < 0
        left[0] = 10
        with pytest.raises(BaseChangedError, match="is not what was loaded"):
            executor.submit_training(plan.training(DEFAULT_LORA)).result(timeout=120)
    assert [entry.kind for entry in store.entries()] == ["evaluation"]


def test_memory_that_ran_out_ends_the_engine_of_a_lane(store: Store) -> None:
    plan = planner("rehearsal:full=8")
    engine = EngineProcess()
    lane = Lane(store, engine)
    try:
        lane.evaluate(plan.evaluation(None), 60)
        first = engine.pid
        with pytest.raises(EngineMemoryError):
            lane.train(plan.training(DEFAULT_LORA), 60)
        assert engine.pid is None
        lane.train(plan.training(DEFAULT_LORA.model_copy(update={"rank": 4})), 60)
        assert engine.pid not in (None, first)
        second = engine.pid
        assert lane.train(
            plan.training(DEFAULT_LORA.model_copy(update={"learning_rate": 0.5, "rank": 4})), 60
        ).infeasible
        assert engine.pid == second, "a finding about a genome leaves no doubt about its engine"
    finally:
        lane.close()


def test_the_inline_engine_says_a_finding_as_it_is() -> None:
    engine: Any = InlineEngine()
    plan = planner("rehearsal:full=8")
    engine.load(plan.config.base_model)
    with pytest.raises(Infeasible, match="out of GPU memory"):
        engine.train(TrainingRequest(job=plan.training(DEFAULT_LORA), pairs=(), out=Path("/nowhere")), 1)
    assert engine._worker is None


def test_an_adapter_that_does_not_load_makes_room_for_a_sound_one(store: Store) -> None:
    plan, lane = planner(), Lane(store, InlineEngine())
    training = plan.training(DEFAULT_LORA)
    digest = training.digest()
    scratch = store.scratch()
    (scratch / "adapter_config.json").write_text("{}")
    (scratch / "adapter_model.safetensors").write_bytes(b"none")
    store.publish_adapter(digest, scratch, TrainedAdapter(training_digest=digest))
    assert store.read_adapter(digest) is not None, "its checksums hold"
    for words in ("is no adapter", "Train it first"):
        with pytest.raises(AdapterError, match=words):
            lane.evaluate(plan.evaluation(DEFAULT_LORA), 60)
    lane.train(training, 60)
    assert lane.evaluate(plan.evaluation(DEFAULT_LORA), 60).scores
    lane.close()


def test_a_warm_lane_looks_at_the_files_that_are_there_now(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    base = BaseModelConfig(name=str(folder))
    question = IdentityJob(queue="training", base_model=base)
    lane = Lane(store, InlineEngine())
    first = lane.identify(question)
    assert first.content_id == identify(base).content_id
    engine: Any = lane.engine
    before = engine._worker
    assert lane.identify(question) == first and engine._worker is before, "nothing was changed, so nothing is loaded"
    edit(folder / "tokenizer_config.json", lambda data: data.update(more=1))
    assert engine._worker is before, "a job of an evolution that has seen the old files goes on with them"
    assert lane.identify(question).content_id == identify(base).content_id != first.content_id
    assert engine._worker is not before
    lane.close()
