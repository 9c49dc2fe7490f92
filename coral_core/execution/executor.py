"""What every executor offers."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from coral_core.config import BaseModelConfig
from coral_core.errors import CoralError
from coral_core.jobs.jobs import (
    BaseModelIdentity,
    Evaluation,
    EvaluationJob,
    IdentityJob,
    QueueName,
    TestJob,
    TestResult,
    TrainedAdapter,
    TrainingJob,
)
from coral_core.ledger import Closure
from coral_core.lm.base_model import identify
from coral_core.queue.queue import Failure, Job
from coral_core.runs.identities import Identities


class Executor(ABC):
    """Takes jobs, returns futures. A future fails with a `CoralError` when the infrastructure gave up.

    An infeasible genome is a result, not a failure: look at `infeasible` of what comes back.
    """

    on_failure: Callable[[str, str, Failure], None] = staticmethod(lambda kind, digest, failure: None)
    """Told of every try that did not end in a result: kind and digest of the job, and what went wrong."""

    @abstractmethod
    def submit(self, job: Job) -> Future[Any]:
        """Have `job` done unless the store has its result. An adapter must be in the store before its evaluation is submitted.

        Raises:
            EngineError: the executor is closed.
            StoreError: the job cannot be put down.
        """

    def submit_training(self, job: TrainingJob) -> Future[TrainedAdapter]:
        """Train the adapter of `job` unless the store has it."""
        return self.submit(job)

    def submit_evaluation(self, job: EvaluationJob) -> Future[Evaluation]:
        """Evaluate; the adapter must be in the store by then."""
        return self.submit(job)

    def submit_test(self, job: TestJob) -> Future[TestResult]:
        """Judge given code against one problem; needs no model and starts no engine."""
        return self.submit(job)

    def submit_identity(self, job: IdentityJob) -> Future[BaseModelIdentity]:
        """Ask a lane of `job.queue` what the base model is where it runs. Lanes of this machine need not be asked."""
        future: Future[BaseModelIdentity] = Future()
        try:
            future.set_result(identify(job.base_model))
        except CoralError as error:
            future.set_exception(error)
        return future

    def identities(self, base_model: BaseModelConfig, timeout: float | None = None) -> Identities:
        """What the base model is for the lanes of both queues; waits for a lane of each, at most `timeout` seconds.

        Raises:
            BaseModelError: it cannot be found or loaded there, or the two queues have different weights.
            TimeoutError: a lane did not answer in time.
        """
        queues: tuple[QueueName, QueueName] = ("training", "evaluation")
        asked = [self.submit_identity(IdentityJob(queue=queue, base_model=base_model)) for queue in queues]
        training, evaluation = (
            future.result(timeout).model_copy(update={"name": base_model.name}) for future in asked
        )  # lanes were told where it is
        found = Identities(training=training, evaluation=evaluation)
        found.check()
        return found

    @abstractmethod
    def running(self) -> tuple[str, ...]:
        """Short digests of the jobs in lanes right now."""

    @abstractmethod
    def held(self) -> Closure | None:
        """Why jobs wait and none runs, when the budget is the reason; None otherwise."""

    @abstractmethod
    def close(self) -> None:
        """End all lanes; jobs in flight are dropped, finished ones stay in the store."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
