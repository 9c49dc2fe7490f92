"""The queue: tickets that wait, claims of lanes, tickets that failed. Plain files under the store.

Layout, for each of the two queues (training, evaluation)::

    queue/<name>/tickets/<run>/<rank>-<size>-<digest>.json   wishes; written by the run's executor alone
    queue/<name>/claims/<digest>.json                        made by one lane with an exclusive link
    queue/<name>/failed/<run>/<same name>.json               a ticket whose try failed; the executor decides
    queue/<name>/answers/<digest>.json                       results of tests and identities, which the store does not keep
    queue/runs/<run>.json                                    weight and starting line for fair service

A claim is per digest, not per ticket: when two evolutions want one training, one lane does it
and both find it in the store. All steps are a link, a rename or an unlink, which are atomic on
local disks and on NFS. A claim is released by its lane, or broken by whoever has proof that
the lane is gone; the breaker then puts the loss on its own ticket. Not covered here: who
decides about another try (flows/work_pools) and what lanes say of themselves (lane_board.py).
"""

import contextlib
import errno
import json
import logging
import os
import platform
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from coral_core.atomic_write import write_atomic
from coral_core.bounded_read import RECORD, SMALL, look_at, read_file, read_model
from coral_core.errors import StoreError
from coral_core.frozen import Frozen
from coral_core.jobs.jobs import Digest, QueueName
from coral_core.json_object import json_object
from coral_core.queue.fairness import RunNote, begun, in_order
from coral_core.queue.lane_board import LaneBoard, LaneName
from coral_core.queue.tickets import RUN_NAME, Failure, RunId, Ticket, digest_of, is_answer
from coral_core.store.store import Kind, Store
from coral_core.untrusted import in_a_line, visible

log = logging.getLogger("coral.queue")
Model = TypeVar("Model", bound=Frozen)
LEFT_SECONDS = 30.0
"""A result that lies there for so long has nobody who collects it."""


class Claim(Frozen):
    """A lane's word that it does this job now."""

    digest: Digest
    token: str = Field(description="Names this claim and no other: a claim that was broken and made again differs.")
    lane: LaneName
    flow_run_id: str = ""
    host: str = ""
    run_id: RunId = Field(description="The evolution whose ticket was taken.")
    alone: bool = False
    since: float = Field(description="Unix time, for people.")


class FailedTicket(Frozen):
    """A ticket together with what went wrong last; its last failure."""

    ticket: Ticket
    traceback: str = ""


class JobQueue:
    """One of the two queues of a store."""

    def __init__(self, store: Store, name: QueueName) -> None:
        self.name: QueueName = name
        self.store = store
        self.top = store.root / "queue"
        self.root = self.top / name
        self.lanes = LaneBoard(self.top)
        self._damaged: set[Path] = set()

    def prepare(self) -> None:
        """Create the folders, and prove that all that are there can be written. Raises `StoreError`."""
        own = [self.root / name for name in ("tickets", "claims", "failed", "answers", "broken")]
        own += [self.top / "runs", self.top / "lanes" / "end"]
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
        """Name of this store that no other has: tells whether two machines see the same one."""
        path = self.top / "installation.json"
        with contextlib.suppress(FileExistsError, OSError):
            scratch = self.top / f"installation-{uuid.uuid4().hex}"
            scratch.write_text(json.dumps({"id": uuid.uuid4().hex}))
            try:
                os.link(scratch, path)
            finally:
                scratch.unlink()
        try:
            return str(json_object(read_file(path, SMALL, self.store.root))["id"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"store {self.store.root}: {path} cannot be read ({error})", remedy="Remove it to have it made anew."
            ) from None

    def check(self, installation: str) -> None:
        """Is this still the store that has this name? Raises `StoreError`: it is not mounted (any more), or another is."""
        try:
            found = json_object(read_file(self.top / "installation.json", SMALL, self.store.root))["id"]
        except (OSError, ValueError, KeyError, TypeError):
            found = ""
        if found != installation:
            raise StoreError(
                f"store {self.store.root}: on {platform.node()} it is not the store of the evolution (any more)",
                remedy="Mount the same directory "
                "at the same path on every machine and in every container, and run the same command; finished work is kept.",
            )

    # -- the executor's side ---------------------------------------------------------------

    def join(self, run_id: str, flow_run_id: str, weight: float) -> None:
        """Take part in fair service from now on: neither behind nor ahead of those who are there."""
        old = self._note(run_id)
        if old.weight != weight:  # what was earned with another weight counts as it was earned
            old = begun(old, [], [], self.name, self.lanes.served())
        self.begin(old.model_copy(update={"flow_run_id": flow_run_id, "weight": weight}))

    def begin(self, run: RunNote | str) -> None:
        """A run has work again after a time without, or may work again: turns that it did not take are gone."""
        note = self._note(run) if isinstance(run, str) else run
        others = [other for other in self._runs() if other.run_id != note.run_id]
        in_service = {claim.run_id for claim in self.claims()}
        note = begun(note, others, in_service, self.name, self.lanes.served())
        self._write(self.top / "runs" / f"{note.run_id}.json", note)

    def submit(self, ticket: Ticket) -> None:
        """Put a ticket down, or replace the one of the same run and digest."""
        if not self._tickets_of(ticket.run_id):
            self.begin(ticket.run_id)
        self._write(self._ticket_path(ticket), ticket)

    def withdraw(self, ticket: Ticket) -> None:
        """Take a ticket back; a lane at work for nobody else stops."""
        self._ticket_path(ticket).unlink(missing_ok=True)

    def waiting(self, run_id: str) -> list[Ticket]:
        """A run's tickets, claimed ones too, in the order of service."""
        found = (self._ticket(path) for path in self._tickets_of(run_id))
        return [ticket for ticket in found if ticket is not None]

    def has_ticket(self, ticket: Ticket) -> bool:
        return self._ticket_path(ticket).exists()

    def tickets_for(self, digest: str) -> list[Ticket]:
        """Every evolution's ticket of one job."""
        found = (self._ticket(path) for path in sorted((self.root / "tickets").glob(f"*/*-{digest}.json")))
        return [ticket for ticket in found if ticket is not None]

    def failed(self, ticket: Ticket) -> FailedTicket | None:
        """What a lane said when it failed to do the job for this run."""
        return self._read(self.root / "failed" / ticket.run_id / ticket.file, FailedTicket)

    def all_failed(self) -> list[FailedTicket]:
        found = (self._read(path, FailedTicket) for path in sorted((self.root / "failed").glob("*/*.json")))
        return [failed for failed in found if failed is not None]

    def forget_failed(self, ticket: Ticket) -> None:
        (self.root / "failed" / ticket.run_id / ticket.file).unlink(missing_ok=True)

    def runs(self) -> list[str]:
        """Evolutions with tickets here. A folder whose name no run can have is none's."""
        found = (path for path in (self.root / "tickets").glob("*") if RUN_NAME.fullmatch(path.name))
        return sorted(path.name for path in found if _holds_any(path))

    def owner(self, run_id: str) -> int | None:
        """Number of the user who runs an evolution; None when it never joined."""
        try:
            return (self.top / "runs" / f"{run_id}.json").stat().st_uid
        except OSError:
            return None

    def open_digests(self, but: Collection[str] = ()) -> set[str]:
        """Digests that anybody (`but` these runs) waits for and nobody has done; claimed ones too."""
        paths = [path for path in (self.root / "tickets").glob("*/*.json") if path.parent.name not in but]
        names = {digest_of(path.name): path.name for path in paths}
        return {digest for digest, name in names.items() if not self.is_done(digest, name)}

    # -- claims ----------------------------------------------------------------------------

    def claim(self, digest: str) -> Claim | None:
        return self._read(self.root / "claims" / f"{digest}.json", Claim)

    def claims(self) -> list[Claim]:
        found = (self._read(path, Claim) for path in sorted((self.root / "claims").glob("*.json")))
        return [claim for claim in found if claim is not None]

    def damaged_claims(self) -> list[str]:
        """Digests whose claim is there and cannot be read: no lane would ever take them, and none can give them back."""
        there = {path.stem for path in (self.root / "claims").glob("*.json")}
        return sorted(digest for digest in there if self.claim(digest) is None)

    def remove_claim(self, digest: str) -> None:
        """Free the job of a claim that cannot be read."""
        (self.root / "claims" / f"{digest}.json").unlink(missing_ok=True)

    def break_claim(self, claim: Claim) -> bool:
        """Remove the claim of a lane that is gone; True when it was this caller who did."""
        source = self.root / "claims" / f"{claim.digest}.json"
        target = self.root / "broken" / f"{claim.digest}-{uuid.uuid4().hex}.json"
        try:
            os.rename(source, target)
        except FileNotFoundError:
            return False
        taken = self._read(target, Claim)
        if taken is not None and taken.token != claim.token:  # a new claim, made in between: give it back
            with contextlib.suppress(FileExistsError):
                os.link(target, source)
            target.unlink()
            return False
        target.unlink()
        return True

    # -- the lane's side -------------------------------------------------------------------

    def take(
        self,
        lane: str,
        flow_run_id: str = "",
        host: str = "",
        is_closed: Callable[[str], object] = lambda run_id: None,
    ) -> tuple[Ticket, Claim] | None:
        """Claim the next job: of the evolution that was served least, its first ticket that nobody does.

        Evolutions for which `is_closed` returns something true are passed over.

        Raises `StoreError` when the queue is gone: a lane that looks at nothing would wait for nothing.
        """
        self._present()
        claimed = {path.stem for path in (self.root / "claims").glob("*.json")}
        for run_id in self._fair_order():
            if is_closed(run_id):
                continue
            held = False
            for path in self._tickets_of(run_id):
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
                    held = held or ticket.alone
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
                if path.exists() and not self.is_done(digest, path.name):
                    return ticket, claim
                self.release(claim)  # done or withdrawn between the look and the claim
            if held:
                return None  # its turn, and its job must run alone: with work of others the machine would never be free
        return None

    def holds(self, claim: Claim) -> bool:
        """Is `claim` still the lane's own?"""
        found = self.claim(claim.digest)
        return found is not None and found.token == claim.token

    def wanted(self, digest: str) -> bool:
        """Does any evolution still wait for this job?"""
        return any((self.root / "tickets").glob(f"*/*-{digest}.json"))

    def release(self, claim: Claim) -> None:
        """Give the job back, or up: the ticket, if it is still there, is free again."""
        if self.holds(claim):
            (self.root / "claims" / f"{claim.digest}.json").unlink(missing_ok=True)

    def finish(self, claim: Claim, ticket: Ticket) -> None:
        """The result is published: take the ticket away, then the claim."""
        self._ticket_path(ticket).unlink(missing_ok=True)
        self.release(claim)

    def fail(self, claim: Claim, ticket: Ticket, failure: Failure, traceback: str = "") -> None:
        """Put the ticket aside with its failure; only the executor may try again."""
        if not self.holds(claim):
            return  # it was broken: whoever did has booked the loss
        self.put_aside(ticket.model_copy(update={"failures": (*ticket.failures, failure)}), traceback)
        self.release(claim)

    def put_aside(self, ticket: Ticket, traceback: str = "") -> None:
        """List a ticket as failed; its last failure says why."""
        # in this order: the executor may put a new ticket down as soon as it sees the failure
        self._ticket_path(ticket).unlink(missing_ok=True)
        failed = FailedTicket(ticket=ticket, traceback=traceback)
        self._write(self.root / "failed" / ticket.run_id / ticket.file, failed)

    def publish_answer(self, digest: str, result: Frozen) -> None:
        """Leave what a job found that the store does not keep."""
        self._write(self._answer(digest), result)

    def answer(self, digest: str, model: type[Model]) -> Model | None:
        """What was found; None when it is not there or cannot be read."""
        return self._read(self._answer(digest), model)

    def forget_answer(self, digest: str) -> None:
        self._answer(digest).unlink(missing_ok=True)

    def _answer(self, digest: str) -> Path:
        return self.root / "answers" / f"{digest}.json"

    def is_done(self, digest: str, file: str) -> bool:
        """Is there a result? A look at names only: who uses the result checks it."""
        if is_answer(file):
            return look_at(self._answer(digest)) is not None
        return self.store.is_published("adapter" if self.name == "training" else "evaluation", digest)

    # -- for monitoring --------------------------------------------------------------------

    def waited(self, claim: Claim, ticket: Ticket) -> float:
        """Seconds from writing the ticket (for this try) to the claim, by the store's clock alone; 0 when either is gone."""
        try:
            claimed = (self.root / "claims" / f"{claim.digest}.json").stat().st_mtime
            written = self._ticket_path(ticket).stat().st_mtime
        except OSError:
            return 0.0
        return max(0.0, claimed - written)

    def uncollected(self, seconds: float = LEFT_SECONDS) -> list[str]:
        """Digests whose result has been there for `seconds` while a ticket, a claim or an answer still lies there.

        An evolution takes a result within a tenth of a second and removes its ticket; claims of lanes that died just after
        publishing are freed as fast. What stays longer has no evolution that collects it.
        """
        found: dict[str, list[Path]] = {}
        for path in (self.root / "tickets").glob("*/*.json"):
            digest = digest_of(path.name)
            result = self._answer(digest) if is_answer(path.name) else self._result(digest)
            found.setdefault(digest, []).append(result)
        for path in (self.root / "claims").glob("*.json"):
            found.setdefault(path.stem, []).extend([self._result(path.stem), self._answer(path.stem)])
        for path in (self.root / "answers").glob("*.json"):
            found.setdefault(path.stem, []).append(path)
        return sorted(digest for digest, results in found.items() if any(_age(path) > seconds for path in results))

    def _result(self, digest: str) -> Path:
        """The file in the store that is written last; a path that does not exist when there is no result."""
        kind: Kind = "adapter" if self.name == "training" else "evaluation"
        if not self.store.is_published(kind, digest):  # also for the name of a file that is no digest
            return self.root / "none"
        return (
            self.store.adapter_path(digest) / "manifest.json"
            if kind == "adapter"
            else self.store.evaluation_path(digest)
        )

    # -- within ----------------------------------------------------------------------------

    def _may_start(self, ticket: Ticket, host: str) -> bool:
        """A job that must run alone waits for its machine to be free, and holds others off while it runs."""
        beside = [claim for claim in self.claims() if claim.host == host]
        return not beside if ticket.alone else not any(claim.alone for claim in beside)

    def _make_claim(self, claim: Claim) -> bool:
        scratch = self.root / "broken" / f"new-{claim.token}.json"
        self._write(scratch, claim)
        try:
            os.link(scratch, self.root / "claims" / f"{claim.digest}.json")
            return True
        except FileExistsError:
            return False
        finally:
            scratch.unlink(missing_ok=True)

    def _fair_order(self) -> list[str]:
        """Evolutions with tickets, the next to be served first."""
        waiting = self.runs()
        if len(waiting) < 2:
            return waiting
        in_flight = Counter(claim.run_id for claim in self.claims())
        return in_order(waiting, self._runs(), in_flight, self.name, self.lanes.served())

    def _note(self, run_id: str) -> RunNote:
        found = self._read(self.top / "runs" / f"{run_id}.json", RunNote)
        return found if found is not None and found.run_id == run_id else RunNote(run_id=run_id)

    def _runs(self) -> list[RunNote]:
        found = (self._read(path, RunNote) for path in sorted((self.top / "runs").glob("*.json")))
        return [note for note in found if note is not None]

    def _tickets_of(self, run_id: str) -> list[Path]:
        return sorted((self.root / "tickets" / run_id).glob("*.json"), key=lambda path: path.name)

    def _ticket(self, path: Path) -> Ticket | None:
        """The ticket at `path`; one that belongs elsewhere is none, so that no run's ticket passes for another's."""
        found = self._read(path, Ticket)
        return found if found is not None and self._ticket_path(found) == path else None

    def _ticket_path(self, ticket: Ticket) -> Path:
        return self.root / "tickets" / ticket.run_id / ticket.file

    def _read(self, path: Path, model: type[Model]) -> Model | None:
        try:
            return read_model(path, model, RECORD, self.store.root)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            if path not in self._damaged:  # it is looked at several times a second
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


def _holds_any(folder: Path) -> bool:
    """Is there anything in `folder`? Not in what is none."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _age(path: Path) -> float:
    """Seconds since a file was written; 0 when there is none."""
    found = look_at(path)
    return time.time() - found.st_mtime if found is not None else 0.0


def both(store: Store) -> Iterable[JobQueue]:
    """The two queues of a store."""
    return JobQueue(store, "training"), JobQueue(store, "evaluation")
