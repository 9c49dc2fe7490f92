"""The inline executor: jobs run in the caller, one at a time, for a debugger."""

import logging
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from coral_core.config import InfraConfig
from coral_core.jobs import Evaluation, EvaluationJob, TestJob, TestResult, TrainedAdapter, TrainingJob
from coral_core.lane import Lane
from coral_core.ledger import Ledger, Meter
from coral_core.lm.client import InlineEngine
from coral_core.queue import QueueName
from coral_core.scoring.measuring import MeasuringHere
from coral_core.store import Store
from flows.dispatch.base import Executor

log = logging.getLogger("coral.dispatch")

NO_LIMIT = 1e9


class InlineExecutor(Executor):
    """Blocks in `submit_*`, also while the budget is closed. Errors are not retried, and time limits not kept: a debugger
    stops where they happen, for as long as one looks."""

    def __init__(self, infra: InfraConfig, store: Store, run_id: str = "", ledger: Ledger | None = None) -> None:
        self._run_id = run_id
        self._ledger = ledger
        self._lane = Lane(store, InlineEngine(), MeasuringHere())
        self._meter = Meter(store, f"inline-{uuid.uuid4().hex}", "training", rented=False)
        if ledger is not None:
            self._meter.__enter__()

    def submit_training(self, job: TrainingJob) -> Future[TrainedAdapter]:
        future: Future[TrainedAdapter] = Future()
        with self._paid("training", job.digest()):
            future.set_result(self._lane.train(job, NO_LIMIT))
        return future

    def submit_evaluation(self, job: EvaluationJob) -> Future[Evaluation]:
        future: Future[Evaluation] = Future()
        with self._paid("evaluation", job.digest()):
            future.set_result(self._lane.evaluate(job, NO_LIMIT))
        return future

    def submit_test(self, job: TestJob) -> Future[TestResult]:
        future: Future[TestResult] = Future()
        with self._paid("evaluation", job.digest()):
            future.set_result(self._lane.test(job, NO_LIMIT))
        return future

    def running(self) -> tuple[str, ...]:
        return ()

    def held(self) -> str:
        return ""  # whoever waits, waits in `submit_*`

    def close(self) -> None:
        self._lane.close()
        if self._ledger is not None:
            self._meter.close()

    @contextmanager
    def _paid(self, queue: QueueName, digest: str) -> Iterator[None]:
        """Book the job that runs within, after waiting until the budget allows it."""
        if self._ledger is None:
            yield
            return
        said = ""
        while why := self._ledger.begin(self._meter, self._run_id, queue, digest):
            if why != said:
                log.warning("paused: %s", why)
            said = why
            time.sleep(1)
        try:
            yield
        finally:
            self._meter.rest()
