"""Reads the accounts of a store again and again, without paying for every lane that ever was.

A lane writes its account until it ends, and never again; a lane that is started again gets another (`Meter`). So an account
that says `ended` is read once, and its sums are kept as long as its file is there. Nothing of this is on disk:
a process that is killed leaves nothing half done behind, and the next one reads everything anew.
"""

import os
import threading
import time
from pathlib import Path

from pydantic import ValidationError

from coral_core.bounded_read import RECORD, read_model
from coral_core.errors import StoreError
from coral_core.ledger.accounts import LaneAccount
from coral_core.ledger.sums import Sums
from coral_core.store.store import Store

Mark = tuple[int, int, int]


class Accounts:
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
        self._open: dict[str, tuple[Mark, LaneAccount, float]] = {}

    def read(self) -> tuple[list[LaneAccount], Sums]:
        """Every account, and what they say together. Raises `StoreError`: one of them, or the folder, cannot be read."""
        with self._lock:
            living = self._look()
            sums = self._ended_sums.copy()
            for account in living:
                sums.add(account)
            return [*self._ended.values(), *living], sums

    def still(self, account: LaneAccount) -> float:
        """Seconds for which `account` has not changed, by this machine's clock, as far as this process has seen."""
        kept = self._open.get(f"{account.lane}.json")
        return time.monotonic() - kept[2] if kept else 0.0

    def _look(self) -> list[LaneAccount]:
        """Accounts of lanes that have not ended; those that have are added to the kept ones."""
        names = self._list()
        if not self._ended.keys() <= names:  # somebody has removed one, to forget it
            self._ended = {name: account for name, account in self._ended.items() if name in names}
            self._ended_sums = Sums()
            for account in self._ended.values():
                self._ended_sums.add(account)
        self._open = {name: kept for name, kept in self._open.items() if name in names}
        living = []
        for name in sorted(names - self._ended.keys()):
            account = self._load(name)
            if account.ended:
                self._ended[name] = account
                self._ended_sums.add(account)
                del self._open[name]
            else:
                living.append(account)
        return living

    def _list(self) -> set[str]:
        """File names of all accounts."""
        way_out = "Look at its permissions and its mount."
        try:
            if not _exists(self._folder):
                if not _exists(self._root / "budgets"):
                    return set()  # nothing was ever to be paid here
                way_out = f"Restore it, or make it again to forget what was spent: mkdir {self._folder}"
            with os.scandir(self._folder) as entries:
                found = {entry.name for entry in entries if entry.name.endswith(".json")}
            # a file that is replaced while a folder is listed may be left out of the list
            return found | {name for name in {*self._ended, *self._open} - found if _exists(self._folder / name)}
        except OSError as error:
            raise unreadable(f"ledger: {self._folder}", error, way_out) from None

    def _load(self, name: str) -> LaneAccount:
        path = self._folder / name
        try:
            stat = path.stat()
            mark = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            kept = self._open.get(name)
            if kept is None or kept[0] != mark:
                kept = (mark, read_model(path, LaneAccount, RECORD), time.monotonic())
                self._open[name] = kept
            return kept[1]
        except (OSError, ValueError) as error:
            way_out = "Restore it, or remove it to forget what that lane cost."
            raise unreadable(f"ledger: {path}", error, way_out) from None


def prepare(store: Store) -> None:
    """Make the folders of the ledger in a store that has none; raises `OSError`.

    Accounts come first: where there are budgets and no folder of accounts, it was lost, with what was spent.
    """
    root = store.root / "ledger"
    if not (root / "budgets").is_dir():
        store.make_folder(root / "accounts")
        store.make_folder(root / "budgets")


def unreadable(what: str, error: OSError | ValueError, way_out: str) -> StoreError:
    """The error of a file without which nobody can tell whether the next job may start."""
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
    elif not isinstance(error, ValidationError):
        reason = str(error)[:200]
    else:
        first = error.errors()[0]
        own = first["type"] == "value_error"
        reason = first["msg"].removeprefix("Value error, ") if own else "it is not what it should be"
    return StoreError(f"{what} cannot be read ({reason}), so no job starts. {way_out}")


def _exists(path: Path) -> bool:
    """As `Path.exists`, which takes a folder that may not be looked into for an empty one."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True
