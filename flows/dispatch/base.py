"""What every executor offers."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from coral_core.jobs import Evaluation, EvaluationJob, TestJob, TestResult, TrainedAdapter, TrainingJob
from coral_core.queue import Failure


class Executor(ABC):
    """Takes jobs, returns futures. A future fails with a `CoralError` when the infrastructure gave up.

    An infeasible genome is a result, not a failure: look at `infeasible` of what comes back.
    """

    on_failure: Callable[[str, str, Failure], None] = staticmethod(lambda kind, digest, failure: None)
    """Told of every try that did not end in a result: kind and digest of the job, and what went wrong."""

    @abstractmethod
    def submit_training(self, job: TrainingJob) -> Future[TrainedAdapter]:
        """Train the adapter of `job` unless the store has it."""

    @abstractmethod
    def submit_evaluation(self, job: EvaluationJob) -> Future[Evaluation]:
        """Evaluate; the adapter must be in the store by then."""

    @abstractmethod
    def submit_test(self, job: TestJob) -> Future[TestResult]:
        """Judge given code against one problem; needs no model and starts no engine."""

    @abstractmethod
    def running(self) -> tuple[str, ...]:
        """Short digests of the jobs in lanes right now."""

    @abstractmethod
    def held(self) -> str:
        """Why jobs wait and none runs, when the budget is the reason; empty otherwise."""

    @abstractmethod
    def close(self) -> None:
        """End all lanes; jobs in flight are dropped, finished ones stay in the store."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
