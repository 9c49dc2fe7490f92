"""The ledger's files. Every lane keeps an account that only it writes; every evolution has its limits on record.

Layout, under the store::

    ledger/accounts/<lane>.json    LaneAccount
    ledger/budgets/<run>.json      Budget

A lane writes its account until it ends, and never again, so an ended account is read once. Sums are in whole nanoseconds: what
was spent never shrinks by rounding.
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
"""In accounts: the seconds of a lane that has not worked for anybody yet."""
NANO = 1e9

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
    """Lane seconds by day, evolution and queue, and what jobs took, over accounts."""

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
        """Lane seconds of one evolution or all, on one day or all."""
        found = dict.fromkeys(QUEUES, 0)
        for (when, run, queue), taken in self._spent.items():
            if day in (None, when) and run_id in (None, run):
                found[queue] += taken
        return {queue: taken / NANO for queue, taken in found.items()}

    def names(self, part: Literal["day", "run"]) -> list[str]:
        """Days on which lanes were paid for, or evolutions that they were paid for."""
        return sorted({key[part == "run"] for key in self._spent})

    def mean(self, queue: Queue, run_id: str) -> float:
        """Seconds that a job of this evolution took, else one of any evolution of this store; 0 before the first."""
        for runs in ((run_id,), None):
            done = [work for (run, kind), work in self._work.items() if kind == queue and (runs is None or run in runs)]
            if jobs := sum(count for count, _ in done):
                return sum(took for _, took in done) / NANO / jobs
        return 0.0


class AccountReader:
    """All accounts under one folder, as they are now. A file is read again when its time, inode or size has changed.

    Args:
        root: The folder `ledger` of a store.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / "accounts"
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[tuple[int, int, int], LaneAccount, float]] = {}

    def read(self) -> tuple[list[LaneAccount], Sums]:
        """Every account, and what they say together. Raises `StoreError`: one of them, or the folder, cannot be read."""
        with self._lock:
            names = self._list()
            self._kept = {name: kept for name, kept in self._kept.items() if name in names}
            accounts = [self._load(name) for name in sorted(names)]
        return accounts, Sums(accounts)

    def seconds_unchanged(self, account: LaneAccount) -> float:
        """For how long `account` has not changed, by this machine's clock and as far as this process has looked."""
        kept = self._kept.get(f"{account.lane}.json")
        return time.monotonic() - kept[2] if kept else 0.0

    def _list(self) -> set[str]:
        """File names of all accounts."""
        remedy = "Look at its permissions and its mount."
        try:
            if not exists(self._folder):
                if not exists(self._root / "budgets"):
                    return set()  # nothing was ever to be paid here
                remedy = f"Restore it, or make it again to forget what was spent: mkdir {self._folder}"
            with os.scandir(self._folder) as entries:
                found = {entry.name for entry in entries if entry.name.endswith(".json")}
            # a file that is replaced while a folder is listed may be left out of the list
            return found | {name for name in self._kept.keys() - found if exists(self._folder / name)}
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
    """Make the folders of the ledger in a store that has none; raises `OSError`.

    Accounts come first: where there are budgets and no folder of accounts, it was lost, with what was spent.
    """
    root = store.root / "ledger"
    if not (root / "budgets").is_dir():
        store.make_folder(root / "accounts")
        store.make_folder(root / "budgets")


def unreadable(what: str, error: OSError | ValueError, remedy: str) -> StoreError:
    """The error of a file without which nobody can tell whether the next job may start."""
    reason = error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)[:200]
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        reason = first["msg"] if first["type"] == "conflict" else "it is not what it should be"
    return StoreError(f"{what} cannot be read ({reason}), so no job starts", remedy=remedy)


def exists(path: Path) -> bool:
    """As `Path.exists`, which takes a folder that may not be looked into for an empty one."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True
