"""The job queues of a store, as plain files: open tickets, claims of lanes, failed tickets and answers.

Layout, for each of the two queues (training, evaluation)::

    queue/<name>/tickets/<run>/<rank>-<size>-<digest>.json   one evolution's request for a job; written by its executor
    queue/<name>/claims/<digest>.json                        made by one lane with an exclusive link
    queue/<name>/failed/<run>/<same name>.json               a ticket whose attempt failed; the executor decides
    queue/<name>/answers/<digest>.json                       results of tests and identities, which the store does not keep
    queue/<name>/served/<run>                                its modification time: when the evolution was served last

A claim is per digest, not per ticket: if two evolutions request the same training, one lane does it and both find the
result in the store. Each step is a link, a rename or an unlink, all of which are atomic on local disks and on NFS. A
claim is released by its lane, or broken by an executor that has proof that the lane is gone. That executor then records
the loss on the tickets.
Not covered here: decisions about another attempt (coral_core/execution/attempts.py) and reports of lanes (lane_board.py).
"""

import contextlib
import errno
import json
import logging
import os
import platform
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field

from coral_core.atomic_write import write_atomic
from coral_core.bounded_read import RECORD, SMALL, look_at, read_file, read_model
from coral_core.errors import (
    AdapterError,
    BaseModelError,
    ConfigError,
    CoralError,
    EngineDiedError,
    EngineMemoryError,
    EngineTimeOutError,
    ProblemError,
    StoreError,
)
from coral_core.frozen import Frozen
from coral_core.jobs.jobs import RANKS, BaseModelIdentity, Digest, JobKind, QueueName, TestResult
from coral_core.json_object import json_object
from coral_core.queue.lane_board import LaneBoard, LaneName
from coral_core.store.store import Kind, Store
from coral_core.untrusted import in_a_line, visible

log = logging.getLogger("coral.queue")

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}", re.ASCII)
RunId = Annotated[str, Field(pattern=f"^{RUN_NAME.pattern}$")]
"""Id of an evolution, which names files and folders of the queue."""
Model = TypeVar("Model", bound=Frozen)
LARGEST = 999_999
"""The largest `Ticket.size`."""
MOST_SECONDS = 600_000
"""The longest time limit, in seconds, that a configuration can set for a job (`minutes` of a queue)."""
LEFT_SECONDS = 30.0
"""Seconds after which a result that is still in the queue counts as uncollected."""


class FailureReason(StrEnum):
    """Why an attempt failed; decides whether and where there is another one."""

    LANE_LOST = "lane-lost"
    ENGINE_DIED = "engine-died"
    TIME_OUT = "time-out"
    OUT_OF_MEMORY = "out-of-memory"
    ADAPTER = "adapter"
    BASE_MODEL = "base-model"
    CONFIG = "config"
    PROBLEM = "problem"
    STORE = "store"
    OTHER = "other"


ERRORS: dict[FailureReason, type[CoralError]] = {
    FailureReason.ENGINE_DIED: EngineDiedError,
    FailureReason.TIME_OUT: EngineTimeOutError,
    FailureReason.OUT_OF_MEMORY: EngineMemoryError,
    FailureReason.ADAPTER: AdapterError,
    FailureReason.BASE_MODEL: BaseModelError,
    FailureReason.CONFIG: ConfigError,
    FailureReason.PROBLEM: ProblemError,
    FailureReason.STORE: StoreError,
}
"""Reason -> its error class. Any other error (`FailureReason.OTHER`) may be specific to one machine."""


class Failure(Frozen):
    """One attempt that ended without a result."""

    lane: str = Field(description="Id of the lane that tried.")
    host: str = ""
    reason: FailureReason = FailureReason.OTHER
    error: str = Field(description="Class of the error, or `lane-lost` when the lane died with the job in flight.")
    message: str
    alone: bool = Field(False, description="Nothing else ran on that machine's lanes of this queue.")
    others_done: bool = Field(
        False, description="Of a lost lane: lanes of this queue have done other work since the loss before."
    )

    @classmethod
    def of_error(cls, error: BaseException, lane: str, host: str = "", alone: bool = False) -> Self:
        """Describe an error that a lane caught.

        Args:
            error: What the job raised.
            lane: Id of the lane.
            host: Host name of the lane's machine.
            alone: Whether no other job of this queue ran on that machine.
        """
        name = type(error).__name__
        return cls(
            lane=lane,
            host=host,
            reason=next((reason for reason, kind in ERRORS.items() if type(error) is kind), FailureReason.OTHER),
            error=name,
            message=str(error) if isinstance(error, CoralError) else f"{name}: {error}",
            alone=alone,
        )


class Ticket(Frozen):
    """A job, the evolution that requests it, and its failed attempts."""

    schema_version: int = 1
    kind: JobKind
    digest: Digest
    run_id: RunId
    job: dict[str, Any] = Field(description="The job as JSON.")
    seconds: float = Field(gt=0, le=MOST_SECONDS, description="Time limit of the work; waiting is not counted.")
    size: int = Field(0, ge=0, le=LARGEST, description="As `size_of`.")
    alone: bool = Field(False, description="Run with no other job of this queue on the same machine.")
    failures: tuple[Failure, ...] = ()

    def after(self, failure: Failure, traceback: str = "") -> "FailedTicket":
        """This ticket with one more failure.

        Args:
            failure: The attempt that failed.
            traceback: Its traceback; empty for a lost lane.
        """
        return FailedTicket(ticket=self.model_copy(update={"failures": (*self.failures, failure)}), traceback=traceback)

    @property
    def file(self) -> str:
        """File name; names sort in the order in which lanes should take them."""
        return f"{RANKS[self.kind]}-{LARGEST - self.size:06d}-{self.digest}.json"

    @property
    def tries(self) -> int:
        """Failed attempts that are evidence about the job; lost lanes are not counted."""
        return len(self.failures) - self.losses

    @property
    def losses(self) -> int:
        """Lanes that died with this job in flight."""
        return sum(failure.reason == FailureReason.LANE_LOST for failure in self.failures)


class FailedTicket(Frozen):
    """A ticket that was set aside because of its last failure."""

    ticket: Ticket
    traceback: str = ""


class Claim(Frozen):
    """A lane's record that it is doing this job."""

    digest: Digest
    token: str = Field(description="Unique id of this claim; a claim that is broken and made again has another one.")
    lane: LaneName
    flow_run_id: str = ""
    host: str = ""
    run_id: RunId = Field(description="The evolution whose ticket was taken.")
    alone: bool = False
    since: float = Field(description="Unix time, for people.")


def is_answer(file: str) -> bool:
    """Whether the ticket with this file name requests a test or an identity, whose result is an answer in the queue."""
    return file.startswith("0-")


def digest_of(file: str) -> str:
    """The digest in a ticket's file name."""
    return file.removesuffix(".json").rsplit("-", 1)[-1]


class JobQueue:
    """One of the two queues of a store. Executors submit tickets, lanes take them.

    Args:
        store: The store that evolution and lanes share.
        name: Which of the two queues.
    """

    def __init__(self, store: Store, name: QueueName) -> None:
        self.name: QueueName = name
        self.store = store
        self.top = store.root / "queue"
        self.root = self.top / name
        self.lanes = LaneBoard(self.top)
        self._kind: Kind = "adapter" if name == "training" else "evaluation"
        self._damaged: set[Path] = set()

    def prepare(self) -> None:
        """Create the folders, and check that all of them are writable. Raises `StoreError`."""
        own = [self.root / name for name in ("tickets", "claims", "failed", "answers", "broken", "served")]
        own.append(self.top / "lanes" / "end")
        try:
            for folder in own:
                self.store.make_folder(folder)
        except OSError as error:
            raise StoreError(f"store {self.store.root}: the queue cannot be made there ({error.strerror}).") from error
        own += [*self.root.glob("tickets/*"), *self.root.glob("failed/*")]
        closed = next((folder for folder in own if not os.access(folder, os.W_OK | os.X_OK)), None)
        if closed is not None:
            raise StoreError(
                f"store {self.store.root}: user {os.getuid()} of {platform.node()} cannot write in {closed}",
                remedy="Run evolution and lanes "
                "as one user, or open the store to a group that both are in before its first use (chmod 2775).",
            )

    def installation(self) -> str:
        """Unique id of this store, made on first use. It shows whether two machines see the same store.

        Raises:
            StoreError: it cannot be read.
        """
        with contextlib.suppress(FileExistsError, OSError):
            scratch = self.top / f"installation-{uuid.uuid4().hex}"
            scratch.write_text(json.dumps({"id": uuid.uuid4().hex}))
            try:
                os.link(scratch, self.top / "installation.json")
            finally:
                scratch.unlink()
        if not (installation_id := self._installation()):
            raise StoreError(
                f"store {self.store.root}: {self.top / 'installation.json'} cannot be read",
                remedy="Remove it to have it made anew.",
            )
        return installation_id

    def check(self, installation: str) -> None:
        """Check that this is still the store with the id `installation`.

        Raises:
            StoreError: no store is mounted here any more, or another one is.
        """
        if self._installation() != installation:
            raise StoreError(
                f"store {self.store.root}: on {platform.node()} it is not the store of the evolution (any more)",
                remedy="Mount the same directory "
                "at the same path on every machine and in every container, and run the same command; finished work is kept.",
            )

    def _installation(self) -> str:
        try:
            return str(json_object(read_file(self.top / "installation.json", SMALL, self.store.root))["id"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    # -- the executor's side ---------------------------------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """Write a ticket, or replace the one of the same run and digest."""
        self._write(self._ticket_path(ticket), ticket)

    def withdraw(self, ticket: Ticket) -> None:
        """Remove a ticket. A lane stops its job if no other evolution requests it."""
        self._ticket_path(ticket).unlink(missing_ok=True)

    def waiting(self, run_id: str) -> list[Ticket]:
        """A run's tickets, including claimed ones, in the order of service."""
        return self._tickets(self._paths_of(run_id))

    def has_ticket(self, ticket: Ticket) -> bool:
        """Whether the ticket is still submitted: neither done, failed nor withdrawn."""
        return self._ticket_path(ticket).exists()

    def tickets_for(self, digest: str) -> list[Ticket]:
        """The tickets of all evolutions for one job."""
        return self._tickets(sorted((self.root / "tickets").glob(f"*/*-{digest}.json")))

    def failed(self, ticket: Ticket) -> FailedTicket | None:
        """The failed version of a ticket; None if its attempt has not failed."""
        return self._read(self._failed_path(ticket), FailedTicket)

    def all_failed(self) -> list[FailedTicket]:
        """The failed tickets of all evolutions."""
        tickets = (self._read(path, FailedTicket) for path in sorted((self.root / "failed").glob("*/*.json")))
        return [failed for failed in tickets if failed is not None]

    def forget_failed(self, ticket: Ticket) -> None:
        """Remove the failed version of a ticket, before another attempt or at the end."""
        self._failed_path(ticket).unlink(missing_ok=True)

    def runs(self) -> list[str]:
        """Ids of evolutions with tickets; folders whose name is no run id are ignored."""
        folders = (path for path in (self.root / "tickets").glob("*") if RUN_NAME.fullmatch(path.name))
        return sorted(path.name for path in folders if any(path.glob("*.json")))

    def owner(self, run_id: str) -> int | None:
        """User id that submitted an evolution's jobs; None if it never submitted any."""
        status = look_at(self.root / "tickets" / run_id)
        return None if status is None else status.st_uid

    def open_digests(self, but: Collection[str] = ()) -> set[str]:
        """Digests of requested jobs that are not done, including claimed ones; requests of runs in `but` do not count."""
        paths = [path for path in (self.root / "tickets").glob("*/*.json") if path.parent.name not in but]
        names = {digest_of(path.name): path.name for path in paths}
        return {digest for digest, name in names.items() if not self.is_done(digest, name)}

    def result(self, ticket: Ticket) -> Any:
        """The result of the ticket's job, or None. A broken result is moved away, so that the job is done again."""
        if not self.is_done(ticket.digest, ticket.file):
            return None
        if ticket.kind in ("identity", "test"):
            answer = self.answer(ticket.digest, BaseModelIdentity if ticket.kind == "identity" else TestResult)
            if answer is None:
                self.forget_answer(ticket.digest)  # lanes would count the job as done
            return answer
        read = self.store.read_adapter if ticket.kind == "training" else self.store.read_evaluation
        result: Any = read(ticket.digest)
        if result is None:
            self.store.set_aside(self._kind, ticket.digest)
        return result

    # -- claims ----------------------------------------------------------------------------

    def claim(self, digest: str) -> Claim | None:
        """The claim on a job; None if it is free."""
        return self._read(self._claim_path(digest), Claim)

    def claims(self) -> list[Claim]:
        """All claims of this queue."""
        claims = (self._read(path, Claim) for path in sorted((self.root / "claims").glob("*.json")))
        return [claim for claim in claims if claim is not None]

    def remove_damaged_claims(self) -> None:
        """Remove claims that cannot be read: they would block their jobs for ever, since no lane can release them."""
        for path in (self.root / "claims").glob("*.json"):
            if self._read(path, Claim) is None:
                path.unlink(missing_ok=True)

    def break_claim(self, claim: Claim) -> bool:
        """Remove the claim of a lane that is gone. False if it was released or broken before."""
        source = self._claim_path(claim.digest)
        target = self.root / "broken" / f"{claim.digest}-{uuid.uuid4().hex}.json"
        try:
            os.rename(source, target)
        except FileNotFoundError:
            return False
        taken = self._read(target, Claim)
        other = taken is not None and taken.token != claim.token  # a new claim, made in between: restore it
        if other:
            with contextlib.suppress(FileExistsError):
                os.link(target, source)
        target.unlink()
        return not other

    # -- the lane's side -------------------------------------------------------------------

    def take(
        self,
        lane: str,
        flow_run_id: str = "",
        host: str = "",
        is_closed: Callable[[str], object] = lambda run_id: None,
        begin: Callable[[Ticket], object] = lambda ticket: None,
    ) -> tuple[Ticket, Claim] | None:
        """Claim the next job, the first free ticket of the evolution whose turn it is, and book its beginning.

        Args:
            lane: Id of the lane.
            flow_run_id: The lane's Prefect flow run; empty outside Prefect.
            host: Host name of the lane's machine; a job that must run alone waits until the machine is free.
            is_closed: Run id -> a true value if the evolution may start no job; its tickets are skipped.
            begin: Books the beginning of the claimed job. The job is given back, and the evolution's other tickets are
                skipped, if it returns a true value: its budget has closed meanwhile.

        Returns:
            The ticket and the lane's claim on it; None if there is no job for this lane now.

        Raises:
            StoreError: the folders of the queue are gone. An error of `begin` is raised after the job was given back.
        """
        self._present()
        claimed = {path.stem for path in (self.root / "claims").glob("*.json")}
        for run_id in self._turns():
            if is_closed(run_id):
                continue
            waits_alone = False
            for path in self._paths_of(run_id):
                digest = digest_of(path.name)
                if digest in claimed:
                    continue
                if self.is_done(digest, path.name):
                    path.unlink(missing_ok=True)
                    continue
                ticket = self._ticket(path)
                if ticket is None:
                    continue
                if not self._may_start(ticket, host):
                    waits_alone = waits_alone or ticket.alone
                    continue
                claim = Claim(
                    digest=digest,
                    token=uuid.uuid4().hex,
                    lane=lane,
                    flow_run_id=flow_run_id,
                    host=host,
                    run_id=run_id,
                    alone=ticket.alone,
                    since=time.time(),
                )
                if not self._make_claim(claim):
                    continue
                if not path.exists() or self.is_done(digest, path.name):
                    self.release(claim)  # done or withdrawn between the check and the claim
                    continue
                try:
                    if not begin(ticket):
                        return ticket, claim
                except BaseException:
                    with contextlib.suppress(OSError):
                        self.release(claim)
                    raise
                self.release(claim)
                break
            if waits_alone:
                return None  # a job that must run alone has its turn: other work would keep the machine busy for ever
        return None

    def holds(self, claim: Claim) -> bool:
        """Whether `claim` is still in force: neither broken nor released."""
        current = self.claim(claim.digest)
        return current is not None and current.token == claim.token

    def wanted(self, digest: str) -> bool:
        """Whether any evolution still requests this job."""
        return any((self.root / "tickets").glob(f"*/*-{digest}.json"))

    def release(self, claim: Claim) -> None:
        """Remove a claim that is still in force; the ticket, if there is one, is free again."""
        if self.holds(claim):
            self._claim_path(claim.digest).unlink(missing_ok=True)

    def finish(self, claim: Claim, ticket: Ticket) -> None:
        """End a job whose result is published.

        Args:
            claim: The lane's claim; removed last.
            ticket: The ticket that was taken.
        """
        self.withdraw(ticket)
        self.release(claim)

    def fail(self, claim: Claim, ticket: Ticket, failure: Failure, traceback: str = "") -> None:
        """End a job that failed: set its ticket aside. Only the executor decides about another attempt.

        Nothing is done if the claim was broken meanwhile, since the executor has then recorded the loss.

        Args:
            claim: The lane's claim.
            ticket: The ticket that was taken.
            failure: The attempt that failed.
            traceback: Its traceback, for the record.
        """
        if not self.holds(claim):
            return
        self.set_aside(ticket.after(failure, traceback))
        self.release(claim)

    def set_aside(self, failed: FailedTicket) -> None:
        """Move a ticket to the failed ones."""
        # in this order: the executor may submit a new ticket as soon as it sees the failure
        self.withdraw(failed.ticket)
        self._write(self._failed_path(failed.ticket), failed)

    def publish_answer(self, digest: str, result: Frozen) -> None:
        """Write a result that the store does not keep.

        Args:
            digest: Digest of the job.
            result: A test result or a base model's identity.
        """
        self._write(self._answer(digest), result)

    def answer(self, digest: str, model: type[Model]) -> Model | None:
        """A result that the store does not keep; None if it is absent or cannot be read.

        Args:
            digest: Digest of the job.
            model: Class of the result.
        """
        return self._read(self._answer(digest), model)

    def forget_answer(self, digest: str) -> None:
        """Remove the answer to a job, if there is one."""
        self._answer(digest).unlink(missing_ok=True)

    def is_done(self, digest: str, file: str) -> bool:
        """Whether a job has a result. Only file names are looked at; the reader of the result checks its content.

        Args:
            digest: Digest of the job.
            file: File name of its ticket, which tells where the result is kept.
        """
        if is_answer(file):
            return look_at(self._answer(digest)) is not None
        return self.store.is_published(self._kind, digest)

    # -- for monitoring --------------------------------------------------------------------

    def waited(self, claim: Claim, ticket: Ticket) -> float:
        """Seconds from writing the ticket (for this attempt) to the claim, by the clock of the store's file system.

        Args:
            claim: The lane's claim.
            ticket: The ticket that was taken.

        Returns:
            At least 0; 0 also if the file of the claim or of the ticket is gone.
        """
        claimed, written = look_at(self._claim_path(claim.digest)), look_at(self._ticket_path(ticket))
        return 0.0 if claimed is None or written is None else max(0.0, claimed.st_mtime - written.st_mtime)

    def uncollected(self, seconds: float = LEFT_SECONDS) -> list[str]:
        """Digests of jobs that have had a result for more than `seconds` and still have a ticket, a claim or an answer.

        A running evolution collects a result within a tenth of a second and removes these files; claims of lanes that
        died just after publishing are removed as fast. A file that stays longer has no evolution to collect its result.
        """
        left = {
            digest_of(path.name)
            for folder in ("tickets/*", "claims", "answers")
            for path in self.root.glob(f"{folder}/*.json")
        }
        return sorted(digest for digest in left if any(_age(path) > seconds for path in self._results(digest)))

    def _results(self, digest: str) -> Iterable[Path]:
        """The file of each result of `digest` that is written last."""
        yield self._answer(digest)
        if self.store.is_published(self._kind, digest):  # false for the name of a file that is no digest
            adapter = self._kind == "adapter"
            yield self.store.adapter_path(digest) / "manifest.json" if adapter else self.store.evaluation_path(digest)

    # -- within ----------------------------------------------------------------------------

    def _may_start(self, ticket: Ticket, host: str) -> bool:
        """Whether a job may start on `host` now: one that must run alone excludes all others of this queue there."""
        beside = [claim for claim in self.claims() if claim.host == host]
        return not beside if ticket.alone else not any(claim.alone for claim in beside)

    def _make_claim(self, claim: Claim) -> bool:
        scratch = self.root / "broken" / f"new-{claim.token}.json"
        self._write(scratch, claim)
        try:
            os.link(scratch, self._claim_path(claim.digest))
        except FileExistsError:
            return False
        finally:
            scratch.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # replaced, because the time of another user's file cannot be set
            (self.root / "served" / claim.run_id).unlink(missing_ok=True)
            (self.root / "served" / claim.run_id).touch()
        return True

    def _turns(self) -> list[str]:
        """Evolutions with tickets: those with the fewest jobs in flight first, then those not served for longest."""
        waiting = self.runs()
        if len(waiting) < 2:
            return waiting
        in_flight = Counter(claim.run_id for claim in self.claims())
        age = {run_id: _age(self.root / "served" / run_id, float("inf")) for run_id in waiting}
        return sorted(waiting, key=lambda run_id: (in_flight[run_id], -age[run_id], run_id))

    def _paths_of(self, run_id: str) -> list[Path]:
        return sorted((self.root / "tickets" / run_id).glob("*.json"), key=lambda path: path.name)

    def _tickets(self, paths: Iterable[Path]) -> list[Ticket]:
        return [ticket for path in paths if (ticket := self._ticket(path)) is not None]

    def _ticket(self, path: Path) -> Ticket | None:
        """The ticket at `path`. None if its content names another path: no run can forge another's ticket."""
        ticket = self._read(path, Ticket)
        return ticket if ticket is not None and self._ticket_path(ticket) == path else None

    def _ticket_path(self, ticket: Ticket) -> Path:
        return self.root / "tickets" / ticket.run_id / ticket.file

    def _failed_path(self, ticket: Ticket) -> Path:
        return self.root / "failed" / ticket.run_id / ticket.file

    def _claim_path(self, digest: str) -> Path:
        return self.root / "claims" / f"{digest}.json"

    def _answer(self, digest: str) -> Path:
        return self.root / "answers" / f"{digest}.json"

    def _read(self, path: Path, model: type[Model]) -> Model | None:
        try:
            return read_model(path, model, RECORD, self.store.root)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            if path not in self._damaged:  # warn once: the file is read several times a second
                self._damaged.add(path)
                log.warning("queue: %s cannot be read and counts as absent: %s", visible(str(path)), in_a_line(error))
            return None

    def _present(self) -> None:
        if not (self.root / "claims").is_dir():
            raise self.store.unwritable(FileNotFoundError(errno.ENOENT, "no such directory"))

    def _write(self, path: Path, model: Frozen) -> None:
        self._present()
        try:
            self.store.make_folder(path.parent)
            write_atomic(path, model.model_dump_json().encode())
        except OSError as error:
            raise self.store.unwritable(error) from error


def _age(path: Path, missing: float = 0.0) -> float:
    """Seconds since a file was written; `missing` if there is none."""
    status = look_at(path)
    return missing if status is None else time.time() - status.st_mtime


def both_queues(store: Store) -> Iterable[JobQueue]:
    """The two queues of a store."""
    return JobQueue(store, "training"), JobQueue(store, "evaluation")
