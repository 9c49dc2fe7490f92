"""The local executor: lanes of this machine, each a thread with an engine process of its own.

A lane starts when work waits and none is idle, takes whatever job is next (tests and evaluations
first, so that results show early; then the largest training, so that none is left over at
the end of a generation), and ends after `linger` seconds without work. A failed engine is
restarted, and a job that failed is tried again, unless it would fail alike anywhere. The last
try runs with all other lanes held back, so that what fails then fails by itself: a job that
still kills its engine or outlasts its time makes its genome infeasible.
"""

import bisect
import contextlib
import itertools
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal

from coral_core.config import InfraConfig
from coral_core.errors import CoralError, EngineError, StoreError
from coral_core.execution.attempts import finding, is_final, is_last
from coral_core.execution.executor import Executor
from coral_core.jobs.jobs import Evaluation, EvaluationJob, TestJob, TestResult, TrainedAdapter, TrainingJob
from coral_core.lanes.lane import Lane
from coral_core.ledger import Closure, Ledger, Meter
from coral_core.lm.engine_client import EngineProcess
from coral_core.queue import Failure, Job, QueueName
from coral_core.store.store import Store

log = logging.getLogger("coral.dispatch")

Kind = Literal["training", "evaluation", "test"]
_PRIORITY: dict[Kind, int] = {"test": 0, "evaluation": 1, "training": 2}
HELD_SECONDS = 1.0
_POOL: dict[Kind, Kind] = {"training": "training", "evaluation": "evaluation", "test": "evaluation"}
"""Tests share the lanes of evaluations, as on work pools."""


class _Work:
    """One submitted job."""

    def __init__(self, kind: Kind, job: Job, call: Callable[[Lane], Any], size: int = 0) -> None:
        self.kind = kind
        self.job = job
        self.size = size
        self.digest = job.digest()
        self.call = call
        self.future: Future[Any] = Future()
        self.attempts = 0


class LocalExecutor(Executor):
    """Lanes as processes of this machine; one torch thread each, one lane per core unless configured."""

    def __init__(self, infra: InfraConfig, store: Store, run_id: str = "", ledger: Ledger | None = None) -> None:
        self._store = store
        self._run_id = run_id
        self._ledger = ledger
        self._held: Closure | None = None
        self._attempts = infra.attempts
        self._linger = infra.linger
        self._limit = infra.local_lanes or (os.cpu_count() or 1)
        self._seconds: dict[QueueName, float] = {
            "training": infra.training.minutes * 60,
            "evaluation": infra.evaluation.minutes * 60,
        }
        self._allowed = self._seconds
        """Seconds that the ledger expects of a job at most."""
        self._in_order = False
        """Whether jobs are taken in the order of submission."""
        self._caps: dict[Kind, int] = {"training": infra.training.lanes, "evaluation": infra.evaluation.lanes}
        self._changed = threading.Condition()
        self._queue: list[tuple[tuple[int, int], int, _Work]] = []
        self._order = itertools.count()
        self._busy: dict[int, _Work] = {}
        self._lanes: dict[int, threading.Thread] = {}
        self._workplaces: dict[int, Lane] = {}
        self._alone: _Work | None = None
        self._closed = False

    # -- for callers -----------------------------------------------------------------------

    def submit_training(self, job: TrainingJob) -> Future[TrainedAdapter]:
        seconds = self._seconds["training"]
        size = job.heavy.rank * len(job.heavy.target_modules)
        return self._submit(_Work("training", job, lambda lane: lane.train(job, seconds), size))

    def submit_evaluation(self, job: EvaluationJob) -> Future[Evaluation]:
        seconds = self._seconds["evaluation"]
        return self._submit(_Work("evaluation", job, lambda lane: lane.evaluate(job, seconds)))

    def submit_test(self, job: TestJob) -> Future[TestResult]:
        seconds = self._seconds["evaluation"]
        return self._submit(_Work("test", job, lambda lane: lane.test(job, seconds)))

    def running(self) -> tuple[str, ...]:
        with self._changed:
            return tuple(work.digest[:12] for work in self._busy.values())

    def held(self) -> Closure | None:
        with self._changed:
            return self._held if self._queue and not self._busy else None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for _, _, work in self._queue:
                work.future.cancel()
            self._queue.clear()
            workplaces = list(self._workplaces.values())
            self._changed.notify_all()
        for lane in workplaces:
            lane.stop()  # a job in flight is lost on purpose: what was published stays
        for thread in list(self._lanes.values()):
            thread.join(timeout=20)

    # -- lanes -----------------------------------------------------------------------------

    def _submit(self, work: _Work) -> Future[Any]:
        with self._changed:
            if self._closed:
                raise EngineError("the executor is closed: no more jobs can be submitted")
            self._push(work)
            if len(self._lanes) - len(self._busy) < len(self._queue) and len(self._lanes) < self._limit:
                number = next(n for n in itertools.count() if n not in self._lanes)
                thread = threading.Thread(target=self._serve, args=(number,), name=f"lane-{number}", daemon=True)
                self._lanes[number] = thread
                thread.start()
        return work.future

    def _push(self, work: _Work) -> None:
        rank = (0, 0) if self._in_order else (_PRIORITY[work.kind], -work.size)
        bisect.insort(self._queue, (rank, next(self._order), work))
        self._changed.notify_all()

    def _make_lane(self) -> Lane:
        return Lane(self._store, EngineProcess())

    def _serve(self, number: int) -> None:
        lane, meter = self._make_lane(), None
        if self._ledger is not None:  # lanes of one's own machine cost what they work, not what they wait
            meter = Meter(self._store, f"local-{uuid.uuid4().hex}", "training", rented=False)
        with self._changed:
            self._workplaces[number] = lane
        try:
            with meter or contextlib.nullcontext():
                while (work := self._next(number, meter)) is not None:
                    self._do(lane, number, work)
                    if meter is not None:
                        with contextlib.suppress(StoreError):  # the next job says it
                            meter.rest()
        finally:
            with self._changed:
                self._workplaces.pop(number, None)
                self._lanes.pop(number, None)
                self._changed.notify_all()
            lane.close()

    def _next(self, number: int, meter: Meter | None) -> _Work | None:
        """The next job this lane may start, booked; None after `linger` idle seconds or on close."""
        deadline = time.monotonic() + self._linger
        with self._changed:
            while not self._closed:
                if (work := self._choose(meter)) is not None:
                    self._busy[number] = work
                    if is_last(work.attempts, self._attempts):
                        self._alone = work
                    return work
                left = deadline - time.monotonic()
                if left <= 0 and not self._queue:
                    self._lanes.pop(number, None)  # under the lock: a job submitted now starts a new lane
                    return None
                self._changed.wait(HELD_SECONDS if self._held else max(left, 0.05))
        return None

    def _choose(self, meter: Meter | None) -> _Work | None:
        """Take the first job that may start from the queue."""
        closed: dict[str, Closure | None] = {}
        for work in [entry[2] for entry in self._queue]:
            if work.future.cancelled():
                self._take(work)
            elif self._may_start(work):
                pool: QueueName = "training" if work.kind == "training" else "evaluation"
                try:
                    if pool not in closed and self._ledger is not None and meter is not None:
                        closed[pool] = self._ledger.begin(meter, self._run_id, pool, work.digest, self._allowed[pool])
                except StoreError as error:  # full or gone: nothing that is spent could be booked
                    self._take(work)
                    work.future.set_exception(error)
                    continue
                if not closed.get(pool):
                    self._take(work)
                    self._held = None
                    return work
        self._held = next(iter(closed.values()), None)
        return None

    def _take(self, work: _Work) -> None:
        self._queue = [entry for entry in self._queue if entry[2] is not work]

    def _may_start(self, work: _Work) -> bool:
        if self._alone is not None:
            return False
        if is_last(work.attempts, self._attempts):
            return not self._busy
        pool = _POOL[work.kind]
        return sum(_POOL[other.kind] == pool for other in self._busy.values()) < self._caps[pool]

    def _do(self, lane: Lane, number: int, work: _Work) -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = work.call(lane)
        except BaseException as problem:
            error = problem
        message = str(error) if isinstance(error, CoralError) else f"{type(error).__name__}: {error}"
        with self._changed:
            self._busy.pop(number, None)
            if self._alone is work:
                self._alone = None
            work.attempts += 1
            again = _may_be_tried_again(error) and work.attempts < self._attempts and not self._closed
            if again:
                log.warning(
                    "%s %s failed (try %d of %d): %s",
                    work.kind,
                    work.digest[:12],
                    work.attempts,
                    self._attempts,
                    message.splitlines()[0],
                )
                log.debug("in full: %s", message, exc_info=error)
                self._push(work)
            self._changed.notify_all()
            alone = is_last(work.attempts - 1, self._attempts)
        failure = Failure(lane=f"local-{number}", error=type(error).__name__, message=message, alone=alone)
        if _may_be_tried_again(error) and not self._closed:
            self.on_failure(work.kind, work.digest, failure)
        if again or work.future.cancelled():
            return
        if error is not None and not self._closed:
            try:
                result = finding(work.job, failure, work.attempts, self._store)
                error = None if result is not None else _as_error_of_ours(error, message)
            except StoreError as full:  # or the caller would wait for ever
                error = full
        if error is None:
            work.future.set_result(result)
        elif self._closed:
            work.future.cancel()  # its engine was ended on purpose: that is no failure of the job
        else:
            work.future.set_exception(error)


def _may_be_tried_again(error: BaseException | None) -> bool:
    return isinstance(error, Exception) and not is_final(type(error).__name__)


def _as_error_of_ours(error: BaseException, message: str) -> BaseException:
    """What this machine could not do, such as starting a process, as an error that callers know."""
    if isinstance(error, CoralError) or not isinstance(error, Exception):
        return error
    told = EngineError(message)
    told.__cause__ = error
    return told
