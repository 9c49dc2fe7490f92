"""Works through a queue as one lane: takes a job, runs it, publishes the result, takes the next.

The lane supervises; its engine, a child process, holds torch. The lane ends when there was no job for `linger` seconds,
when it is asked to, or when it is cancelled. Three threads run beside the work:

- one writes heartbeats, which show that the lane is alive, and stops a job that no evolution requests any more;
- one polls the lane's command from the server; it is separate because a slow server must not delay heartbeats;
- one stops a job that exceeds its time limit; if the job does not return even then, it ends the process.

Not covered: starting lanes, and further attempts at a failed job.
"""

import contextlib
import logging
import os
import platform
import random
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from coral_core.errors import StoreError
from coral_core.jobs.jobs import parse_job
from coral_core.lanes.allowed_paths import Roots
from coral_core.lanes.gpu import own_gpu
from coral_core.lanes.lane import Lane
from coral_core.ledger import Closure, Ledger, Meter
from coral_core.lm.engine_client import Engine, EngineProcess
from coral_core.queue.lane_board import BEAT_SECONDS, DoneJob, Ended, LaneNote, lane_name
from coral_core.queue.queue import Claim, Failure, JobQueue, Ticket, is_answer
from coral_core.store.store import Store
from coral_core.time_limit import TimeLimit

log = logging.getLogger("coral.lane")

LOOK_SECONDS = 0.1
"""Mean time between two looks into an empty queue."""
ASK_SECONDS = 3.0
"""Time between two polls of the lane's command."""
SLACK_SECONDS = 30.0
"""A job that still runs so long after its time limit is stopped, since the limit itself was not enforced."""
GRACE_SECONDS = 10.0
"""If a job does not return so long after it was stopped, the lane's process is ended."""
WATCH_SECONDS = 0.5
CLOSED_SECONDS = 2.0
"""Idle time after which a lane ends if budgets allow no job. It is short, since waiting is booked to the budget."""
Command = Literal["go on", "finish", "stop"]


@dataclass(eq=False)
class _JobInFlight:
    """The job that the lane runs now."""

    ticket: Ticket
    claim: Claim
    stopped: str = ""
    """Why it was stopped on purpose; empty if it was not."""
    stopped_at: float | None = None
    outlasted: TimeLimit | None = None
    """The time limit that it exceeded before it was stopped; None if it did not."""


class LaneWorker:
    """One lane of one queue.

    Args:
        store: The store that all lanes share.
        queue: The queue to serve.
        linger: Seconds without a job after which the lane ends.
        flow_run_id: The Prefect flow run of this lane; empty outside Prefect.
        command: Polled every `ASK_SECONDS`. "finish" ends the lane after the job in flight, "stop" ends both.
        make_engine: Creates the engine; also called to replace an engine that was stopped.
        ledger: Asked before each job whether the budget of its evolution allows it; None: no budget is checked.
        roots: Folders that jobs may name on this machine; None: any, for a queue without jobs of other users.
    """

    def __init__(
        self,
        store: Store,
        queue: JobQueue,
        linger: float,
        flow_run_id: str = "",
        command: Callable[[], Command] = lambda: "go on",
        make_engine: Callable[[], Engine] = EngineProcess,
        ledger: Ledger | None = None,
        roots: Roots | None = None,
    ) -> None:
        self._store = store
        self._queue = queue
        self._linger = linger
        self._ledger = ledger
        self._roots = roots
        self._closed: dict[str, Closure | None] = {}
        self._ask_command = command
        self._command: Command = "go on"
        self._make_engine = make_engine
        self._lane = Lane(store, make_engine(), roots)
        self._leave: Callable[[int], None] = os._exit
        self._lock = threading.Lock()
        self._job: _JobInFlight | None = None
        self._over = threading.Event()
        self._note = LaneNote(
            lane=lane_name(queue.name, flow_run_id or uuid.uuid4().hex),
            queue=queue.name,
            flow_run_id=flow_run_id,
            host=platform.node(),
            pid=os.getpid(),
            started=time.time(),
        )
        self._meter = Meter(store, self._note.lane, queue.name)

    @property
    def note(self) -> LaneNote:
        """The lane's note as written last."""
        return self._note

    def run(self) -> Ended:
        """Work until there is nothing left to do, or until the lane is asked to end.

        The lane's note records how it ended, including exceptions.

        Raises:
            StoreError: the store cannot be used; `OSError` and `MemoryError` of a job are raised, too.
        """
        self._queue.prepare()
        self._write_note(state="starting")
        beats = threading.Thread(target=self._beat, name="beat", daemon=True)
        for thread in (beats, *(threading.Thread(target=t, daemon=True) for t in (self._ask, self._watch))):
            thread.start()
        why: str = "interrupted"
        try:
            with own_gpu(self._queue, self._note.lane, self._end_of) as end:
                if end is None:
                    self._write_note(state="idle")
                    with self._meter:
                        end = self._work()
            why = end
            return end
        except Exception as error:
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            why = f"failed: {text}"
            raise
        finally:
            self._over.set()
            beats.join(timeout=10)
            if self._job is not None:
                self._queue.release(self._job.claim)
            self._lane.close()
            with contextlib.suppress(OSError):  # if the store is gone, nothing can be written
                self._write_note(state="ended", digest="", run_id="", ended=why)

    def _work(self) -> Ended:
        idle_since = time.monotonic()
        while True:
            idle = time.monotonic() - idle_since
            if (end := self._end_of(idle)) is not None:
                return end
            self._closed = {}
            note = self._note
            taken = self._queue.take(note.lane, note.flow_run_id, note.host, self._why_closed, self._begin)
            if taken is not None:
                self._run_job(*taken)
                idle_since = time.monotonic()
            elif idle > CLOSED_SECONDS and self._waits_for_a_budget():
                return "budget"
            else:  # jitter: lanes that gave a job back for each other must not ask again at the same moment
                time.sleep(LOOK_SECONDS * random.uniform(0.5, 1.5))

    def _end_of(self, idle: float) -> Ended | None:
        """Why the lane ends now, after `idle` seconds without a job; None if it goes on."""
        if self._command != "go on":
            return "cancelled" if self._command == "stop" else "drained"
        if self._queue.lanes.asked_to_end(self._note.lane):
            return "asked"
        return "idle" if idle > self._linger else None

    def _waits_for_a_budget(self) -> bool:
        """Whether an open job, or idle time booked to the last evolution, is not allowed by a budget."""
        if payer := self._meter.payer:
            self._why_closed(payer)
        return any(closure is not None and not closure.is_passing for closure in self._closed.values())

    def _why_closed(self, run_id: str) -> Closure | None:
        if self._ledger is None:
            return None
        if run_id not in self._closed:
            self._closed[run_id] = self._ledger.closed(run_id, self._queue.name)
        return self._closed[run_id]

    def _begin(self, ticket: Ticket) -> Closure | None:
        """Book the beginning of a job. Returns why it may not begin, if its budget has closed meanwhile."""
        what = ticket.run_id, self._queue.name, ticket.digest, ticket.seconds
        if self._ledger is None:
            self._meter.work(*what)
            return None
        closure = self._closed[ticket.run_id] = self._ledger.begin(self._meter, *what)
        return closure

    def _run_job(self, ticket: Ticket, claim: Claim) -> None:
        name = f"{ticket.kind} {ticket.digest[:12]}"
        alone = ", with nothing beside it" if ticket.alone else ""
        log.info("%s for %s begins, try %d%s", name, ticket.run_id, ticket.tries + 1, alone)
        waited, started = self._queue.waited(claim, ticket), time.monotonic()
        error: Exception | None = None
        trace = ""
        with self._lock:
            job = self._job = _JobInFlight(ticket, claim)
        self._write_note(state="working", digest=ticket.digest, run_id=ticket.run_id)
        try:
            self._call(ticket)
        except Exception as problem:
            error, trace = problem, traceback.format_exc()
        with self._lock:
            self._job = None
        if job.outlasted is not None and error is not None and not isinstance(error, StoreError):
            error = job.outlasted.over(f"the {ticket.kind}")
        self._count(job, waited, time.monotonic() - started, failed=error is not None)
        with contextlib.suppress(StoreError):  # the next use of the store reports it
            # identity jobs and stopped ones do not count in the mean duration of jobs
            self._meter.drop() if job.stopped or ticket.kind == "identity" else self._meter.rest()
        if job.stopped:
            log.info("%s stopped: %s", name, job.stopped)
            self._queue.release(claim)
        elif error is None:
            self._queue.finish(claim, ticket)
            log.info("%s done in %.1f s", name, time.monotonic() - started)
        else:
            self._report(job, error, trace)
        if self._lane.stopped:  # engine and judge were ended on purpose, so new ones are needed
            self._lane.close()
            self._lane = Lane(self._store, self._make_engine(), self._roots, self._lane.clock)
        self._write_note(state="idle", digest="", run_id="")
        if isinstance(error, StoreError | OSError | MemoryError):
            raise error  # disk, processes or memory of this machine are exhausted: another lane must try next

    def _call(self, ticket: Ticket) -> None:
        result = self._lane.do(parse_job(ticket.kind, ticket.job, ticket.digest), ticket.seconds)
        if is_answer(ticket.file):
            self._queue.publish_answer(ticket.digest, result)

    def _report(self, job: _JobInFlight, error: Exception, trace: str = "") -> None:
        failure = Failure.of_error(error, self._note.lane, self._note.host, job.claim.alone)
        log.warning("%s %s failed: %s", job.ticket.kind, job.ticket.digest[:12], failure.message.splitlines()[0])
        self._queue.fail(job.claim, job.ticket, failure, trace)

    def _count(self, job: _JobInFlight, waited: float, seconds: float, failed: bool) -> None:
        """Count an ended job in the note. Identity jobs and jobs stopped on purpose are left out of `recent`."""
        with self._lock:
            recent = self._note.recent
            if job.ticket.kind != "identity" and not job.stopped:
                recent = recent.with_job(DoneJob(ended=time.time(), waited=waited, seconds=seconds, failed=failed))
            self._note = self._note.model_copy(update={"jobs": self._note.jobs + 1, "recent": recent})

    # -- the other threads -----------------------------------------------------------------

    def _ask(self) -> None:
        while not self._over.wait(ASK_SECONDS):
            try:
                self._command = self._ask_command()
            except Exception as error:
                log.warning("lane %s: %s", self._note.lane, str(error).splitlines()[0])

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._write_note()
                if (job := self._job) is not None and (why := self._why_stop(job.claim)):
                    self._stop(job, why)
            except Exception as error:  # the store is unreachable: work and heartbeats go on
                log.warning("lane %s: %s", self._note.lane, str(error).splitlines()[0])

    def _why_stop(self, claim: Claim) -> str:
        """Why the job in flight must be stopped; empty if it must not."""
        if self._command == "stop":
            return "cancelled"
        if not self._queue.wanted(claim.digest):
            return "withdrawn"
        return "" if self._queue.holds(claim) else "its claim was broken"

    def _stop(self, job: _JobInFlight, why: str = "") -> None:
        """Stop `job` if it is still in flight, by ending engine, judge and plug-ins."""
        with self._lock:
            if job is not self._job:
                return
            job.stopped = job.stopped or why
            job.stopped_at = job.stopped_at or time.monotonic()
            self._lane.stop()

    def _watch(self) -> None:
        """Stop jobs that their time limit did not end, such as an endless loop in a problem source or a hung store."""
        while not self._over.wait(WATCH_SECONDS):
            job, limit = self._job, self._lane.limit
            if job is None:
                continue
            if job.stopped_at is None:
                if limit is not None and limit.overdue() > SLACK_SECONDS:
                    log.warning("the job in flight goes on after its time limit and is stopped")
                    job.outlasted = limit
                    self._stop(job)
            elif time.monotonic() - job.stopped_at > GRACE_SECONDS:
                log.error("the job in flight does not return %.0f s after it was stopped: the lane ends", GRACE_SECONDS)
                report = threading.Thread(target=self._report_hung_job, args=(job,), daemon=True)  # it may hang, too
                report.start()
                report.join(GRACE_SECONDS)
                self._leave(1)

    def _report_hung_job(self, job: _JobInFlight) -> None:
        """Report the job before the process ends, so that its ticket need not wait until the lane counts as dead."""
        if job.outlasted is not None and not job.stopped:
            self._report(job, job.outlasted.over(f"the {job.ticket.kind}"))
        else:
            self._queue.release(job.claim)
        self._count(job, 0.0, time.time() - job.claim.since, failed=True)
        what = f"{job.ticket.kind} {job.ticket.digest[:12]}"
        self._write_note(state="ended", digest="", run_id="", ended=f"its {what} did not return")

    def _write_note(self, **changes: object) -> None:
        with self._lock:
            beat = {"beat": self._note.beat + 1, "seen": time.time(), "device": self._lane.clock.life()}
            self._note = self._note.model_copy(update=beat | changes)
            self._queue.lanes.write(self._note)
