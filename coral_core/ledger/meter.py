"""Keeps a lane's account: books its seconds from start to end."""

import contextlib
import errno
import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from coral_core.atomic_write import write_atomic
from coral_core.errors import StoreError
from coral_core.ledger.accounts import NOBODY, LaneAccount, Queue, Work, prepare, today
from coral_core.store.store import Store

log = logging.getLogger("coral.ledger")

BOOK_SECONDS = 2.0


class Meter:
    """Books every second of a lane to a day and an evolution, every `BOOK_SECONDS` and at each change.

    Idle seconds are booked to the evolution of the lane's last job; those before its first job to the evolution of that
    job. If the lane is killed, at most `BOOK_SECONDS` are missing. Use it as a context manager, which opens and closes
    the account.

    Args:
        store: The store whose ledger it is.
        lane: Id of the lane. It names the account; a number is added if there is an account of that name.
        queue: The queue to which seconds are booked before the first job.
        rented: Whether idle seconds cost, too; False for lanes of one's own machine.
    """

    def __init__(self, store: Store, lane: str, queue: Queue, rented: bool = True) -> None:
        self.lane = lane
        self._rented = rented
        self._store = store
        self._path = store.root / "ledger" / "accounts" / f"{lane}.json"
        self._account = LaneAccount(lane=lane, host=platform.node(), queue=queue)
        self._since = time.monotonic()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="meter", daemon=True)

    def __enter__(self) -> Self:
        """Open a new account. An existing one is never continued: a flow run that is run again is another lane."""
        with contextlib.suppress(OSError):  # the first booking reports it
            prepare(self._store)
        name, number = self.lane, 1
        while os.path.exists(self._path):  # False in a closed folder, which the first booking reports
            number += 1
            self.lane = f"{name}.{number}"
            self._path = self._path.with_name(f"{self.lane}.json")
        self._account = self._account.model_copy(update={"lane": self.lane})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the account at the end of the lane."""
        self._over.set()
        self._thread.join(timeout=10)
        with contextlib.suppress(StoreError):  # if the store is gone, nothing can be written
            self._put(lambda account: {"digest": "", "flying": 0.0, "ended": True})

    @property
    def payer(self) -> str:
        """The evolution to which seconds are booked now; empty before the first job."""
        return self._account.run_id

    def work(self, run_id: str, queue: Queue, digest: str, allowed: float = 0.0) -> None:
        """Book the beginning of a job. It is on record when this returns.

        Args:
            run_id: The evolution that pays for the job.
            queue: The queue of the job.
            digest: Digest of the job.
            allowed: Time limit of the job in seconds; 0: not known.

        Raises:
            StoreError: the account cannot be written, and the job must not begin.
        """

        def begun(account: LaneAccount) -> dict[str, object]:
            spent = {day: dict(runs) for day, runs in account.spent.items()}
            for runs in spent.values():
                if before := runs.pop(NOBODY, None):  # the seconds before the first job
                    own = runs.get(run_id, {})
                    runs[run_id] = own | {name: own.get(name, 0.0) + seconds for name, seconds in before.items()}
            job = {"run_id": run_id, "queue": queue, "digest": digest, "allowed": allowed}
            return job | {"spent": spent, "flying": 0.0}

        self._put(begun, keep=False)

    def rest(self) -> None:
        """Book the end of a job, done or failed; its duration counts in the mean of such jobs. Raises `StoreError`."""

        def ended(account: LaneAccount) -> dict[str, object]:
            if not account.digest:
                return {}
            done = dict(account.work.get(account.run_id, {}))
            old = done.get(account.queue, Work())
            done[account.queue] = Work(jobs=old.jobs + 1, seconds=old.seconds + account.flying)
            return {"work": account.work | {account.run_id: done}, "digest": "", "flying": 0.0}

        self._put(ended)

    def drop(self) -> None:
        """Book the end of a job whose duration does not count, such as one that was stopped. Raises `StoreError`."""
        self._put(lambda account: {"digest": "", "flying": 0.0})

    def _follow(self) -> None:
        while not self._over.wait(BOOK_SECONDS):
            try:
                self._put()
            except StoreError as error:  # the next booking includes these seconds
                log.warning("ledger: %s", error)

    def _put(self, change: Callable[[LaneAccount], dict[str, object]] = lambda account: {}, keep: bool = True) -> None:
        """Book the time since the last booking, make a change, and write it.

        Args:
            change: Gives the fields to set.
            keep: Whether a change that cannot be written now is kept and written by the next booking.

        Raises:
            StoreError: it cannot be written.
        """
        with self._lock:
            if self._account.ended:
                return  # readers rely on an ended account not changing
            account = self._advanced()
            changed = account.model_copy(update={"seen": time.time()} | change(account))
            self._account = changed if keep else account
            try:
                if not self._path.parent.is_dir():  # unmounted: create no store on the mount point
                    raise FileNotFoundError(errno.ENOENT, "no such directory")
                write_atomic(self._path, changed.model_dump_json().encode())
            except OSError as error:
                raise self._store.unwritable(error) from error
            self._account = changed

    def _advanced(self) -> LaneAccount:
        """The account up to now."""
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        account, day = self._account, today()
        if not account.digest and not self._rented:
            return account
        runs = account.spent.get(day, {})
        own = runs.get(account.run_id, {})
        booked = own | {account.queue: own.get(account.queue, 0.0) + seconds}
        changes: dict[str, object] = {"spent": account.spent | {day: runs | {account.run_id: booked}}}
        if account.digest:
            changes["flying"] = account.flying + seconds
        return account.model_copy(update=changes)
