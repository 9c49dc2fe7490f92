"""The inline executor: jobs run in the caller, one at a time, for a debugger."""

from concurrent.futures import Future

from coral_core.config import InfraConfig
from coral_core.jobs import Evaluation, EvaluationJob, TestJob, TestResult, TrainedAdapter, TrainingJob
from coral_core.lane import Lane
from coral_core.lm.client import InlineEngine
from coral_core.store import Store
from flows.dispatch.base import Executor


class InlineExecutor(Executor):
    """Blocks in `submit_*`. Errors are not retried, so that a debugger stops where they happen."""

    def __init__(self, infra: InfraConfig, store: Store) -> None:
        self._infra = infra
        self._lane = Lane(store, InlineEngine())

    def submit_training(self, job: TrainingJob) -> Future[TrainedAdapter]:
        future: Future[TrainedAdapter] = Future()
        future.set_result(self._lane.train(job, self._infra.training.minutes * 60))
        return future

    def submit_evaluation(self, job: EvaluationJob) -> Future[Evaluation]:
        future: Future[Evaluation] = Future()
        future.set_result(self._lane.evaluate(job, self._infra.evaluation.minutes * 60))
        return future

    def submit_test(self, job: TestJob) -> Future[TestResult]:
        future: Future[TestResult] = Future()
        future.set_result(self._lane.test(job))
        return future

    def running(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        self._lane.close()
