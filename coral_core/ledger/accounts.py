"""The ledger's files. Every lane keeps an account that only it writes; every evolution has its limits on record.

Layout, under the store::

    ledger/accounts/<lane>.json    LaneAccount
    ledger/budgets/<run>.json      Budget

A lane writes its account until it ends, and never again: an ended account is read once and its sums are kept for as long as
its file is there. Nothing of that cache is on disk. Sums are in whole nanoseconds, so that the order of adding changes
nothing and what was spent never shrinks by rounding.
"""

import os
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field, ValidationError

from coral_core.bounded_read import RECORD, read_model
from coral_core.config.budget_config import BudgetConfig
from coral_core.errors import StoreError
from coral_core.frozen import Frozen
from coral_core.store.store import Store

Queue = Literal["training", "evaluation"]
QUEUES: tuple[Queue, ...] = ("training", "evaluation")
NOBODY = ""
"""In accounts: the seconds of a lane that has not worked for anybody yet."""
NANO = 1e9
Record = TypeVar("Record", bound=Frozen)

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A sum with anything else in it would pass every comparison with a limit."""


class Work(Frozen):
    """Jobs that ended in a lane, done or failed."""

    jobs: int = Field(0, ge=0)
    seconds: Seconds = 0.0


class LaneAccount(Frozen):
    """What one lane has cost so far: all seconds of its life."""

    schema_version: int = 1
    lane: str
    host: str = ""
    spent: dict[str, dict[str, dict[Queue, Seconds]]] = Field(
        {}, description="Day (YYYY-MM-DD, UTC) -> run id -> queue -> lane seconds."
    )
    queue: Queue = Field("training", description="What the lane does or did last.")
    run_id: str = Field(NOBODY, description="The evolution that it works, or worked last, for.")
    digest: str = Field("", description="The job in flight.")
    flying: Seconds = Field(0.0, description="Seconds that the job in flight has taken; in `spent` already.")
    allowed: Seconds = Field(0.0, description="Seconds that the job in flight may take at most; 0: not known.")
    work: dict[str, dict[Queue, Work]] = Field({}, description="Run id -> queue -> jobs that ended here.")
    seen: Seconds = Field(0.0, description="When this was written, Unix time, for people.")
    ended: bool = False


class Budget(Frozen):
    """The limits of one evolution that are in force."""

    schema_version: int = 1
    run_id: str
    budget: BudgetConfig


def today() -> str:
    """The day that is being paid for: UTC, by this machine's clock."""
    return time.strftime("%Y-%m-%d", time.gmtime())


class Sums:
    """Lane seconds by day, evolution and queue, and what jobs took."""

    def __init__(self) -> None:
        self._spent: dict[tuple[str, str, Queue], int] = {}
        self._work: dict[tuple[str, Queue], tuple[int, int]] = {}

    def add(self, account: LaneAccount) -> None:
        for day, runs in account.spent.items():
            for run_id, queues in runs.items():
                for queue, seconds in queues.items():
                    key = (day, run_id, queue)
                    self._spent[key] = self._spent.get(key, 0) + round(seconds * NANO)
        for run_id, done in account.work.items():
            for queue, work in done.items():
                jobs, took = self._work.get((run_id, queue), (0, 0))
                self._work[run_id, queue] = (jobs + work.jobs, took + round(work.seconds * NANO))

    def copy(self) -> "Sums":
        made = Sums()
        made._spent, made._work = dict(self._spent), dict(self._work)
        return made

    def seconds(self, run_id: str | None, day: str | None) -> dict[Queue, float]:
        """Lane seconds of one evolution or all, on one day or all."""
        found = dict.fromkeys(QUEUES, 0)
        for (when, run, queue), taken in self._spent.items():
            if day in (None, when) and run_id in (None, run):
                found[queue] += taken
        return {queue: taken / NANO for queue, taken in found.items()}

    def days(self) -> list[str]:
        return sorted({day for day, _, _ in self._spent})

    def evolutions(self) -> list[str]:
        return sorted({run_id for _, run_id, _ in self._spent})

    def mean(self, queue: Queue, run_id: str) -> float:
        """Seconds that a job of this evolution took, else one of any evolution of this store; 0 before the first."""
        for runs in ((run_id,), None):
            done = [work for (run, kind), work in self._work.items() if kind == queue and (runs is None or run in runs)]
            if jobs := sum(count for count, _ in done):
                return sum(took for _, took in done) / NANO / jobs
        return 0.0


class CachedRecords(Generic[Record]):
    """Reads JSON files of one kind; a file is read again when its time, inode or size has changed."""

    def __init__(self, kind: type[Record]) -> None:
        self._kind = kind
        self._kept: dict[Path, tuple[tuple[int, int, int], Record, float]] = {}

    def read(self, path: Path) -> Record:
        """The record at `path`. Raises `OSError`, `ValueError`."""
        stat = path.stat()
        mark = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        kept = self._kept.get(path)
        if kept is None or kept[0] != mark:
            kept = self._kept[path] = (mark, read_model(path, self._kind, RECORD), time.monotonic())
        return kept[1]

    def seconds_unchanged(self, path: Path) -> float:
        """For how long the file has not changed, by this process's clock and as far as it has looked."""
        kept = self._kept.get(path)
        return time.monotonic() - kept[2] if kept else 0.0

    def names(self) -> set[str]:
        """File names of what is kept."""
        return {path.name for path in self._kept}

    def keep_only(self, names: Collection[str]) -> None:
        """Forget all other files."""
        self._kept = {path: kept for path, kept in self._kept.items() if path.name in names}


class AccountReader:
    """All accounts under one folder, as they are now.

    Args:
        root: The folder `ledger` of a store.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / "accounts"
        self._lock = threading.Lock()
        self._ended: dict[str, LaneAccount] = {}
        self._ended_sums = Sums()
        self._open = CachedRecords(LaneAccount)

    def read(self) -> tuple[list[LaneAccount], Sums]:
        """Every account, and what they say together. Raises `StoreError`: one of them, or the folder, cannot be read."""
        with self._lock:
            living = self._look()
            sums = self._ended_sums.copy()
            for account in living:
                sums.add(account)
            return [*self._ended.values(), *living], sums

    def seconds_unchanged(self, account: LaneAccount) -> float:
        """For how long `account` has not changed, by this machine's clock and as far as this process has looked."""
        return self._open.seconds_unchanged(self._folder / f"{account.lane}.json")

    def _look(self) -> list[LaneAccount]:
        """Accounts of lanes that have not ended; those that have are added to the kept ones."""
        names = self._list()
        if not self._ended.keys() <= names:  # somebody has removed one, to forget it
            self._ended = {name: account for name, account in self._ended.items() if name in names}
            self._ended_sums = Sums()
            for account in self._ended.values():
                self._ended_sums.add(account)
        living = []
        for name in sorted(names - self._ended.keys()):
            account = self._load(name)
            if account.ended:
                self._ended[name] = account
                self._ended_sums.add(account)
            else:
                living.append(account)
        self._open.keep_only(names - self._ended.keys())
        return living

    def _list(self) -> set[str]:
        """File names of all accounts."""
        remedy = "Look at its permissions and its mount."
        try:
            if not _exists(self._folder):
                if not _exists(self._root / "budgets"):
                    return set()  # nothing was ever to be paid here
                remedy = f"Restore it, or make it again to forget what was spent: mkdir {self._folder}"
            with os.scandir(self._folder) as entries:
                found = {entry.name for entry in entries if entry.name.endswith(".json")}
            # a file that is replaced while a folder is listed may be left out of the list
            return found | {
                name for name in {*self._ended, *self._open.names()} - found if _exists(self._folder / name)
            }
        except OSError as error:
            raise unreadable(f"ledger: {self._folder}", error, remedy) from None

    def _load(self, name: str) -> LaneAccount:
        path = self._folder / name
        try:
            return self._open.read(path)
        except (OSError, ValueError) as error:
            raise unreadable(
                f"ledger: {path}", error, "Restore it, or remove it to forget what that lane cost."
            ) from None


def prepare(store: Store) -> None:
    """Make the folders of the ledger in a store that has none; raises `OSError`.

    Accounts come first: where there are budgets and no folder of accounts, it was lost, with what was spent.
    """
    root = store.root / "ledger"
    if not (root / "budgets").is_dir():
        store.make_folder(root / "accounts")
        store.make_folder(root / "budgets")


def unreadable(what: str, error: OSError | ValueError, remedy: str) -> StoreError:
    """The error of a file without which nobody can tell whether the next job may start."""
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
    elif not isinstance(error, ValidationError):
        reason = str(error)[:200]
    else:
        first = error.errors()[0]
        own = first["type"] == "value_error"
        reason = first["msg"].removeprefix("Value error, ") if own else "it is not what it should be"
    return StoreError(f"{what} cannot be read ({reason}), so no job starts", remedy=remedy)


def _exists(path: Path) -> bool:
    """As `Path.exists`, which takes a folder that may not be looked into for an empty one."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True
