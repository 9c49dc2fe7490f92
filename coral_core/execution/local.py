"""The local executor: lanes on this machine, each a thread with its own engine process.

A lane starts when a job waits and no lane is idle, and ends after `linger` seconds without a job. Tests and evaluations go
first, so that results show early; of trainings the largest goes first, so that no long one is left at the end of a
generation. Evaluations that wait and whose completions may be written in one request are taken together. A failed engine is
restarted, and its job is tried again by the rules of `attempts`. During a job's last attempt no other lane takes a job.
"""

import bisect
import contextlib
import itertools
import logging
import os
import threading
import time
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from coral_core.config import InfraConfig
from coral_core.errors import CoralError, EngineError, StoreError
from coral_core.execution.attempts import conclusion, goes_on, is_last
from coral_core.execution.executor import Executor
from coral_core.jobs.jobs import RANKS, EvaluationJob, Job, QueueName, kind_of, queue_of, size_of
from coral_core.lanes.lane import Lane
from coral_core.ledger import Closure, Ledger, Meter
from coral_core.lm.engine_client import EngineProcess
from coral_core.queue.queue import Failure
from coral_core.store.store import Store

log = logging.getLogger("coral.dispatch")

HELD_SECONDS = 1.0
"""Time between two questions to the ledger while the budget is closed."""


@dataclass(eq=False)
class _Work:
    """One submitted job."""

    job: Job
    future: Future[Any] = field(default_factory=Future)
    failures: tuple[Failure, ...] = ()
    key: str = ""
    """`EvaluationJob.pack_key` of an evaluation; other jobs are done one by one."""
    beside: tuple["_Work", ...] = ()
    """Evaluations that are done together with this one."""

    @property
    def queue(self) -> QueueName:
        return queue_of(self.job)


class LocalExecutor(Executor):
    """Runs jobs in lanes on this machine, each with its own engine process of one torch thread.

    Args:
        infra: Number of lanes (one per core if 0), limits of both queues, `linger` and `attempts`.
        store: Where results go.
        run_id: Run whose budget pays for the jobs; empty without a ledger.
        ledger: Ledger that admits and records jobs; None for no budget.
    """

    def __init__(self, infra: InfraConfig, store: Store, run_id: str = "", ledger: Ledger | None = None) -> None:
        self._store = store
        self._run_id = run_id
        self._ledger = ledger
        self._held: Closure | None = None
        self._attempts = infra.attempts
        self._linger = infra.linger
        self._limit = infra.local_lanes or (os.cpu_count() or 1)
        train, evaluate = infra.training, infra.evaluation
        self._caps: dict[QueueName, int] = {"training": train.lanes, "evaluation": evaluate.lanes}
        self._seconds: dict[QueueName, float] = {"training": train.minutes * 60, "evaluation": evaluate.minutes * 60}
        self._allowed = self._seconds
        """Seconds that the ledger expects of a job at most."""
        self._pack = evaluate.pack
        self._changed = threading.Condition()
        self._queue: list[tuple[tuple[int, int], int, _Work]] = []
        self._order = itertools.count()
        self._busy: dict[int, _Work] = {}
        self._threads: dict[int, threading.Thread] = {}
        self._lanes: dict[int, Lane] = {}
        self._alone: _Work | None = None
        self._closed = False

    # -- for callers -----------------------------------------------------------------------

    def submit(self, job: Job) -> Future[Any]:
        work = _Work(job, key=job.pack_key() if isinstance(job, EvaluationJob) else "")
        with self._changed:
            if self._closed:
                raise EngineError("the executor is closed: no more jobs can be submitted")
            self._push(work)
            if len(self._threads) - len(self._busy) < len(self._queue) and len(self._threads) < self._limit:
                number = next(n for n in itertools.count() if n not in self._threads)
                thread = threading.Thread(target=self._serve, args=(number,), name=f"lane-{number}", daemon=True)
                self._threads[number] = thread
                thread.start()
        return work.future

    def running(self) -> tuple[str, ...]:
        with self._changed:
            return tuple(each.job.digest()[:12] for work in self._busy.values() for each in (work, *work.beside))

    def held(self) -> Closure | None:
        with self._changed:
            return self._held if self._queue and not self._busy else None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for _, _, work in self._queue:
                work.future.cancel()
            self._queue.clear()
            lanes = list(self._lanes.values())
            self._changed.notify_all()
        for lane in lanes:
            lane.stop()  # drops the job in flight; published results stay
        for thread in list(self._threads.values()):
            thread.join(timeout=20)

    # -- lanes -----------------------------------------------------------------------------

    def _push(self, work: _Work) -> None:
        rank = (RANKS[kind_of(work.job)], -size_of(work.job))
        bisect.insort(self._queue, (rank, next(self._order), work))
        self._changed.notify_all()

    def _make_lane(self) -> Lane:
        return Lane(self._store, EngineProcess())

    def _serve(self, number: int) -> None:
        lane, meter = self._make_lane(), None
        if self._ledger is not None:  # lanes on this machine cost their working time only, not idle time
            meter = Meter(self._store, f"local-{uuid.uuid4().hex}", "training", rented=False)
        with self._changed:
            self._lanes[number] = lane
        try:
            with meter or contextlib.nullcontext():
                while (work := self._next(number, meter)) is not None:
                    self._do(lane, number, work)
                    if meter is not None:
                        with contextlib.suppress(StoreError):  # the next job reports it
                            meter.rest()
        finally:
            with self._changed:
                self._lanes.pop(number, None)
                self._threads.pop(number, None)
                self._changed.notify_all()
            lane.close()

    def _next(self, number: int, meter: Meter | None) -> _Work | None:
        """The next job that this lane may start, marked as busy; None after `linger` idle seconds or on close."""
        deadline = time.monotonic() + self._linger
        with self._changed:
            while not self._closed:
                if (work := self._choose(meter)) is not None:
                    self._busy[number] = work
                    if is_last(len(work.failures), self._attempts):
                        self._alone = work
                    return work
                left = deadline - time.monotonic()
                if left <= 0 and not self._queue:
                    self._threads.pop(number, None)  # under the lock: a job submitted now starts a new lane
                    return None
                self._changed.wait(HELD_SECONDS if self._held else max(left, 0.05))
        return None

    def _choose(self, meter: Meter | None) -> _Work | None:
        """Remove the first job that may start from the queue and return it; None if there is none."""
        closed: dict[QueueName, Closure | None] = {}
        for work in [entry[2] for entry in self._queue]:
            name = work.queue
            if work.future.cancelled():
                self._take(work)
            elif self._may_start(work):
                beside = self._beside(work)
                try:
                    if name not in closed and self._ledger is not None and meter is not None:
                        allowed = self._allowed[name] * (1 + len(beside))
                        closed[name] = self._ledger.begin(meter, self._run_id, name, work.job.digest(), allowed)
                except StoreError as error:  # the store is full or unreachable, so the cost could not be recorded
                    self._take(work)
                    work.future.set_exception(error)
                    continue
                if not closed.get(name):
                    for taken in (work, *beside):
                        self._take(taken)
                    work.beside = beside
                    self._held = None
                    return work
        self._held = next(iter(closed.values()), None)
        return None

    def _like(self, work: _Work) -> list[_Work]:
        """The waiting evaluations that can be done together with `work`, and itself; empty where it is done alone."""
        if not work.key or work.failures or self._pack == 1:
            return []
        return [other for _, _, other in self._queue if other.key == work.key and not other.failures and not other.future.cancelled()]  # fmt: skip

    def _beside(self, work: _Work) -> tuple[_Work, ...]:
        """The evaluations that are done together with `work`: this lane's share of those that wait."""
        like = [other for other in self._like(work) if other is not work]
        share = -(-(len(like) + 1) // self._limit)
        return tuple(like[: min(share, self._pack) - 1])

    def _take(self, work: _Work) -> None:
        self._queue = [entry for entry in self._queue if entry[2] is not work]

    def _may_start(self, work: _Work) -> bool:
        if self._alone is not None:
            return False
        if is_last(len(work.failures), self._attempts):
            return not self._busy
        return sum(other.queue == work.queue for other in self._busy.values()) < self._caps[work.queue]

    def _do(self, lane: Lane, number: int, work: _Work) -> None:
        together = (work, *work.beside)
        outcomes: list[Any]
        try:
            if work.beside:
                jobs = [each.job for each in together if isinstance(each.job, EvaluationJob)]
                outcomes = [*lane.evaluate_together(jobs, self._seconds[work.queue])]
            else:
                outcomes = [lane.do(work.job, self._seconds[work.queue])]
        except BaseException as problem:
            outcomes = [problem] * len(together)
        with self._changed:
            self._busy.pop(number, None)
            alone = self._alone is work
            if alone:
                self._alone = None
            work.beside = ()
            self._changed.notify_all()
        for each, outcome in zip(together, outcomes, strict=True):
            self._finish(each, number, alone, outcome)

    def _finish(self, work: _Work, number: int, alone: bool, outcome: Any) -> None:
        """Set the result of a job that was done, or try it again."""
        error = outcome if isinstance(outcome, BaseException) else None
        result = None if error is not None else outcome
        failure: Failure | None = None
        again = False
        with self._changed:
            if isinstance(error, Exception) and not self._closed:
                failure = Failure.of_error(error, f"local-{number}", alone=alone)
                work.failures = (*work.failures, failure)
                again = goes_on(work.failures, self._attempts)
                if again:
                    self._push(work)
        if failure is not None and error is not None:
            kind, digest = kind_of(work.job), work.job.digest()
            self.on_failure(kind, digest, failure)
            if again:
                words = failure.message.splitlines()[0]
                tries = f"{len(work.failures)} of {self._attempts}"
                log.warning("%s %s failed (try %s): %s", kind, digest[:12], tries, words)
                log.debug("in full: %s", failure.message, exc_info=error)
                return
            result, error = self._conclude(work, error)
        if error is None and not work.future.cancelled():
            work.future.set_result(result)
        elif self._closed:
            work.future.cancel()  # `close` ended its engine, so this is no failure of the job
        elif error is not None and not work.future.cancelled():
            work.future.set_exception(error)

    def _conclude(self, work: _Work, error: BaseException) -> tuple[Any, BaseException | None]:
        """Result and error of a job that is not tried again; one of them is None. A `CoralError` is passed on as raised."""
        try:
            outcome = conclusion(work.job, work.failures, self._store)
        except StoreError as store_error:  # passed on, or the caller would wait for ever
            return None, store_error
        if not isinstance(outcome, CoralError):
            return outcome, None
        outcome.__cause__ = error
        return None, error if isinstance(error, CoralError) else outcome
