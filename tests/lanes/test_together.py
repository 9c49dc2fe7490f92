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
from coral_core.genome import GREEDY, HeavyGenes, default_lora
from coral_core.jobs.jobs import Evaluation, EvaluationJob, TrainedAdapter, TrainingJob
from coral_core.lanes.lane import Lane
from coral_core.lm.engine_client import InlineEngine
from coral_core.lm.requests import Done, Generated, GenerationRequest
from coral_core.store.store import Store

SETTINGS: dict[str, Any] = {
    "base_model": {"name": "rehearsal"},
    "generation": {"bank": True},
    "problems": {"fitness": 6, "retention": 0, "monitor": 0, "held_out": 4, "pairs": 8},
    "infra": {"executor": "inline"},
}
CONFIG = RunConfig.model_validate(SETTINGS)
PLAN = Planner.of_config(CONFIG)
SECONDS = 600.0
SAMPLING = GREEDY.model_copy(update={"sampling": True})


def genes(rank: int) -> HeavyGenes:
    return default_lora("rehearsal").model_copy(update={"rank": rank})


class Counted(InlineEngine):
    """Keeps the ranks of each request, and does what a test wants before one is answered."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, ...]] = []
        self.before: Callable[[tuple[int, ...]], None] = lambda ranks: None

    def generate(
        self, request: GenerationRequest, deadline: float, done: Done = lambda entry, index, completions: None
    ) -> Generated:
        ranks = tuple(entry.adapter.heavy.rank if entry.adapter else 0 for entry in request.entries)
        self.asked.append(ranks)
        self.before(ranks)
        return super().generate(request, deadline, done)


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[Lane]:
    store = Store(tmp_path / "store")
    store.prepare()
    lane = Lane(store, Counted())
    yield lane
    lane.close()


def jobs(lane: Lane, *ranks: int) -> list[EvaluationJob]:
    """Evaluations of adapters that are trained."""
    for rank in ranks:
        lane.train(PLAN.training(genes(rank)), SECONDS)
    return [PLAN.evaluation(genes(rank), GREEDY) for rank in ranks]


def engine(lane: Lane) -> Counted:
    assert isinstance(lane.engine, Counted)
    return lane.engine


def content(evaluation: Evaluation | Exception) -> str:
    assert isinstance(evaluation, Evaluation)
    return evaluation.model_dump_json(exclude={"cost"})


def test_results_are_those_of_jobs_done_alone_and_costs_are_shared(lane: Lane, tmp_path: Path) -> None:
    wanted = [*jobs(lane, 2, 4, 8), PLAN.evaluation(genes(4), SAMPLING)]
    assert len({job.pack_key() for job in wanted}) == 1
    found = lane.evaluate_together(wanted, SECONDS)
    assert engine(lane).asked == [(2, 4, 8, 4)]
    alone = Lane(Store(tmp_path / "store"), Counted())
    for job, evaluation in zip(wanted, found, strict=True):
        assert isinstance(evaluation, Evaluation) and evaluation.cost.device is not None
        assert evaluation.cost.device.computing > 0 and evaluation.cost.seconds > 0
        assert content(evaluation) == content(alone.store.read_evaluation(job.digest()) or ValueError())
        (tmp_path / "store" / "evaluations" / f"{job.digest()}.json").unlink()
        assert content(alone.evaluate(job, SECONDS)) == content(evaluation)
    alone.close()
    assert lane.evaluate_together(wanted, SECONDS) and engine(lane).asked == [(2, 4, 8, 4)], "all is in the store"


@pytest.mark.parametrize(
    "error", [EngineMemoryError("full"), EngineDiedError("died"), Infeasible("diverged", "not finite")]
)
def test_one_job_that_fails_is_found_and_fails_alone(lane: Lane, error: Exception) -> None:
    def fail(ranks: tuple[int, ...]) -> None:
        if 8 in ranks:
            raise error

    wanted = jobs(lane, 2, 4, 8, 16)
    engine(lane).before = fail
    found = lane.evaluate_together(wanted, SECONDS)
    assert engine(lane).asked == [(2, 4, 8, 16), (2, 4), (8, 16), (8,), (16,)]
    if isinstance(error, Infeasible):
        assert [isinstance(each, Evaluation) and each.infeasible for each in found] == [None, None, "diverged", None]
    else:
        assert [each if isinstance(each, Exception) else None for each in found] == [None, None, error, None]


def test_memory_that_suffices_for_two_makes_smaller_packs(lane: Lane) -> None:
    def fail(ranks: tuple[int, ...]) -> None:
        if len(ranks) > 2:
            raise EngineMemoryError("full")

    wanted = jobs(lane, 2, 4, 8, 16)
    engine(lane).before = fail
    assert all(isinstance(each, Evaluation) for each in lane.evaluate_together(wanted, SECONDS))
    assert engine(lane).asked == [(2, 4, 8, 16), (2, 4), (8, 16)]


def test_a_broken_or_missing_adapter_fails_its_own_job(lane: Lane) -> None:
    wanted = jobs(lane, 2, 4, 8)
    lane.store.set_aside("adapter", wanted[0].training_digest)
    (lane.store.adapter_path(wanted[2].training_digest) / "adapter_config.json").write_text("{}")
    found = lane.evaluate_together(wanted, SECONDS)
    assert [isinstance(each, AdapterError) for each in found] == [True, False, True]


def test_evaluations_wait_while_a_training_can_start_and_are_then_taken_together(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go = threading.Event(), threading.Event()
    order: list[Any] = []
    train, together = Lane.train, Lane.evaluate_together

    def slow(self: Lane, job: TrainingJob, seconds: float) -> TrainedAdapter:
        began.set()
        assert go.wait(60)
        order.append(job.heavy.rank)
        return train(self, job, seconds)

    def watched(self: Lane, wanted: Any, seconds: float) -> Any:
        order.append(tuple(job.heavy.rank for job in wanted if job.heavy))
        return together(self, wanted, seconds)

    wanted = jobs(lane, 2, 4, 8)
    monkeypatch.setattr(Lane, "train", slow)
    monkeypatch.setattr(Lane, "evaluate_together", watched)
    with InlineExecutor(CONFIG.infra, lane.store) as executor:
        futures: list[Any] = [executor.submit_training(PLAN.training(genes(16)))]
        assert began.wait(60)
        futures += [executor.submit_evaluation(job) for job in wanted]
        futures.append(executor.submit_training(PLAN.training(genes(32))))
        go.set()
        found = [future.result(timeout=300) for future in futures]
    assert order == [16, 32, (2, 4, 8)]
    assert [each.training_digest for each in found[1:4]] == [job.training_digest for job in wanted]


def test_what_differs_in_more_is_not_taken_together() -> None:
    job = PLAN.evaluation(genes(2), GREEDY)
    merged = Planner.of_config(RunConfig.model_validate(SETTINGS | {"generation": {"bank": False}}))
    others = [
        PLAN.evaluation(genes(2), GREEDY, "held_out"),
        merged.evaluation(genes(2), GREEDY),
        job.model_copy(update={"numerics_class": "another"}),
    ]
    assert job.pack_key() not in {other.pack_key() for other in others}
    one, other = merged.evaluation(genes(2), GREEDY), merged.evaluation(genes(4), GREEDY)
    assert one.pack_key() != other.pack_key(), "merged adapters are written one after the other"
    assert one.pack_key() == merged.evaluation(genes(2), SAMPLING).pack_key(), "light genes of one adapter are not"
