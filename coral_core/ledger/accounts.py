"""The ledger's files: one account per lane, which only that lane writes, and one budget per evolution.

Layout, under the store::

    ledger/accounts/<lane>.json    LaneAccount
    ledger/budgets/<run>.json      Budget

A lane never writes its account after it has ended, so an ended account is read once. Sums are in whole nanoseconds, so
that rounding never lowers them.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from coral_core.bounded_read import RECORD, read_model
from coral_core.config.budget_config import BudgetConfig
from coral_core.errors import StoreError
from coral_core.frozen import Frozen
from coral_core.store.store import Store

Queue = Literal["training", "evaluation"]
QUEUES: tuple[Queue, ...] = ("training", "evaluation")
NOBODY = ""
"""Run id, in accounts, of the seconds before a lane's first job."""
NANO = 1e9

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Finite and not negative: a sum with a NaN would pass every comparison with a limit."""


class Work(Frozen):
    """Jobs that ended in a lane, done or failed."""

    jobs: int = Field(0, ge=0)
    seconds: Seconds = 0.0


class LaneAccount(Frozen):
    """Cost of one lane so far: all its seconds since its start."""

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
    """The limits in force for one evolution."""

    schema_version: int = 1
    run_id: str
    budget: BudgetConfig


def today() -> str:
    """The current day as YYYY-MM-DD: UTC, by this machine's clock."""
    return time.strftime("%Y-%m-%d", time.gmtime())


class Sums:
    """Sums over accounts: lane seconds by day, evolution and queue, and the duration of jobs.

    Args:
        accounts: The accounts of all lanes.
    """

    def __init__(self, accounts: Iterable[LaneAccount]) -> None:
        self._spent: Counter[tuple[str, str, Queue]] = Counter()
        self._work: dict[tuple[str, Queue], tuple[int, int]] = {}
        for account in accounts:
            for day, runs in account.spent.items():
                for run_id, queues in runs.items():
                    for queue, seconds in queues.items():
                        self._spent[day, run_id, queue] += round(seconds * NANO)
            for run_id, done in account.work.items():
                for queue, work in done.items():
                    jobs, took = self._work.get((run_id, queue), (0, 0))
                    self._work[run_id, queue] = (jobs + work.jobs, took + round(work.seconds * NANO))

    def seconds(self, run_id: str | None, day: str | None) -> dict[Queue, float]:
        """Lane seconds by queue.

        Args:
            run_id: The evolution; None: all.
            day: YYYY-MM-DD, UTC; None: all.
        """
        sums = dict.fromkeys(QUEUES, 0)
        for (when, run, queue), taken in self._spent.items():
            if day in (None, when) and run_id in (None, run):
                sums[queue] += taken
        return {queue: taken / NANO for queue, taken in sums.items()}

    def names(self, part: Literal["day", "run"]) -> list[str]:
        """All days, or all run ids, with booked seconds, in order."""
        return sorted({key[part == "run"] for key in self._spent})

    def mean(self, queue: Queue, run_id: str) -> float:
        """Mean duration of a job in seconds.

        Args:
            queue: The queue of the job.
            run_id: The evolution; if none of its jobs has ended, those of all evolutions count.

        Returns:
            0 if no job of the queue has ended.
        """
        for runs in ((run_id,), None):
            done = [work for (run, kind), work in self._work.items() if kind == queue and (runs is None or run in runs)]
            if jobs := sum(count for count, _ in done):
                return sum(took for _, took in done) / NANO / jobs
        return 0.0


class AccountReader:
    """Reads all accounts of a ledger. A file is read again only if its time, inode or size has changed.

    Args:
        root: The folder `ledger` of a store.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / "accounts"
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[tuple[int, int, int], LaneAccount, float]] = {}

    def read(self) -> tuple[list[LaneAccount], Sums]:
        """All accounts, and their sums. Raises `StoreError` if one of them, or the folder, cannot be read."""
        with self._lock:
            names = self._list()
            self._kept = {name: kept for name, kept in self._kept.items() if name in names}
            accounts = [self._load(name) for name in sorted(names)]
        return accounts, Sums(accounts)

    def seconds_unchanged(self, account: LaneAccount) -> float:
        """Seconds since this process first read `account` in its present state, by this machine's clock."""
        kept = self._kept.get(f"{account.lane}.json")
        return time.monotonic() - kept[2] if kept else 0.0

    def _list(self) -> set[str]:
        """File names of all accounts."""
        remedy = "Look at its permissions and its mount."
        try:
            if not exists(self._folder):
                if not exists(self._root / "budgets"):
                    return set()  # no ledger was ever kept here
                remedy = f"Restore it, or make it again to forget what was spent: mkdir {self._folder}"
            with os.scandir(self._folder) as entries:
                names = {entry.name for entry in entries if entry.name.endswith(".json")}
            # a file that is replaced while a folder is listed may be left out of the list
            return names | {name for name in self._kept.keys() - names if exists(self._folder / name)}
        except OSError as error:
            raise unreadable(f"ledger: {self._folder}", error, remedy) from None

    def _load(self, name: str) -> LaneAccount:
        path, kept = self._folder / name, self._kept.get(name)
        if kept is not None and kept[1].ended:
            return kept[1]
        try:
            stat = path.stat()
            mark = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if kept is None or kept[0] != mark:
                kept = self._kept[name] = (mark, read_model(path, LaneAccount, RECORD), time.monotonic())
            return kept[1]
        except (OSError, ValueError) as error:
            raise unreadable(
                f"ledger: {path}", error, "Restore it, or remove it to forget what that lane cost."
            ) from None


def prepare(store: Store) -> None:
    """Create the folders of the ledger in a store that has none. Raises `OSError`.

    The folder of accounts is created first. If there are budgets but no such folder, it was therefore lost.
    """
    root = store.root / "ledger"
    if not (root / "budgets").is_dir():
        store.make_folder(root / "accounts")
        store.make_folder(root / "budgets")


def unreadable(what: str, error: OSError | ValueError, remedy: str) -> StoreError:
    """The error for a file that cannot be read and that decides whether the next job may start.

    Args:
        what: Names the file.
        error: What reading it raised.
        remedy: What a person can do.
    """
    reason = error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)[:200]
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        reason = first["msg"] if first["type"] == "conflict" else "it is not what it should be"
    return StoreError(f"{what} cannot be read ({reason}), so no job starts", remedy=remedy)


def exists(path: Path) -> bool:
    """Whether `path` exists. Unlike `Path.exists`, raises `OSError` if that cannot be told, as in a closed folder."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True
