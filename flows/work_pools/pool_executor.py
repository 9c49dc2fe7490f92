"""The work-pools executor: jobs go into the store's queue, lanes on Prefect pools take them.

One thread looks after everything this evolution waits for: it finds results in the store,
decides about failed tries, frees the jobs of lanes that are gone, and starts lanes for what
is ready. It holds no state that matters: kill it, run the evolution again, and the tickets,
claims and lanes are found where they were. Not covered: what a lane does
(coral_core/lanes/worker.py), how it is started (fleet.py).
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
from coral_core.errors import CoralError, EngineError, StoreError
from coral_core.execution import attempts
from coral_core.execution.executor import Executor
from coral_core.jobs.jobs import (
    BaseModelIdentity,
    Evaluation,
    EvaluationJob,
    IdentityJob,
    TestJob,
    TestResult,
    TrainedAdapter,
    TrainingJob,
)
from coral_core.lanes.gpu import in_line
from coral_core.ledger import Closure, Ledger
from coral_core.lm.base_model import TINY_NAME, is_rehearsal
from coral_core.problem_sources import PATHS
from coral_core.prompting.templates import chosen
from coral_core.queue import (
    LOST,
    Claim,
    FailedTicket,
    Job,
    JobKind,
    JobQueue,
    QueueName,
    Ticket,
    is_answer,
    kind_of,
    lane_name,
    queue_of,
)
from coral_core.store.store import Store
from flows.prefect_api.prefect_client import retries
from flows.work_pools.fleet import UNKNOWN, Fleet, RepeatedLog

log = logging.getLogger("coral.dispatch")

MOST_FAILED_STARTS = 3
TICK_SECONDS = 0.1
LOOK_SECONDS = 1.0
LOAD_MINUTES = 30.0
"""Limit of asking a lane, which loads the base model for it."""
_ANSWERS: dict[JobKind, type[TestResult] | type[BaseModelIdentity]] = {
    "test": TestResult,
    "identity": BaseModelIdentity,
}
J = TypeVar("J", bound=Job)


@dataclass
class Pending:
    """A submitted job, and the future that its result goes to."""

    ticket: Ticket
    job: Job
    future: Future[Any] = field(default_factory=Future)
    others_done: int = 0
    """How many other jobs had been done when it last lost its lane."""

    @property
    def queue(self) -> QueueName:
        return queue_of(self.job)

    def result(self, queue: JobQueue) -> Any:
        """The result, or None; a broken one is moved away, so that the job is done again."""
        ticket, store = self.ticket, queue.store
        if not queue.is_done(ticket.digest, ticket.file):
            return None
        if (answer := _ANSWERS.get(ticket.kind)) is not None:
            if (said := queue.answer(ticket.digest, answer)) is None:
                queue.forget_answer(ticket.digest)  # it cannot be read, and lanes would count the job as done
            return said
        if ticket.kind == "training":
            found: Any = store.read_adapter(ticket.digest)
        else:
            found = store.read_evaluation(ticket.digest)
        if found is None:
            store.set_aside("adapter" if ticket.kind == "training" else "evaluation", ticket.digest)
        return found

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Resolve the future with the result or the error."""
        try:
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)
        except InvalidStateError:  # the caller has cancelled it
            return


@dataclass
class FailedStarts:
    """Counts lanes of a pool that ended before their first job, in a row: enough of them mean that the machine does not fit.

    Lanes that were started side by side count once, since one cause (the worker died) may have ended them all.
    """

    failed: int = 0
    _counted: float = 0.0

    def reset(self) -> None:
        """A lane has worked."""
        self.failed = 0

    def add(self, started: float) -> bool:
        """Count a lane that was started at `started` (monotonic seconds); True when that makes `MOST_FAILED_STARTS` in a row."""
        if self.failed and started <= self._counted:
            return False
        self.failed, self._counted = self.failed + 1, time.monotonic()
        if self.failed < MOST_FAILED_STARTS:
            return False
        self.failed = 0
        return True


class OrphanedJobs:
    """Frees jobs of one queue whose lane and whose evolution are both gone.

    A living evolution frees its own jobs within seconds and books each loss on its ticket. What it has not freed after a
    lease is freed here, with the same consequences: else a job that kills its lanes would, once its evolution was killed,
    end the lanes of all others one after another.

    Args:
        queue: The queue.
        lease: Seconds that a living evolution has to free its own jobs.
        most_tries: `infra.attempts`.
    """

    def __init__(self, queue: JobQueue, lease: float, most_tries: int) -> None:
        self._queue = queue
        self._lease = lease
        self._most_tries = most_tries
        self._since: dict[str, float] = {}

    def free(self, gone: dict[Claim, str]) -> None:
        """Free the jobs whose lease has passed.

        Args:
            gone: Claims of lanes that are gone, on jobs of other evolutions -> why.
        """
        damaged = self._queue.damaged_claims()
        found = {claim.token for claim in gone} | set(damaged)
        self._since = {key: since for key, since in self._since.items() if key in found}
        for claim, why in gone.items():
            tickets = self._queue.tickets_for(claim.digest)
            waiting = [ticket for ticket in tickets if not self._queue.is_done(ticket.digest, ticket.file)]
            if not waiting:  # the lane died between publishing and releasing the claim, or nobody waits for the job
                self._queue.break_claim(claim)
            elif self._is_due(claim.token):
                self._free_one(claim, why, waiting)
        for digest in damaged:
            if self._is_due(digest):
                log.warning("the claim on %s %s cannot be read and is removed", self._queue.name, digest[:12])
                self._queue.remove_claim(digest)

    def _is_due(self, key: str) -> bool:
        since = self._since.setdefault(key, time.monotonic())
        return time.monotonic() - since > self._lease

    def _free_one(self, claim: Claim, why: str, tickets: list[Ticket]) -> None:
        """Book the loss before the claim is broken, so that the next lane finds tickets that know of it, or none."""
        for old in tickets:
            ticket = attempts.after_loss(old, attempts.loss(claim, why, others_done=False))
            if ticket.losses < attempts.MOST_LOSSES:
                self._queue.submit(attempts.next_try(ticket, self._most_tries))
            else:
                self._queue.put_aside(ticket)
            log.warning(
                "lane %s is lost (%s), and evolution %s, which waited for %s %s, is gone too: %s",
                claim.lane,
                why,
                ticket.run_id,
                ticket.kind,
                ticket.digest[:12],
                "another lane takes it"
                if ticket.losses < attempts.MOST_LOSSES
                else "it is given up (coral jobs lists it)",
            )
        self._queue.break_claim(claim)


class WorkPoolExecutor(Executor):
    """Submits to the queues of `store`; lanes are flow runs of the deployments that `infra` names."""

    def __init__(self, infra: InfraConfig, store: Store, run_id: str, ledger: Ledger, flow_run_id: str = "") -> None:
        self._infra = infra
        self._store = store
        self._run_id = run_id
        self._ledger = ledger
        self._closed: dict[QueueName, Closure | None] = {}
        names: tuple[QueueName, QueueName] = ("training", "evaluation")
        self._queues = {name: JobQueue(store, name) for name in names}
        for queue in self._queues.values():
            queue.prepare()
            queue.join(run_id, flow_run_id, infra.weight)
        train, evaluate = infra.training, infra.evaluation
        self._limits: dict[QueueName, int] = {"training": train.lanes, "evaluation": evaluate.lanes}
        deployments: dict[QueueName, str] = {"training": train.deployment, "evaluation": evaluate.deployment}
        self._installation = self._queues["training"].installation()
        self._fleet = Fleet(deployments, str(store.root), self._installation, infra.linger)
        self._lock = threading.RLock()
        self._pending: dict[str, Pending] = {}
        self._said: dict[QueueName, str] = {}
        self._told = RepeatedLog(log)
        self._unborn: dict[UUID, float] = {}
        self._starts: dict[QueueName, FailedStarts] = {"training": FailedStarts(), "evaluation": FailedStarts()}
        self._orphans = {name: OrphanedJobs(queue, infra.lease, infra.attempts) for name, queue in self._queues.items()}
        self._done_by: dict[QueueName, int] = {"training": 0, "evaluation": 0}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._thread.start()

    # -- for callers -----------------------------------------------------------------------

    def submit_training(self, job: TrainingJob) -> Future[TrainedAdapter]:
        size = job.heavy.rank * len(job.heavy.target_modules)
        return self._submit(job, self._infra.training.minutes, size)

    def submit_evaluation(self, job: EvaluationJob) -> Future[Evaluation]:
        return self._submit(job, self._infra.evaluation.minutes)

    def submit_test(self, job: TestJob) -> Future[TestResult]:
        return self._submit(job, self._infra.evaluation.minutes)

    def submit_identity(self, job: IdentityJob) -> Future[BaseModelIdentity]:
        job = with_absolute_paths(job)
        with self._lock:
            if job.digest() not in self._pending:  # an answer that a dead evolution left may be of other machines
                self._queues[job.queue].forget_answer(job.digest())
        return self._submit(job, LOAD_MINUTES)

    def running(self) -> tuple[str, ...]:
        claims = {claim.digest for queue in self._queues.values() for claim in queue.claims()}
        with self._lock:
            return tuple(digest[:12] for digest in self._pending if digest in claims)

    def held(self) -> Closure | None:
        with self._lock:
            waits = {pending.queue for pending in self._pending.values()}
            if not waits or self.running() or any(not self._closed.get(name) for name in waits):
                return None
        closures = [self._ledger.closed(self._run_id, name) for name in waits]  # anew: what is known is a second old
        return closures[0] if all(closures) else None

    @property
    def notice(self) -> str:
        """What keeps work from going on (no worker online, a paused pool, ...); empty when nothing does."""
        return "; ".join(text for text in self._said.values() if text)

    def close(self) -> None:
        """Withdraw what is not done; lanes that nobody else needs end, also when the API is away."""
        self._over.set()
        self._thread.join(timeout=30)
        with self._lock:
            for pending in self._pending.values():
                pending.future.cancel()
                with contextlib.suppress(OSError):  # a store that cannot be written must not keep others from ending
                    self._queues[pending.queue].withdraw(pending.ticket)
            self._pending.clear()
        with retries(0):
            self._dismiss([name for name, queue in self._queues.items() if not queue.open_digests()])
        self._fleet.close()

    def _dismiss(self, names: list[QueueName]) -> None:
        why = f"evolution {self._run_id} has ended and nobody else waits"
        told: set[UUID] = set()
        for refresh in (False, True):  # those known first: to ask for others may take its time
            if refresh:
                self._fleet.refresh()
            for name, run in [(n, run) for n in names for run in self._fleet.living(n) if run.id not in told]:
                told.add(run.id)
                with contextlib.suppress(OSError):  # lanes of a store that is gone end by themselves
                    self._queues[name].lanes.ask_to_end(lane_name(name, str(run.id)), why)
        for name in names:
            for run in self._fleet.not_started(name):
                self._fleet.cancel(run, why)

    # -- submitting ------------------------------------------------------------------------

    def _submit(self, job: Job, minutes: float, size: int = 0) -> Future[Any]:
        job = with_absolute_paths(job)
        ticket = Ticket(
            kind=kind_of(job),
            digest=job.digest(),
            run_id=self._run_id,
            job=job.model_dump(mode="json"),
            seconds=minutes * 60,
            size=size,
        )
        with self._lock:
            if self._over.is_set():
                raise EngineError("the executor is closed: no more jobs can be submitted")
            if ticket.digest in self._pending:
                return self._pending[ticket.digest].future
            queue = self._queues[queue_of(job)]
            old = next((t for t in queue.waiting(self._run_id) if t.digest == ticket.digest), None)
            failed = queue.failed(ticket)
            if old is not None:  # of this run before it was killed: its tries count
                ticket = ticket.model_copy(update={"failures": old.failures, "alone": old.alone})
            elif failed is not None and self._is_final(failed):
                queue.forget_failed(ticket)  # somebody runs it again on purpose, after a full disk, say: it starts anew
            pending = Pending(ticket, job)
            self._pending[ticket.digest] = pending
            if queue.failed(ticket) is None and pending.result(queue) is None:
                queue.submit(ticket)
        return pending.future

    def _is_final(self, failed: FailedTicket) -> bool:
        """Was the job given up, and not only about to be tried again?"""
        error = failed.ticket.failures[-1].error
        return error == LOST or attempts.is_final(error) or failed.ticket.tries >= self._infra.attempts

    # -- the dispatcher's thread -----------------------------------------------------------

    def _run(self) -> None:
        with retries(0):  # a call that fails is made again at the next look, and results are collected meanwhile
            self._serve()

    def _serve(self) -> None:
        next_look = 0.0
        while not self._over.wait(TICK_SECONDS):
            try:
                fresh = False
                if time.monotonic() >= next_look and self._pending:
                    fresh = self._fleet.refresh()
                    next_look = time.monotonic() + LOOK_SECONDS
                    self._queues["training"].check(self._installation)
                ended = self._ended_lanes() if fresh else {}  # without the lock: who submits must not wait for the API
                with self._lock:
                    for pending in list(self._pending.values()):
                        self._look_at(pending, ended)
                if fresh:
                    for name in self._queues:
                        self._sweep(name, ended)
                        self._start_lanes(name)
            except StoreError as error:
                self._fail_all(error)
            except Exception as error:  # a bug here must not leave futures that never end
                log.exception("the dispatcher failed")
                self._fail_all(EngineError(f"the dispatcher failed: {type(error).__name__}: {error}"))

    def _ended_lanes(self) -> dict[str, str]:
        """Flow runs that hold a claim and have ended -> how, as the API knows."""
        holders = {claim.flow_run_id for queue in self._queues.values() for claim in queue.claims()} - {""}
        found = {flow_run_id: self._fleet.ended_state(flow_run_id) for flow_run_id in holders}
        return {flow_run_id: state for flow_run_id, state in found.items() if state is not None}

    def _look_at(self, pending: Pending, ended: dict[str, str]) -> None:
        queue, ticket = self._queues[pending.queue], pending.ticket
        if (result := pending.result(queue)) is not None:
            self._starts[pending.queue].reset()
            self._done_by[pending.queue] += 1
            self._done(pending, result)
        elif (failed := queue.failed(ticket)) is not None:
            self._decide(pending, failed)
        elif (claim := queue.claim(ticket.digest)) is not None:
            if why := self._gone(claim, ended):
                self._take_from(pending, claim, why)
        elif not queue.has_ticket(ticket):
            queue.submit(ticket)  # done for another evolution with a result that was broken, or swept away

    def _done(self, pending: Pending, result: Any) -> None:
        queue = self._queues[pending.queue]
        queue.withdraw(pending.ticket)
        queue.forget_failed(pending.ticket)
        if is_answer(pending.ticket.file):
            queue.forget_answer(pending.ticket.digest)
        del self._pending[pending.ticket.digest]
        pending.settle(result, None)

    def _give_up(self, pending: Pending, error: CoralError) -> None:
        """End the wait first: what keeps the ticket from being taken back may be what the error is about."""
        self._pending.pop(pending.ticket.digest, None)
        pending.settle(None, error)
        with contextlib.suppress(OSError):
            self._queues[pending.queue].withdraw(pending.ticket)

    def _fail_all(self, error: CoralError, name: QueueName | None = None) -> None:
        with self._lock:
            for pending in [p for p in self._pending.values() if name in (None, p.queue)]:
                self._give_up(pending, error)

    # -- failures --------------------------------------------------------------------------

    def _decide(self, pending: Pending, failed: FailedTicket) -> None:
        """Try again, publish what the failures prove, or give up; a ticket given up stays listed as failed."""
        queue, ticket, last = self._queues[pending.queue], failed.ticket, failed.ticket.failures[-1]
        where, words = f"lane {last.lane} on {last.host or 'an unnamed machine'}", last.message.splitlines()[0]
        self.on_failure(ticket.kind, ticket.digest, last)
        if attempts.is_final(last.error):
            self._give_up(pending, attempts.FINAL[last.error](f"{words} ({where})"))
            return
        if ticket.tries < self._infra.attempts:
            job, tries = f"{ticket.kind} {ticket.digest[:12]}", f"{ticket.tries} of {self._infra.attempts}"
            log.warning("%s failed in %s (try %s): %s", job, where, tries, words)
            queue.forget_failed(ticket)
            self._again(pending, ticket)
            return
        if (result := attempts.finding(pending.job, last, ticket.tries, self._store)) is not None:
            self._done(pending, result)
        else:
            self._give_up(pending, EngineError(f"{words} ({where}, try {ticket.tries})"))

    def _again(self, pending: Pending, ticket: Ticket) -> None:
        pending.ticket = attempts.next_try(ticket, self._infra.attempts)
        self._queues[pending.queue].submit(pending.ticket)

    def _gone(self, claim: Claim, ended: dict[str, str]) -> str:
        """Why the lane that holds `claim` will not finish it; empty while it may."""
        board = self._queues["training"].lanes
        note = board.read(claim.lane)
        if note is not None and note.state == "ended":
            return f"it ended ({note.ended})"
        if note is not None and board.silent(note, self._infra.lease):
            return f"no beat for {self._infra.lease:.0f} s"
        state = ended.get(claim.flow_run_id, "")
        return "" if state == UNKNOWN and note is not None else state  # it beats: another server's

    def _take_from(self, pending: Pending, claim: Claim, why: str) -> None:
        """Free the job of a lane that is gone. One loss is no evidence about the job, many with nothing beside it are."""
        queue, old, done = self._queues[pending.queue], pending.ticket, self._done_by[pending.queue]
        self._ask_first(pending)
        ticket = attempts.after_loss(old, attempts.loss(claim, why, others_done=done > pending.others_done))
        # before the claim goes: the next lane finds a ticket that knows of this loss, or none
        if ticket.losses < attempts.MOST_LOSSES:
            self._again(pending, ticket)
        else:
            queue.withdraw(old)
        if not queue.break_claim(claim):
            self._again(pending, old)
            return
        pending.others_done = done
        if not queue.is_done(ticket.digest, ticket.file):
            self._lost(pending, ticket)
        for run in self._fleet.living(pending.queue):  # last: the API may take its time, and the job waits for nobody
            if str(run.id) == claim.flow_run_id:
                self._fleet.give_up(run, f"lost: {why}")

    def _lost(self, pending: Pending, ticket: Ticket) -> None:
        """Another try; or, after many, what they prove about the job, or that it is given up and stays listed as failed."""
        last = ticket.failures[-1]
        self.on_failure(ticket.kind, ticket.digest, last)
        job = f"{ticket.kind} {ticket.digest[:12]}"
        log.warning("lane %s is lost (%s); %s goes to another", last.lane, last.message, job)
        if ticket.losses < attempts.MOST_LOSSES:
            return
        if (result := attempts.finding_of_losses(pending.job, ticket, self._store)) is not None:
            self._done(pending, result)
        else:
            self._queues[pending.queue].put_aside(ticket)
            self._give_up(pending, attempts.lost_too_often(ticket))

    def _ask_first(self, pending: Pending) -> None:
        """Before each try alone of a job that loses its lanes, a lane answers a question: are the lanes the trouble?"""
        again = 1 <= pending.ticket.losses < attempts.MOST_LOSSES - 1 and not self._over.is_set()
        if again and isinstance(pending.job, TrainingJob | EvaluationJob):
            self.submit_identity(IdentityJob(queue=pending.queue, base_model=pending.job.base_model))

    # -- lanes -----------------------------------------------------------------------------

    def _sweep(self, name: QueueName, ended: dict[str, str]) -> None:
        """Free what lanes that are gone still hold and this evolution does not wait for."""
        others = [claim for claim in self._queues[name].claims() if claim.digest not in self._pending]
        self._orphans[name].free({claim: why for claim in others if (why := self._gone(claim, ended))})

    def _start_lanes(self, name: QueueName) -> None:
        """As many lanes as the open work can fill, up to the limit."""
        queue = self._queues[name]
        self._watch_starts(name)
        closed = {run_id: closure for run_id in queue.runs() if (closure := self._ledger.closed(run_id, name))}
        if self._closed.get(name) and self._run_id not in closed:
            queue.begin(self._run_id)  # the turns that it could not take while its budget was closed are gone
        self._closed[name] = closed.get(self._run_id)
        waiting = len(queue.open_digests(but=closed))
        wanted = min(self._limits[name], waiting)
        for _ in range(wanted - self._serving(name)):
            self._fleet.start(name)
        lanes = [lane_name(name, str(run.id)) for run in self._fleet.serving(name)]
        key, notice = self._fleet.notice(name) if wanted else ("", "")
        if wanted and not notice:
            notice = key = in_line(queue.lanes, lanes)
        self._told.warn(f"{name} lanes", key, f"{notice}; {waiting} jobs wait")
        self._said[name] = notice

    def _serving(self, name: QueueName) -> int:
        """Lanes that take work now or soon. A lane without a beat is put on record as lost: after a worker's death nobody
        else may notice, and its flow run would be taken for a lane for ever."""
        board = self._queues[name].lanes
        count = 0
        for run in self._fleet.serving(name):
            note = board.read(lane_name(name, str(run.id)))
            if note is None and run.state_type == StateType.SCHEDULED:
                count += 1  # no worker has taken it: that is said elsewhere
            elif note is None:
                since = self._unborn.setdefault(run.id, time.monotonic())
                if time.monotonic() - since > self._infra.start:
                    self._fleet.give_up(run, f"no sign of life within {self._infra.start:.0f} s of its start")
                else:
                    count += 1
            elif board.silent(note, self._infra.lease):
                self._fleet.give_up(run, f"no beat for {self._infra.lease:.0f} s")
            elif note.state != "ended":
                count += 1
        return count

    def _watch_starts(self, name: QueueName) -> None:
        """Lanes that end before they did anything mean that the machine does not fit: say so instead of trying for ever."""
        board = self._queues[name].lanes
        for run_id, state, started in self._fleet.ended_starts(name):
            note = board.read(lane_name(name, run_id))
            if (note is not None and (note.served or note.digest)) or state.startswith(("Completed", "Cancelled")):
                self._starts[name].reset()
                continue
            first = state.splitlines()[0]
            log.warning("a %s lane ended before its first job: %s", name, first)
            if self._starts[name].add(started):
                self._fail_all(
                    EngineError(
                        f"{MOST_FAILED_STARTS} lanes of pool {self._fleet.pool(name)} in a row ended before their first job, "
                        f"the last one: {first}"
                    ),
                    name,
                )


def with_absolute_paths(job: J) -> J:
    """`job` with absolute paths of base model, problems and training pairs: lanes start in other folders.

    Digests cover what lies at a path and not the path, so the job's digest stays.
    """
    update: dict[str, Any] = {}
    if isinstance(job, IdentityJob | TrainingJob | EvaluationJob):
        update["base_model"] = _absolute_base_model(job.base_model)
    if isinstance(job, TrainingJob | EvaluationJob | TestJob):
        update["problems"] = _absolute_problems(job.problems)
    if isinstance(job, EvaluationJob) and job.training is not None:
        update["training"] = with_absolute_paths(job.training)
    return cast("J", job.model_copy(update=update))


def _absolute_base_model(config: BaseModelConfig) -> BaseModelConfig:
    if config.name == TINY_NAME or is_rehearsal(config) or _is_absolute(config.name) or not Path(config.name).is_dir():
        return config
    # the prompt template may depend on the name as it was given
    prompt = chosen(config.name, config.prompt)
    return config.model_copy(update={"name": _absolute(config.name), "prompt": prompt})


def _absolute_problems(config: ProblemsConfig) -> ProblemsConfig:
    training = config.training
    if training.path and training.source in PATHS and _is_here(training.path):
        training = training.model_copy(update={"path": _absolute(training.path)})
    path = config.path
    if path and config.source in PATHS and _is_here(path):
        path = _absolute(path)
    return config.model_copy(update={"path": path, "training": training})


def _is_here(path: str) -> bool:
    return not _is_absolute(path) and Path(path).exists()


def _is_absolute(path: str) -> bool:
    """Does `path` mean the same in every folder?"""
    return path.startswith(("/", "~"))


def _absolute(path: str) -> str:
    return str(Path(path).absolute())
