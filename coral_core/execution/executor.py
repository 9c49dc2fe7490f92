"""The interface of all executors."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from coral_core.config import RunConfig
from coral_core.errors import CoralError
from coral_core.jobs.jobs import (
    BaseModelIdentity,
    Evaluation,
    EvaluationJob,
    IdentityJob,
    Job,
    TestJob,
    TestResult,
    TrainedAdapter,
    TrainingJob,
)
from coral_core.ledger import Closure
from coral_core.lm.base_model import identify
from coral_core.lm.vllm_interpreter import vllm_settings
from coral_core.queue.queue import Failure
from coral_core.runs.identities import Identities


class Executor(ABC):
    """Takes jobs and returns futures. A future raises a `CoralError` when the job failed in all its attempts.

    An infeasible genome is a result and not a failure: the field `infeasible` of the result holds the reason.
    """

    on_failure: Callable[[str, str, Failure], None] = staticmethod(lambda kind, digest, failure: None)
    """Called after every failed attempt, with kind and digest of the job and the failure; may be called from any thread."""

    @abstractmethod
    def submit(self, job: Job) -> Future[Any]:
        """Run `job` unless the store has its result. The adapter of an evaluation must be in the store before.

        Raises:
            EngineError: the executor is closed.
            StoreError: the job cannot be written to its queue.
        """

    def submit_training(self, job: TrainingJob) -> Future[TrainedAdapter]:
        """Train the adapter of `job` unless the store has it."""
        return self.submit(job)

    def submit_evaluation(self, job: EvaluationJob) -> Future[Evaluation]:
        """Run the evaluation of `job` unless the store has it; its adapter must be in the store."""
        return self.submit(job)

    def submit_test(self, job: TestJob) -> Future[TestResult]:
        """Judge the patch of `job` against one problem; needs no model and starts no engine."""
        return self.submit(job)

    def submit_identity(self, job: IdentityJob) -> Future[BaseModelIdentity]:
        """Ask a lane of `job.queue` for the identity of its base model. This default answers for lanes of this machine."""
        future: Future[BaseModelIdentity] = Future()
        try:
            future.set_result(identify(job.base_model, job.vllm))
        except CoralError as error:
            future.set_exception(error)
        return future

    def train(self, job: TrainingJob, timeout: float | None = None) -> TrainedAdapter:
        """Train an adapter, and before it those that it goes on with; what the store has is not trained again.

        Args:
            job: The training.
            timeout: Seconds to wait for each training; None waits without limit.

        Raises:
            CoralError: the executor gave up.
            TimeoutError: a training took longer.
        """
        *earlier, last = job.chain()
        for each in earlier:
            self.submit_training(each).result(timeout)
        return self.submit_training(last).result(timeout)

    def identities(self, config: RunConfig, timeout: float | None = None) -> Identities:
        """Ask a lane of each queue for the identity of the base model, and wait for the answers.

        Args:
            config: Names the base model, and the engine of evaluations.
            timeout: Seconds to wait for each answer; None waits without limit.

        Raises:
            ConfigError: the interpreter for vLLM is not set, or cannot be used.
            BaseModelError: a lane cannot find or load it, or the two queues have different weights.
            TimeoutError: a lane did not answer in time.
        """
        base_model = config.base_model
        futures = [
            self.submit_identity(IdentityJob(queue="training", base_model=base_model)),
            self.submit_identity(IdentityJob(queue="evaluation", base_model=base_model, vllm=vllm_settings(config))),
        ]
        training, evaluation = (
            future.result(timeout).model_copy(update={"name": base_model.name}) for future in futures
        )  # lanes may report the path of a local copy as its name
        identities = Identities(training=training, evaluation=evaluation)
        identities.check()
        return identities

    @abstractmethod
    def running(self) -> tuple[str, ...]:
        """First 12 digits of the digest of each job that is in a lane now."""

    @abstractmethod
    def held(self) -> Closure | None:
        """The closure of the budget because of which jobs wait and none runs; None otherwise."""

    @abstractmethod
    def close(self) -> None:
        """End all lanes. Jobs in flight are dropped; results stay in the store."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
