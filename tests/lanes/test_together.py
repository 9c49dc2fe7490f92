"""Evaluations whose completions are written in one request: equal results, shared costs, and failures of one job only."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coral_core.config import RunConfig
from coral_core.errors import AdapterError, EngineDiedError, EngineMemoryError, Infeasible
from coral_core.evolution.job_runner import Planner
from coral_core.execution import InlineExecutor
from coral_core.genome import GREEDY, LightGenes, default_lora
from coral_core.jobs.jobs import Evaluation, EvaluationJob, TrainedAdapter, TrainingJob
from coral_core.lanes.lane import Lane
from coral_core.lm.engine_client import InlineEngine
from coral_core.lm.requests import Done, Generated, GenerationRequest
from coral_core.store.store import Store

SETTINGS: dict[str, Any] = {
    "base_model": {"name": "rehearsal"},
    "problems": {"fitness": 6, "retention": 0, "monitor": 0, "held_out": 4, "pairs": 8},
    "infra": {"executor": "inline"},
}
CONFIG = RunConfig.model_validate(SETTINGS)
PLAN = Planner.of_config(CONFIG)
SECONDS = 600.0
SAMPLING = GREEDY.model_copy(update={"sampling": True})


HEAVY = default_lora("rehearsal")


def light(limit: int) -> LightGenes:
    return GREEDY.model_copy(update={"token_limit": limit})


class Counted(InlineEngine):
    """Keeps the token limits of each request, and does what a test wants before one is answered."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, ...]] = []
        self.before: Callable[[tuple[int, ...]], None] = lambda limits: None

    def generate(
        self, request: GenerationRequest, deadline: float, done: Done = lambda entry, index, completions: None
    ) -> Generated:
        limits = tuple(entry.light.token_limit for entry in request.entries)
        self.asked.append(limits)
        self.before(limits)
        return super().generate(request, deadline, done)


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[Lane]:
    store = Store(tmp_path / "store")
    store.prepare()
    lane = Lane(store, Counted())
    yield lane
    lane.close()


def jobs(lane: Lane, *limits: int) -> list[EvaluationJob]:
    """Evaluations of one adapter, which is trained."""
    lane.train(PLAN.training(HEAVY), SECONDS)
    return [PLAN.evaluation(HEAVY, light(limit)) for limit in limits]


def engine(lane: Lane) -> Counted:
    assert isinstance(lane.engine, Counted)
    return lane.engine


def content(evaluation: Evaluation | Exception) -> str:
    assert isinstance(evaluation, Evaluation)
    return evaluation.model_dump_json(exclude={"cost"})


def test_results_are_those_of_jobs_done_alone_and_costs_are_shared(lane: Lane, tmp_path: Path) -> None:
    wanted = [*jobs(lane, 20, 40, 80), PLAN.evaluation(HEAVY, SAMPLING)]
    assert len({job.pack_key() for job in wanted}) == 1
    found = lane.evaluate_together(wanted, SECONDS)
    assert engine(lane).asked == [(20, 40, 80, SAMPLING.token_limit)]
    alone = Lane(Store(tmp_path / "store"), Counted())
    for job, evaluation in zip(wanted, found, strict=True):
        assert isinstance(evaluation, Evaluation) and evaluation.cost.device is not None
        assert evaluation.cost.device.computing > 0 and evaluation.cost.seconds > 0
        assert content(evaluation) == content(alone.store.read_evaluation(job.digest()) or ValueError())
        (tmp_path / "store" / "evaluations" / f"{job.digest()}.json").unlink()
        assert content(alone.evaluate(job, SECONDS)) == content(evaluation)
    alone.close()
    assert lane.evaluate_together(wanted, SECONDS) and engine(lane).asked == [(20, 40, 80, SAMPLING.token_limit)], (
        "all is in the store"
    )


@pytest.mark.parametrize(
    "error", [EngineMemoryError("full"), EngineDiedError("died"), Infeasible("diverged", "not finite")]
)
def test_one_job_that_fails_is_found_and_fails_alone(lane: Lane, error: Exception) -> None:
    def fail(limits: tuple[int, ...]) -> None:
        if 80 in limits:
            raise error

    wanted = jobs(lane, 20, 40, 80, 96)
    engine(lane).before = fail
    found = lane.evaluate_together(wanted, SECONDS)
    assert engine(lane).asked == [(20, 40, 80, 96), (20, 40), (80, 96), (80,), (96,)]
    if isinstance(error, Infeasible):
        assert [isinstance(each, Evaluation) and each.infeasible for each in found] == [None, None, "diverged", None]
    else:
        assert [each if isinstance(each, Exception) else None for each in found] == [None, None, error, None]


def test_memory_that_suffices_for_two_makes_smaller_packs(lane: Lane) -> None:
    def fail(limits: tuple[int, ...]) -> None:
        if len(limits) > 2:
            raise EngineMemoryError("full")

    wanted = jobs(lane, 20, 40, 80, 96)
    engine(lane).before = fail
    assert all(isinstance(each, Evaluation) for each in lane.evaluate_together(wanted, SECONDS))
    assert engine(lane).asked == [(20, 40, 80, 96), (20, 40), (80, 96)]


def test_a_broken_adapter_fails_the_jobs_of_it(lane: Lane) -> None:
    wanted = jobs(lane, 20, 40)
    (lane.store.adapter_path(wanted[0].training_digest) / "adapter_config.json").write_text("{}")
    assert [type(each) for each in lane.evaluate_together(wanted, SECONDS)] == [AdapterError, AdapterError]


def test_what_waits_is_taken_together(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go = threading.Event(), threading.Event()
    order: list[Any] = []
    train, together = Lane.train, Lane.evaluate_together

    def slow(self: Lane, job: TrainingJob, seconds: float) -> TrainedAdapter:
        began.set()
        assert go.wait(60)
        order.append(job.heavy.rank)
        return train(self, job, seconds)

    def watched(self: Lane, wanted: Any, seconds: float) -> Any:
        order.append(tuple(job.light.token_limit for job in wanted))
        return together(self, wanted, seconds)

    wanted = jobs(lane, 20, 40, 80)
    monkeypatch.setattr(Lane, "train", slow)
    monkeypatch.setattr(Lane, "evaluate_together", watched)
    with InlineExecutor(CONFIG.infra, lane.store) as executor:
        futures: list[Any] = [executor.submit_training(PLAN.training(HEAVY.model_copy(update={"rank": 16})))]
        assert began.wait(60)
        futures += [executor.submit_evaluation(job) for job in wanted]
        go.set()
        found = [future.result(timeout=300) for future in futures]
    assert order == [16, (20, 40, 80)]
    assert [each.evaluation_digest for each in found[1:]] == [job.digest() for job in wanted]


def test_what_differs_in_more_is_not_taken_together() -> None:
    job = PLAN.evaluation(HEAVY, GREEDY)
    others = [
        PLAN.evaluation(HEAVY, GREEDY, "held_out"),
        PLAN.evaluation(HEAVY.model_copy(update={"rank": 4}), GREEDY),
        job.model_copy(update={"numerics_class": "another"}),
    ]
    assert job.pack_key() not in {other.pack_key() for other in others}
    assert job.pack_key() == PLAN.evaluation(HEAVY, SAMPLING).pack_key()
