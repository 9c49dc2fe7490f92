"""A lane that works through a queue: takes a job, does it, publishes, takes the next.

The lane supervises; its engine, a child process, holds torch. The lane ends when no job has
come for `linger` seconds, when it is asked to, or when it is cancelled. While it works, a
second thread beats, and looks whether the job is still wanted: a job that was withdrawn is
stopped by ending engine, judge and plug-ins. A third one (`Backstop`) ends what outlasts its time, and a fourth asks what
is wanted of the lane itself, of a server that may take its time: it must not hold up the beats, by which a lane is known
to live. Not covered: starting lanes, and trying a job again.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from coral_core.errors import CoralError, StoreError
from coral_core.jobs.jobs import EvaluationJob, IdentityJob, TestJob, TrainingJob
from coral_core.lanes.allowed_paths import Roots
from coral_core.lanes.lane import Lane
from coral_core.ledger import Closure, Ledger, Meter
from coral_core.lm.engine_client import Engine, EngineProcess
from coral_core.queue.lane_board import BEAT_SECONDS, DoneJob, LaneNote, Served, lane_name
from coral_core.queue.queue import Claim, JobQueue
from coral_core.queue.tickets import Failure, Ticket
from coral_core.store.store import Store
from coral_core.time_limit import TimeLimit

log = logging.getLogger("coral.lane")

LOOK_SECONDS = 0.1
SLACK_SECONDS = 30.0
GRACE_SECONDS = 10.0
WATCH_SECONDS = 0.5
CLOSED_SECONDS = 2.0
"""A lane that waits for a budget to open costs what it waits to save: it lingers no longer than this."""
End = Literal["done", "failed", "stopped"]
Order = Literal["go on", "finish", "stop"]
Ended = Literal["idle", "asked", "cancelled", "drained", "enough", "budget"]


class Backstop:
    """Ends a job that nothing else ends; in the last resort it ends the lane's process.

    Engine, judge and plug-ins are processes of their own, which a time limit or a stop ends. What is left is code of the
    lane's process that does not return: a problem source in an endless loop, a store that hangs. A job that goes on
    `SLACK_SECONDS` after its limit is stopped; one that goes on `GRACE_SECONDS` after it was stopped takes the process with it.

    Args:
        last_words: Puts on record what becomes of the job in flight; it may hang as well, and is then not waited for.
        leave: Ends the process (tests put their own here).
    """

    def __init__(self, last_words: Callable[[TimeLimit | None], None], leave: Callable[[int], None] = os._exit) -> None:
        self._last_words = last_words
        self._leave = leave
        self._lock = threading.Lock()
        self._lane: Lane | None = None
        self._stopped_at: float | None = None
        self.outlasted: TimeLimit | None = None
        """The limit that the job in flight was stopped for; None while it was not."""

    @contextmanager
    def watching(self, lane: Lane) -> Iterator[None]:
        """The job that runs within is `lane`'s."""
        with self._lock:
            self._lane, self._stopped_at, self.outlasted = lane, None, None
        try:
            yield
        finally:
            with self._lock:
                self._lane = None

    def stop(self, lane: Lane) -> None:
        """Stop `lane`'s job in flight, if it is still the one that is watched."""
        with self._lock:
            if lane is not self._lane:
                return
            if self._stopped_at is None:
                self._stopped_at = time.monotonic()
            lane.stop()

    def watch(self, over: threading.Event) -> None:
        """The thread: until `over`."""
        while not over.wait(WATCH_SECONDS):
            self.look()

    def look(self) -> None:
        """One look at the job in flight."""
        with self._lock:
            lane, stopped_at = self._lane, self._stopped_at
            limit = lane.limit if lane is not None else None
            if stopped_at is None and limit is not None and limit.overdue() > SLACK_SECONDS:
                self.outlasted = limit
        if lane is None:
            return
        if stopped_at is None:
            if self.outlasted is not None:
                log.warning("the job in flight goes on after its time limit and is stopped")
                self.stop(lane)
        elif time.monotonic() - stopped_at > GRACE_SECONDS:
            log.error("the job in flight does not return %.0f s after it was stopped: the lane ends", GRACE_SECONDS)
            words = threading.Thread(target=self._last_words, args=(self.outlasted,), daemon=True)
            words.start()
            words.join(GRACE_SECONDS)
            self._leave(1)


class LaneWorker:
    """One lane of one queue.

    Args:
        store: The store that all lanes share.
        queue: Which queue to serve.
        linger: Seconds without a job after which the lane ends.
        flow_run_id: The Prefect flow run that this lane is, if any.
        order: Asked every few seconds; "finish" ends the lane after the job in flight, "stop" ends both.
        make_engine: Makes the engine (tests put their own here).
        most: Jobs after which the lane ends; 0: no limit.
        ledger: Asked before each job whether its evolution may still spend; None: not asked (tests).
        roots: Where jobs may point on this machine; None: anywhere, for a queue that only one's own jobs are in.
    """

    def __init__(
        self,
        store: Store,
        queue: JobQueue,
        linger: float,
        flow_run_id: str = "",
        order: Callable[[], Order] = lambda: "go on",
        make_engine: Callable[[], Engine] = EngineProcess,
        most: int = 0,
        ledger: Ledger | None = None,
        roots: Roots | None = None,
    ) -> None:
        self._store = store
        self._queue = queue
        self._linger = linger
        self._most = most
        self._ledger = ledger
        self._roots = roots
        self._closed: dict[str, Closure | None] = {}
        self._payer_closed: Closure | None = None
        self._ask_again = 0.0
        self._order = order
        self._wish: Order = "go on"
        self._make_engine = make_engine
        self._lane = Lane(store, make_engine())
        self._backstop = Backstop(self._last_words)
        self._lock = threading.Lock()
        self._claim: Claim | None = None
        self._ticket: Ticket | None = None
        self._stopped = ""
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
    def name(self) -> str:
        return self._note.lane

    def run(self) -> Ended:
        """Work until there is nothing left to do; always says goodbye, also when it is ended by an exception."""
        self._queue.prepare()
        self._say(state="idle")
        beats = threading.Thread(target=self._beat, name="beat", daemon=True)
        beats.start()
        threading.Thread(target=self._ask, name="order", daemon=True).start()
        threading.Thread(target=self._backstop.watch, args=(self._over,), name="backstop", daemon=True).start()
        why = "interrupted"
        try:
            with self._meter:
                why = self._work()
            return why
        except Exception as error:
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            why = f"failed: {text}"
            raise
        finally:
            self._over.set()
            beats.join(timeout=10)
            if self._claim is not None:
                self._queue.release(self._claim)
            self._lane.close()
            with contextlib.suppress(OSError):  # where the store is gone, nobody is left to be told
                self._say(state="ended", digest="", run_id="", ended=why)

    def _work(self) -> Ended:
        idle_since = time.monotonic()
        done = 0
        while True:
            if self._most and done >= self._most:
                return "enough"
            if self._stopped == "cancelled":
                return "cancelled"
            if self._wish == "finish":
                return "drained"
            if self._queue.lanes.asked_to_end(self.name):
                return "asked"
            self._closed = {}
            taken = self._queue.take(self.name, self._note.flow_run_id, self._note.host, self._why_closed)
            if taken is not None and self._begun(*taken):
                self._do(*taken)
                done += 1
                idle_since = time.monotonic()
                continue
            idle = time.monotonic() - idle_since
            if idle > self._linger:
                return "idle"
            if idle > CLOSED_SECONDS and self._waits_for_a_budget():
                return "budget"
            time.sleep(
                LOOK_SECONDS * random.uniform(0.5, 1.5)
            )  # lanes that stepped back for each other must not meet again

    def _waits_for_a_budget(self) -> bool:
        """Is there work that no budget allows, or none, and who pays for the waiting may not spend any more?"""
        payer, now = self._meter.payer, time.monotonic()
        if payer and now > self._ask_again:
            self._ask_again = now + 1.0
            self._payer_closed = self._why_closed(payer)
        closures = (*self._closed.values(), self._payer_closed if payer else None)
        return any(closure is not None and not closure.is_passing for closure in closures)

    def _why_closed(self, run_id: str) -> Closure | None:
        if self._ledger is None:
            return None
        if run_id not in self._closed:
            self._closed[run_id] = self._ledger.closed(run_id, self._queue.name)
        return self._closed[run_id]

    def _begun(self, ticket: Ticket, claim: Claim) -> bool:
        """Is the job on the evolution's account? Otherwise it is given back: its budget has closed meanwhile."""
        if self._ledger is None:
            self._meter.work(ticket.run_id, self._queue.name, ticket.digest, ticket.seconds)
            return True
        try:
            closure = self._ledger.begin(self._meter, ticket.run_id, self._queue.name, ticket.digest, ticket.seconds)
        except StoreError:
            with contextlib.suppress(OSError):
                self._queue.release(claim)
            raise
        if closure:
            self._closed[ticket.run_id] = closure
            self._queue.release(claim)
        return closure is None

    def _do(self, ticket: Ticket, claim: Claim) -> None:
        with self._lock:
            self._claim, self._ticket, self._stopped = claim, ticket, ""
        self._say(state="working", digest=ticket.digest, run_id=ticket.run_id)
        alone = ", with nothing beside it" if ticket.alone else ""
        log.info(
            "%s %s for %s begins, try %d%s", ticket.kind, ticket.digest[:12], ticket.run_id, ticket.tries + 1, alone
        )
        before, started = self._queue.waited(claim, ticket), time.monotonic()
        error: Exception | None = None
        trace = ""
        try:
            with self._backstop.watching(self._lane):
                self._call(ticket)
        except Exception as problem:
            error, trace = problem, traceback.format_exc()
        if self._backstop.outlasted is not None and error is not None and not isinstance(error, StoreError):
            error = self._backstop.outlasted.over(f"the {ticket.kind}")
        with self._lock:
            stopped, self._claim = self._stopped, None
        end: End = "stopped" if stopped else "failed" if error else "done"
        self._book(ticket, before, time.monotonic() - started, end)
        with contextlib.suppress(StoreError):  # said by what comes next
            # a question costs what it takes, and says nothing about what jobs take
            self._meter.drop() if stopped or ticket.kind == "identity" else self._meter.rest()
        if stopped:
            log.info("%s %s stopped: %s", ticket.kind, ticket.digest[:12], stopped)
            self._queue.release(claim)
        elif error is None:
            self._queue.finish(claim, ticket)
            log.info("%s %s done in %.1f s", ticket.kind, ticket.digest[:12], time.monotonic() - started)
        else:
            self._report(ticket, claim, error, trace)
        if self._lane.stopped:
            self._renew()
        self._say(state="idle", digest="", run_id="")
        if isinstance(error, StoreError | OSError | MemoryError):
            raise error  # disk, processes or memory of this machine are at an end: the next try must not be this lane's

    def _call(self, ticket: Ticket) -> None:
        job = ticket.parsed()
        if self._roots is not None:  # whoever can write in the store may have written it
            self._roots.check_job(job)
        if isinstance(job, TrainingJob):
            self._lane.train(job, ticket.seconds)
        elif isinstance(job, EvaluationJob):
            self._lane.evaluate(job, ticket.seconds)
        elif isinstance(job, TestJob):
            self._queue.publish_answer(ticket.digest, self._lane.test(job, ticket.seconds))
        elif isinstance(job, IdentityJob):
            self._queue.publish_answer(ticket.digest, self._lane.identify(job))

    def _report(self, ticket: Ticket, claim: Claim, error: Exception, trace: str) -> None:
        failure = Failure(
            lane=self.name,
            host=self._note.host,
            error=type(error).__name__,
            message=str(error) if isinstance(error, CoralError) else f"{type(error).__name__}: {error}",
            alone=claim.alone,
        )
        log.warning("%s %s failed: %s", ticket.kind, ticket.digest[:12], failure.message.splitlines()[0])
        self._queue.fail(claim, ticket, failure, trace)

    def _renew(self) -> None:
        """A new engine and judge after the old ones were ended on purpose."""
        self._lane.close()
        self._lane = Lane(self._store, self._make_engine())

    def _book(self, ticket: Ticket, before: float, seconds: float, end: End) -> None:
        """Add to the lane's account. Who only asked what is here pays for the time, and it counts as no job; a job that was
        stopped on purpose says nothing about such jobs."""
        run_id, is_job = ticket.run_id, ticket.kind != "identity"
        with self._lock:
            old = self._note.served.get(run_id, Served())
            new = Served(jobs=old.jobs + is_job, seconds=old.seconds + seconds)
            recent = self._note.recent
            if is_job and end != "stopped":
                job = DoneJob(ended=time.time(), waited=before, seconds=seconds, failed=end == "failed")
                recent = recent.with_job(job)
            self._note = self._note.model_copy(update={"served": self._note.served | {run_id: new}, "recent": recent})

    def _last_words(self, outlasted: TimeLimit | None) -> None:
        """The job in flight does not return, and the process is about to end: its ticket must not wait for that to be seen."""
        claim, ticket, stopped = self._claim, self._ticket, self._stopped
        if claim is None or ticket is None:
            return
        if outlasted is not None and not stopped:
            self._report(ticket, claim, outlasted.over(f"the {ticket.kind}"), "")
        else:
            self._queue.release(claim)
        self._book(ticket, 0.0, time.time() - claim.since, "stopped" if stopped else "failed")
        self._say(state="ended", digest="", run_id="", ended=f"its {ticket.kind} {ticket.digest[:12]} did not return")

    # -- the other threads -----------------------------------------------------------------

    def _ask(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._wish = self._order()
            except Exception as error:
                log.warning("lane %s: %s", self.name, str(error).splitlines()[0])

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._say()
                self._look()
            except Exception as error:  # the store is away: work goes on, and so must the beats
                log.warning("lane %s: %s", self.name, str(error).splitlines()[0])

    def _look(self) -> None:
        """Stop the job in flight when nobody wants it, when its claim was broken, or when the lane is cancelled."""
        claim = self._claim
        why = ""
        if self._wish == "stop":
            why = "cancelled"
        elif claim is not None and not self._queue.wanted(claim.digest):
            why = "withdrawn"
        elif claim is not None and not self._queue.holds(claim):
            why = "its claim was broken"
        if not why:
            return
        with self._lock:
            if claim is not self._claim and why != "cancelled":
                return
            self._stopped, lane = why, self._lane
        if claim is not None:
            self._backstop.stop(lane)

    def _say(self, **changes: object) -> None:
        with self._lock:
            beat = {"beat": self._note.beat + 1, "seen": time.time()}
            self._note = self._note.model_copy(update=beat | changes)
            note = self._note
            self._queue.lanes.write(note)
