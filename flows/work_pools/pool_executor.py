"""The work-pools executor: jobs go into the store's queue, lanes on Prefect pools take them.

One thread, the dispatcher, serves all jobs that this evolution waits for: it finds results in the store, decides about
failed attempts, frees the jobs of lost lanes, and starts lanes for open jobs. All durable state is in the store and on the
server: after a kill, the next session finds tickets, claims and lanes there. Not covered: the work of a lane
(coral_core/lanes/worker.py), and how a lane is started (fleet.py).
"""

import contextlib
import logging
import threading
import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import UUID

from prefect.client.schemas.objects import StateType

from coral_core.config import BaseModelConfig, InfraConfig, ProblemsConfig
from coral_core.config.tree import TrainingPairsConfig
from coral_core.errors import CoralError, EngineError, StoreError
from coral_core.execution.attempts import MOST_LOSSES, conclusion, goes_on, next_try
from coral_core.execution.executor import Executor
from coral_core.jobs.jobs import (
    BaseModelIdentity,
    EvaluationJob,
    IdentityJob,
    Job,
    QueueName,
    TestJob,
    TrainingJob,
    kind_of,
    queue_of,
    size_of,
)
from coral_core.ledger import Closure, Ledger
from coral_core.lm.base_model import TINY_NAME, is_rehearsal
from coral_core.problem_sources import PATHS
from coral_core.prompting.choice import chosen
from coral_core.queue.lane_board import lane_name
from coral_core.queue.queue import (
    Claim,
    FailedTicket,
    Failure,
    FailureReason,
    JobQueue,
    Ticket,
    is_answer,
)
from coral_core.store.store import Store
from flows.prefect_api.prefect_client import retries
from flows.work_pools.fleet import UNKNOWN, Fleet, RepeatedLog, in_words

log = logging.getLogger("coral.dispatch")

MOST_FAILED_STARTS = 3
TICK_SECONDS = 0.1
LOOK_SECONDS = 1.0
LOAD_SECONDS = 1800.0
"""Time limit of an identity job, for which a lane loads the base model."""
J = TypeVar("J", bound=Job)
Source = TypeVar("Source", ProblemsConfig, TrainingPairsConfig)


@dataclass
class _Pending:
    """A submitted job, and the future that its result goes to."""

    ticket: Ticket
    job: Job
    future: Future[Any] = field(default_factory=Future)
    others_done: int = 0
    """Number of jobs that its pool had done when this one last lost its lane."""

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Resolve the future with the result or the error."""
        with contextlib.suppress(InvalidStateError):  # the caller has cancelled it
            self.future.set_result(result) if error is None else self.future.set_exception(error)


@dataclass
class _Pool:
    """A queue, and the state of the lanes that serve it."""

    name: QueueName
    queue: JobQueue
    lanes: int
    """Largest number of lanes."""
    seconds: float
    """Time limit of a job, in seconds."""
    closed: Closure | None = None
    """The reason why this evolution may not start a job, as of the last look."""
    notice: str = ""
    done: int = 0
    failed_starts: int = 0
    """Lanes in a row that ended before their first job; lanes started at the same time count once."""
    counted: float = 0.0


class WorkPoolExecutor(Executor):
    """Submits jobs to the queues of a store; lanes are flow runs of deployments.

    Args:
        infra: Names deployments, numbers of lanes, time limits and attempts.
        store: Holds the queues, and receives the results.
        run_id: Run that submits the jobs and whose budget pays.
        ledger: Accounts of `store`; tells whether the budget allows new jobs.

    Raises:
        ApiError: The API cannot be reached, or refuses the key.
        ConfigError: A deployment is missing, or belongs to another flow.
        StoreError: The queues cannot be written.
    """

    def __init__(self, infra: InfraConfig, store: Store, run_id: str, ledger: Ledger) -> None:
        self._infra = infra
        self._store = store
        self._run_id = run_id
        self._ledger = ledger
        train, evaluate = infra.training, infra.evaluation
        self._pools: dict[QueueName, _Pool] = {
            "training": _Pool("training", JobQueue(store, "training"), train.lanes, train.minutes * 60),
            "evaluation": _Pool("evaluation", JobQueue(store, "evaluation"), evaluate.lanes, evaluate.minutes * 60),
        }
        for pool in self._pools.values():
            pool.queue.prepare()
        deployments: dict[QueueName, str] = {"training": train.deployment, "evaluation": evaluate.deployment}
        self._installation = self._pools["training"].queue.installation()
        self._board = self._pools["training"].queue.lanes
        self._fleet = Fleet(deployments, str(store.root), self._installation, infra.linger)
        self._lock = threading.RLock()
        self._pending: dict[str, _Pending] = {}
        self._repeated_log = RepeatedLog(log)
        self._unstarted: dict[UUID, float] = {}
        self._orphan_seconds = infra.lease
        """Seconds that a living evolution has for freeing its own jobs before others do it."""
        self._orphans: dict[str, float] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._thread.start()

    # -- for callers -----------------------------------------------------------------------

    def submit(self, job: Job) -> Future[Any]:
        job = with_absolute_paths(job)
        pool = self._pools[queue_of(job)]
        queue = pool.queue
        ticket = Ticket(
            kind=kind_of(job),
            digest=job.digest(),
            run_id=self._run_id,
            job=job.model_dump(mode="json"),
            seconds=LOAD_SECONDS if isinstance(job, IdentityJob) else pool.seconds,
            size=size_of(job),
        )
        with self._lock:
            if self._closing.is_set():
                raise EngineError("the executor is closed: no more jobs can be submitted")
            if ticket.digest in self._pending:
                return self._pending[ticket.digest].future
            if isinstance(job, IdentityJob):  # an old answer may come from other machines
                queue.forget_answer(ticket.digest)
            old = next((t for t in queue.waiting(self._run_id) if t.digest == ticket.digest), None)
            failed = queue.failed(ticket)
            if old is not None:  # submitted by this run before it was killed: its attempts count
                ticket = ticket.model_copy(update={"failures": old.failures, "alone": old.alone})
            elif failed is not None and not goes_on(failed.ticket.failures, self._infra.attempts):
                queue.forget_failed(ticket)  # the user runs it again, for example after a full disk: it starts anew
                failed = None
            pending = self._pending[ticket.digest] = _Pending(ticket, job)
            if failed is None:  # a result that is there already is found at the next tick; lanes leave such a ticket
                queue.submit(ticket)
        return pending.future

    def submit_identity(self, job: IdentityJob) -> Future[BaseModelIdentity]:
        return self.submit(job)

    def running(self) -> tuple[str, ...]:
        claims = {claim.digest for pool in self._pools.values() for claim in pool.queue.claims()}
        with self._lock:
            return tuple(digest[:12] for digest in self._pending if digest in claims)

    def held(self) -> Closure | None:
        with self._lock:
            waits = {queue_of(pending.job) for pending in self._pending.values()}
            if not waits or self.running() or any(not self._pools[name].closed for name in waits):
                return None
        closures = [
            self._ledger.closed(self._run_id, name) for name in waits
        ]  # read again: `pool.closed` is up to a second old
        return closures[0] if all(closures) else None

    @property
    def notice(self) -> str:
        """The reason why jobs wait (no worker online, a paused pool, ...); empty when no reason is known."""
        return "; ".join(pool.notice for pool in self._pools.values() if pool.notice)

    def close(self) -> None:
        """Withdraw unfinished jobs and end lanes that no other evolution needs; works without the API too."""
        self._closing.set()
        self._thread.join(timeout=30)
        with self._lock:
            for pending in self._pending.values():
                pending.future.cancel()
                with contextlib.suppress(
                    OSError
                ):  # a store that cannot be written must not stop the rest of the shutdown
                    self._pools[queue_of(pending.job)].queue.withdraw(pending.ticket)
            self._pending.clear()
        with retries(0):
            for name, pool in self._pools.items():
                for run in [] if pool.queue.open_digests() else self._fleet.living(name):
                    with contextlib.suppress(OSError):  # lanes whose store is gone end by themselves
                        self._board.ask_to_end(lane_name(name, str(run.id)))
                    if run.state_type == StateType.SCHEDULED:
                        self._fleet.cancel(run, f"evolution {self._run_id} has ended and no other one waits")
        self._fleet.close()

    # -- the dispatcher's thread -----------------------------------------------------------

    def _run(self) -> None:
        with retries(0):  # a failed call is repeated at the next look; results are collected meanwhile
            next_look = 0.0
            while not self._closing.wait(TICK_SECONDS):
                reads_lanes = bool(self._pending) and time.monotonic() >= next_look
                if reads_lanes:
                    next_look = time.monotonic() + LOOK_SECONDS
                try:
                    self._serve(reads_lanes)
                except StoreError as error:
                    self._fail_all(error)
                except Exception as error:  # a bug here must not leave futures that never end
                    log.exception("the dispatcher failed")
                    self._fail_all(EngineError(f"the dispatcher failed: {type(error).__name__}: {error}"))

    def _serve(self, reads_lanes: bool) -> None:
        """Serve all pending jobs; with `reads_lanes`, also read lanes from the API."""
        fresh = reads_lanes and self._fleet.refresh()
        if reads_lanes:
            self._pools["training"].queue.check(self._installation)
        ended = self._ended_lanes() if fresh else {}  # without the lock: a submission must not wait for the API
        with self._lock:
            for pending in list(self._pending.values()):
                self._serve_job(pending, ended)
        if fresh:
            self._sweep(ended)
            for pool in self._pools.values():
                self._watch_starts(pool)
                self._start_lanes(pool)

    def _ended_lanes(self) -> dict[str, str]:
        """Flow runs that hold a claim and have ended -> their final state, from the API."""
        holders = {claim.flow_run_id for pool in self._pools.values() for claim in pool.queue.claims()} - {""}
        found = {flow_run_id: self._fleet.ended_state(flow_run_id) for flow_run_id in holders}
        return {flow_run_id: state for flow_run_id, state in found.items() if state is not None}

    def _serve_job(self, pending: _Pending, ended: dict[str, str]) -> None:
        pool, ticket = self._pools[queue_of(pending.job)], pending.ticket
        queue = pool.queue
        if (result := queue.result(ticket)) is not None:
            pool.failed_starts = 0
            pool.done += 1
            self._done(pending, result)
        elif (failed := queue.failed(ticket)) is not None:
            self._decide(pending, failed)
        elif (claim := queue.claim(ticket.digest)) is not None:
            if why := self._gone(claim, ended):
                self._free(pool, claim, why)
        elif not queue.has_ticket(ticket):
            queue.submit(ticket)  # its result for another evolution was broken, or the ticket was removed

    def _done(self, pending: _Pending, result: Any) -> None:
        queue = self._pools[queue_of(pending.job)].queue
        queue.withdraw(pending.ticket)
        queue.forget_failed(pending.ticket)
        if is_answer(pending.ticket.file):
            queue.forget_answer(pending.ticket.digest)
        del self._pending[pending.ticket.digest]
        pending.settle(result, None)

    def _give_up(self, pending: _Pending, error: CoralError) -> None:
        """Fail the future, then withdraw the ticket: the reason for `error` may make the withdrawal fail too."""
        self._pending.pop(pending.ticket.digest, None)
        pending.settle(None, error)
        with contextlib.suppress(OSError):
            self._pools[queue_of(pending.job)].queue.withdraw(pending.ticket)

    def _fail_all(self, error: CoralError, name: QueueName | None = None) -> None:
        with self._lock:
            for pending in [p for p in self._pending.values() if name in (None, queue_of(p.job))]:
                self._give_up(pending, error)

    # -- failures --------------------------------------------------------------------------

    def _decide(self, pending: _Pending, failed: FailedTicket) -> None:
        """Try again, publish what the failures prove, or give up. A job given up stays listed as failed."""
        queue, ticket, last = self._pools[queue_of(pending.job)].queue, failed.ticket, failed.ticket.failures[-1]
        if last.reason != FailureReason.LANE_LOST:  # it was reported when the job was freed
            self.on_failure(ticket.kind, ticket.digest, last)
        if goes_on(ticket.failures, self._infra.attempts):
            job, tries = f"{ticket.kind} {ticket.digest[:12]}", f"{ticket.tries} of {self._infra.attempts}"
            where, words = f"{last.lane} on {last.host}", last.message.splitlines()[0]
            log.warning("%s failed in lane %s (try %s): %s", job, where, tries, words)
            queue.forget_failed(ticket)
            pending.ticket = next_try(ticket, self._infra.attempts)
            queue.submit(pending.ticket)
            return
        result = conclusion(pending.job, ticket.failures, self._store)
        if isinstance(result, CoralError):
            self._give_up(pending, result)
        else:
            self._done(pending, result)

    def _gone(self, claim: Claim, ended: dict[str, str]) -> str:
        """The reason why the lane that holds `claim` cannot finish it; "" while it may."""
        note = self._board.read(claim.lane)
        if note is not None and note.state == "ended":
            return f"it ended ({note.ended})"
        if note is not None and self._board.silent(note, self._infra.lease):
            return f"no beat for {self._infra.lease:.0f} s"
        state = ended.get(claim.flow_run_id, "")
        return "" if state == UNKNOWN and note is not None else state  # it beats, so it belongs to another server

    def _free(self, pool: _Pool, claim: Claim, why: str) -> None:
        """Free the job of a lost lane, and record the loss on the tickets of all evolutions that wait for it."""
        queue, pending = pool.queue, self._pending.get(claim.digest)
        failure = Failure(
            lane=claim.lane,
            host=claim.host,
            reason=FailureReason.LANE_LOST,
            error=FailureReason.LANE_LOST.value,
            message=why,
            alone=claim.alone,
            others_done=pending is not None and pool.done > pending.others_done,
        )
        waiting = [
            ticket for ticket in queue.tickets_for(claim.digest) if not queue.is_done(ticket.digest, ticket.file)
        ]
        if pending is not None and waiting:
            self._ask_first(pending)
        after = [ticket.after(failure) for ticket in waiting]
        for failed in after:  # before the claim is removed, so that the next lane finds tickets that record this loss
            if goes_on(failed.ticket.failures, self._infra.attempts):
                queue.submit(next_try(failed.ticket, self._infra.attempts))
            else:
                queue.set_aside(failed)
        if not queue.break_claim(claim):
            for ticket in waiting:  # another process broke the claim and recorded the loss
                queue.forget_failed(ticket)
                queue.submit(ticket)
            return
        for ticket in [failed.ticket for failed in after]:
            job = f"{ticket.kind} {ticket.digest[:12]} of {ticket.run_id}"
            log.warning("lane %s is lost (%s) with %s, loss %d of %d", claim.lane, why, job, ticket.losses, MOST_LOSSES)
            if pending is not None and ticket.run_id == self._run_id:
                pending.ticket, pending.others_done = next_try(ticket, self._infra.attempts), pool.done
                self.on_failure(ticket.kind, ticket.digest, failure)
        for run in self._fleet.living(pool.name):  # last, since the API may be slow
            if pending is not None and str(run.id) == claim.flow_run_id:
                self._fleet.give_up(run, f"lost: {why}")

    def _ask_first(self, pending: _Pending) -> None:
        """Before each attempt alone of a job that lost lanes, submit an identity job, which shows whether lanes work."""
        again = 1 <= pending.ticket.losses < MOST_LOSSES - 1 and not self._closing.is_set()
        if again and isinstance(pending.job, TrainingJob | EvaluationJob):
            self.submit(IdentityJob(queue=queue_of(pending.job), base_model=pending.job.base_model))

    def _sweep(self, ended: dict[str, str]) -> None:
        """Free claims of lost lanes on jobs that this evolution does not wait for.

        A living evolution frees its own jobs within seconds, so a claim that was not freed for `_orphan_seconds` belongs to
        no evolution. Without this, a job that kills its lanes would end the lanes of all other evolutions one by one.
        """
        now, before, self._orphans = time.monotonic(), self._orphans, {}
        for pool in self._pools.values():
            pool.queue.remove_damaged_claims()
            for claim in [claim for claim in pool.queue.claims() if claim.digest not in self._pending]:
                if why := self._gone(claim, ended):
                    since = self._orphans[claim.token] = before.get(claim.token, now)
                    if claim.digest not in pool.queue.open_digests() or now - since > self._orphan_seconds:
                        self._free(pool, claim, why)

    # -- lanes -----------------------------------------------------------------------------

    def _start_lanes(self, pool: _Pool) -> None:
        """Start as many lanes as the open jobs can fill, up to the limit."""
        name, queue = pool.name, pool.queue
        closed = {run_id: closure for run_id in queue.runs() if (closure := self._ledger.closed(run_id, name))}
        pool.closed = closed.get(self._run_id)
        waiting = len(queue.open_digests(but=closed))
        wanted = min(pool.lanes, waiting)
        for _ in range(wanted - self._serving(pool)):
            self._fleet.start(name)
        key, pool.notice = self._fleet.notice(name) if wanted else ("", "")
        self._repeated_log.warn(f"{name} lanes", key, f"{pool.notice}; {waiting} jobs wait")

    def _serving(self, pool: _Pool) -> int:
        """Number of lanes that take work now or soon.

        A lane that does not beat is recorded as lost: after the death of a worker no other process may notice, and its
        flow run would count as a lane for ever.
        """
        count = 0
        for run in self._fleet.serving(pool.name):
            note = self._board.read(lane_name(pool.name, str(run.id)))
            if note is None and run.state_type == StateType.SCHEDULED:
                count += 1  # no worker has taken it; the fleet's notice reports that
            elif note is None:
                since = self._unstarted.setdefault(run.id, time.monotonic())
                if time.monotonic() - since > self._infra.start:
                    self._fleet.give_up(run, f"no sign of life within {self._infra.start:.0f} s of its start")
                else:
                    count += 1
            elif self._board.silent(note, self._infra.lease):
                self._fleet.give_up(run, f"no beat for {self._infra.lease:.0f} s")
            elif note.state != "ended":
                count += 1
        return count

    def _watch_starts(self, pool: _Pool) -> None:
        """Fail all jobs after `MOST_FAILED_STARTS` lanes in a row ended before their first job: the machine is unfit."""
        for ended in self._fleet.ended_starts(pool.name):
            note = self._board.read(lane_name(pool.name, ended.flow_run_id))
            worked = note is not None and (note.jobs or note.digest)
            if worked or ended.state.type in (StateType.COMPLETED, StateType.CANCELLED):
                pool.failed_starts = 0
            elif not pool.failed_starts or ended.started > pool.counted:
                first = in_words(ended.state).splitlines()[0]
                log.warning("a %s lane ended before its first job: %s", pool.name, first)
                pool.failed_starts, pool.counted = pool.failed_starts + 1, time.monotonic()
                if pool.failed_starts == MOST_FAILED_STARTS:
                    pool.failed_starts = 0
                    lanes = f"{MOST_FAILED_STARTS} lanes of pool {self._fleet.pool(pool.name)} in a row"
                    text = f"{lanes} ended before their first job, the last one: {first}"
                    self._fail_all(EngineError(text, remedy="The log of its worker says more."), pool.name)


def with_absolute_paths(job: J) -> J:
    """A copy of `job` with absolute paths of base model, problems and training pairs, since lanes start in other folders.

    Its digest stays: digests cover the content at a path, not the path.
    """
    update: dict[str, Any] = {}
    if not isinstance(job, TestJob):
        update["base_model"] = _absolute_base_model(job.base_model)
    if not isinstance(job, IdentityJob):
        training = _absolute_source(job.problems.training)
        update["problems"] = _absolute_source(job.problems.model_copy(update={"training": training}))
    if isinstance(job, EvaluationJob) and job.training is not None:
        update["training"] = with_absolute_paths(job.training)
    return cast("J", job.model_copy(update=update))


def _absolute_base_model(config: BaseModelConfig) -> BaseModelConfig:
    name = _absolute(config.name) if Path(config.name).is_dir() else config.name
    if config.name == TINY_NAME or is_rehearsal(config) or name == config.name:
        return config
    # chosen here, since the relative name may choose the prompt template
    return config.model_copy(update={"name": name, "prompt": chosen(config.name, config.prompt)})


def _absolute_source(config: Source) -> Source:
    if not config.path or config.source not in PATHS:
        return config
    return config.model_copy(update={"path": _absolute(config.path)})


def _absolute(path: str) -> str:
    """`path` made absolute where it exists; absolute paths, ``~`` and names that are no files stay."""
    return path if path.startswith(("/", "~")) or not Path(path).exists() else str(Path(path).absolute())
