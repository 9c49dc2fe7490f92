"""The inline executor: jobs run in this process, one at a time, for a debugger.

In a thread of their own, so that an evolution whose budget is closed, or whose job takes long, still hears a cancel
and shows where it stands; `breakpoint()` works there too.
"""

import contextlib
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from coral_core.config import InfraConfig
from coral_core.errors import EngineError, StoreError
from coral_core.execution.executor import Executor
from coral_core.jobs.jobs import Evaluation, EvaluationJob, TestJob, TestResult, TrainedAdapter, TrainingJob
from coral_core.lanes.lane import Lane
from coral_core.ledger import Closure, Ledger, Meter
from coral_core.lm.engine_client import InlineEngine
from coral_core.queue import QueueName
from coral_core.scoring.measuring_process import MeasuringHere
from coral_core.store.store import Store

HELD_SECONDS = 1.0
END_SECONDS = 20.0
NO_LIMIT = 1e9


class _Work:
    """One submitted job."""

    def __init__(self, queue: QueueName, digest: str, call: Callable[[], Any]) -> None:
        self.queue = queue
        self.digest = digest
        self.call = call
        self.future: Future[Any] = Future()


class InlineExecutor(Executor):
    """Works in the order of submission. Errors are not retried, and time limits not kept: a debugger stops where they happen,
    for as long as one looks; whoever waits for the future meets them."""

    def __init__(self, infra: InfraConfig, store: Store, run_id: str = "", ledger: Ledger | None = None) -> None:
        self._store = store
        self._run_id = run_id
        self._ledger = ledger
        self._lane = Lane(store, InlineEngine(), MeasuringHere())
        self._changed = threading.Condition()
        self._waiting: list[_Work] = []
        self._busy: _Work | None = None
        self._held: Closure | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit_training(self, job: TrainingJob) -> Future[TrainedAdapter]:
        return self._submit(_Work("training", job.digest(), lambda: self._lane.train(job, NO_LIMIT)))

    def submit_evaluation(self, job: EvaluationJob) -> Future[Evaluation]:
        return self._submit(_Work("evaluation", job.digest(), lambda: self._lane.evaluate(job, NO_LIMIT)))

    def submit_test(self, job: TestJob) -> Future[TestResult]:
        return self._submit(_Work("evaluation", job.digest(), lambda: self._lane.test(job, NO_LIMIT)))

    def running(self) -> tuple[str, ...]:
        with self._changed:
            return (self._busy.digest[:12],) if self._busy is not None else ()

    def held(self) -> Closure | None:
        with self._changed:
            return self._held if self._waiting and self._busy is None else None

    def close(self) -> None:
        """A job in flight is waited for, for some seconds: nobody can end it from outside; it is lost after that."""
        with self._changed:
            self._closed = True
            for work in self._waiting:
                work.future.cancel()
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=END_SECONDS)

    # -- the thread ------------------------------------------------------------------------

    def _submit(self, work: _Work) -> Future[Any]:
        with self._changed:
            if self._closed:
                raise EngineError("the executor is closed: no more jobs can be submitted")
            self._waiting.append(work)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="inline", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return work.future

    def _serve(self) -> None:
        meter: Meter | None = None
        if self._ledger is not None:
            meter = Meter(self._store, f"inline-{uuid.uuid4().hex}", "training", rented=False)
        try:
            with meter or contextlib.nullcontext():
                while (work := self._next(meter)) is not None:
                    self._do(work)
                    if meter is not None:
                        with contextlib.suppress(StoreError):  # the next job says it
                            meter.rest()
        finally:
            self._lane.close()

    def _next(self, meter: Meter | None) -> _Work | None:
        """The next job that may start, booked; None on close."""
        with self._changed:
            while not self._closed:
                if (work := self._choose(meter)) is not None:
                    self._busy = work
                    return work
                self._changed.wait(HELD_SECONDS if self._waiting else None)
        return None

    def _choose(self, meter: Meter | None) -> _Work | None:
        """Take the first job that may start from those that wait."""
        closed: dict[QueueName, Closure | None] = {}
        self._waiting = [work for work in self._waiting if not work.future.cancelled()]
        for work in list(self._waiting):
            try:
                if work.queue not in closed and meter is not None and self._ledger is not None:
                    closed[work.queue] = self._ledger.begin(meter, self._run_id, work.queue, work.digest)
            except StoreError as error:  # full or gone: nothing that is spent could be booked
                self._waiting.remove(work)
                work.future.set_exception(error)
                continue
            if not closed.get(work.queue):
                self._waiting.remove(work)
                self._held = None
                if work.future.set_running_or_notify_cancel():
                    return work
                closed.pop(work.queue, None)  # cancelled at this moment; the next one is booked over it
        self._held = next(iter(closed.values()), None)
        return None

    def _do(self, work: _Work) -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = work.call()
        except BaseException as problem:  # whatever it is: somebody waits for it
            error = problem
        with self._changed:
            self._busy = None
        if error is None:
            work.future.set_result(result)
        else:
            work.future.set_exception(error)
