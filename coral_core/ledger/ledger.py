"""What lanes cost, what is left of budgets, and whether the next job may start.

Layout, under the store::

    ledger/accounts/<lane>.json    LaneAccount, which only that lane writes (Meter)
    ledger/budgets/<run>.json      Budget

All sums are made by reading the accounts, so there is no shared counter to race for, and none to lose in a restart; a lane
never writes its account after it has ended, so an ended account is read once. Sums are in whole nanoseconds, so that
rounding never lowers them. Every lane asks before it starts a job, also if the evolution's process is dead. An account that
cannot be read closes the ledger for every evolution with a limit.
"""

import contextlib
import errno
import logging
import os
import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, Self

from pydantic import Field, PlainSerializer, ValidationError

from coral_core.atomic_write import write_atomic
from coral_core.bounded_read import RECORD, read_model
from coral_core.config.budget_config import BudgetConfig, LanePrices, Limits
from coral_core.errors import StoreError
from coral_core.frozen import Frozen
from coral_core.ledger.closure import Closure, Reason, Scope, Unit
from coral_core.store.store import Store

log = logging.getLogger("coral.ledger")

Queue = Literal["training", "evaluation"]
QUEUES: tuple[Queue, ...] = ("training", "evaluation")
NOBODY = ""
"""Run id, in accounts, of the seconds before a lane's first job."""
NANO = 1e9

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Finite and not negative: a sum with a NaN would pass every comparison with a limit."""
HOUR = 3600.0
QUIET_SECONDS = 30.0
"""A lane that has booked nothing for so long, by the reader's clock, is dead."""
OLD_SECONDS = 600.0
"""A lane whose account was written so long ago, by the lane's clock, is dead; long, since two clocks may differ."""
BOOK_SECONDS = 2.0


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


class Spent(Frozen):
    """Lane time and its price."""

    training_hours: float = Field(0.0, description="Hours of training lanes.")
    evaluation_hours: float = Field(0.0, description="Hours of evaluation lanes.")
    gpu_hours: float = Field(0.0, description="Both together: a lane holds one GPU.")
    money: float = Field(0.0, description="Their price, in the budget's currency.")


class Standing(Frozen):
    """State of the budget of one evolution."""

    schema_version: int = 1
    run_id: str
    day: str = Field(description="YYYY-MM-DD, UTC.")
    currency: str
    limits: BudgetConfig
    spent: Spent = Field(description="By this evolution, all its sessions together.")
    today: Spent = Field(description="On this store today, by all evolutions, at this evolution's prices.")
    forecast: Spent = Field(
        description="What the jobs in flight on this store still need, by what such jobs took; else by their time limits."
    )
    used: float = Field(description="Largest share of a limit that is spent; 0 without limits.")
    closed_queues: dict[Queue, Annotated[Closure, PlainSerializer(str)]] = Field(
        description="Queue -> why no new job of it starts; open ones are left out."
    )
    closed: Annotated[Closure | None, PlainSerializer(lambda closure: str(closure or ""))] = Field(
        description="Why it starts no new job: of no queue, or of one while none of its jobs is in flight; else empty."
    )


class Ledger:
    """Budgets, sums and forecasts of one store; an account is read again only after it has changed.

    Args:
        store: The store whose ledger it is.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._root = store.root / "ledger"
        self._accounts = AccountReader(self._root)

    # -- limits ----------------------------------------------------------------------------

    def set_budget(self, run_id: str, budget: BudgetConfig) -> None:
        """Put the limits of an evolution in force, also while it runs.

        Args:
            run_id: The evolution.
            budget: Its limits and the prices of lanes.

        Raises:
            StoreError: the store cannot be written.
        """
        path = self._root / "budgets" / f"{run_id}.json"
        try:
            prepare(self._store)
            write_atomic(path, Budget(run_id=run_id, budget=budget).model_dump_json(indent=1).encode())
        except OSError as error:
            raise self._store.unwritable(error) from error

    def budget(self, run_id: str) -> BudgetConfig:
        """The limits in force for an evolution. Raises `StoreError` if they cannot be read."""
        path = self._root / "budgets" / f"{run_id}.json"
        try:
            return read_model(path, Budget, RECORD).budget
        except (OSError, ValueError) as error:
            remedy = f"Put it in force again with: coral resume {run_id}"
            raise unreadable(f"budget of {run_id}: {path}", error, remedy) from None

    # -- sums ------------------------------------------------------------------------------

    def accounts(self) -> list[LaneAccount]:
        """The accounts of all lanes, including ended ones. Raises `StoreError` if one of them cannot be read."""
        return self._accounts.read()[0]

    def spent(self, price: LanePrices, run_id: str | None = None, day: str | None = None) -> Spent:
        """Lane hours and their price.

        Args:
            price: Prices of a lane hour.
            run_id: The evolution; None: all.
            day: YYYY-MM-DD, UTC; None: all.

        Raises:
            StoreError: an account cannot be read.
        """
        return _priced(self._accounts.read()[1].seconds(run_id, day), price)

    def days(self, price: LanePrices) -> dict[str, Spent]:
        """Day -> lane hours and their price. Raises `StoreError`."""
        sums = self._accounts.read()[1]
        return {day: _priced(sums.seconds(None, day), price) for day in sums.names("day")}

    def evolutions(self, price: LanePrices) -> dict[str, Spent]:
        """Run id -> lane hours and their price; "" is of lanes before their first job. Raises `StoreError`."""
        sums = self._accounts.read()[1]
        return {run_id: _priced(sums.seconds(run_id, None), price) for run_id in sums.names("run")}

    def standing(self, run_id: str, but: str = "") -> Standing:
        """Sums and forecasts, and which queues are closed.

        Args:
            run_id: The evolution.
            but: A lane whose job in flight is not counted: the lane that asks whether it may begin this job. "": none.

        Raises:
            StoreError: the budget or an account cannot be read.
        """
        limits = self.budget(run_id)
        (accounts, sums), day, price = self._accounts.read(), today(), limits.price
        spent: dict[Scope, Spent] = {
            "evolution": _priced(sums.seconds(run_id, None), price),
            "day": _priced(sums.seconds(None, day), price),
        }
        in_flight = [a for a in accounts if a.digest and a.lane != but and self._lives(a)]
        own = [account for account in in_flight if account.run_id == run_id]
        scopes: dict[Scope, list[LaneAccount]] = {"evolution": own, "day": in_flight}
        expected = {scope: _left(flying, sums, price) for scope, flying in scopes.items()}
        at_most = {scope: _left(flying, sums, price, at_most=True) for scope, flying in scopes.items()}
        closed: dict[Queue, Closure] = {}
        for queue in QUEUES:
            # before a job of its kind has ended, assume the longest time limit in flight; the very first job starts
            longest = max((account.allowed for account in in_flight if account.queue == queue), default=0.0)
            mean = sums.mean(queue, run_id)
            if closure := _over(limits, day, spent, expected, _priced({queue: mean}, price)):
                closed[queue] = closure
            elif closure := _over(limits, day, spent, at_most, _priced({queue: mean or longest}, price)):
                closed[queue] = closure.model_copy(update={"reason": Reason.DURATION_UNKNOWN})
        return Standing(
            run_id=run_id,
            day=day,
            currency=limits.currency,
            limits=limits,
            spent=spent["evolution"],
            today=spent["day"],
            forecast=at_most["day"],
            used=max(_share(limits.day, spent["day"]), _share(limits.evolution, spent["evolution"])),
            closed_queues=closed,
            closed=_closed(closed, is_busy=bool(own)),
        )

    def closed(self, run_id: str, queue: Queue, but: str = "") -> Closure | None:
        """Say why no new job may start.

        Args:
            run_id: The evolution that pays for the job.
            queue: The queue of the job.
            but: As in `standing`.

        Returns:
            The reason; None if a job may start. A file that cannot be read is a reason, too; nothing is raised.
        """
        try:
            return self.standing(run_id, but).closed_queues.get(queue) if self.budget(run_id).limited else None
        except StoreError as error:
            return Closure.of_error(error)

    def begin(self, meter: Meter, run_id: str, queue: Queue, digest: str, allowed: float = 0.0) -> Closure | None:
        """Book the beginning of a job, unless the ledger is closed.

        The ledger is read again after booking. Of lanes that begin at the same moment each sees the bookings of the
        others, so they cannot pass a limit together; those for which there is no room give their jobs back.

        Args:
            meter: The account of the lane.
            run_id: The evolution that pays for the job.
            queue: The queue of the job.
            digest: Digest of the job.
            allowed: Time limit of the job in seconds; 0: not known.

        Returns:
            None if the job has begun, else why it may not begin.

        Raises:
            StoreError: the account cannot be written.
        """
        if closure := self.closed(run_id, queue):
            return closure
        meter.work(run_id, queue, digest, allowed)
        if closure := self.closed(run_id, queue, but=meter.lane):
            meter.drop()
        return closure

    def _lives(self, account: LaneAccount) -> bool:
        """Whether the lane still books. The account of a killed lane stays open, with its job in flight."""
        still = self._accounts.seconds_unchanged(account)
        return not account.ended and still < QUIET_SECONDS and time.time() - account.seen < OLD_SECONDS


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


def _priced(seconds: dict[Queue, float], price: LanePrices) -> Spent:
    training, evaluation = seconds.get("training", 0.0) / HOUR, seconds.get("evaluation", 0.0) / HOUR
    return Spent(
        training_hours=training,
        evaluation_hours=evaluation,
        gpu_hours=training + evaluation,
        money=training * price.training + evaluation * price.evaluation,
    )


def _closed(queues: dict[Queue, Closure], is_busy: bool) -> Closure | None:
    """Why an evolution starts no new job. None while one of its jobs in flight may change that, or a queue is open."""
    lasting = [closure for closure in queues.values() if not (is_busy and closure.is_passing)]
    return lasting[0] if lasting and (not is_busy or len(lasting) == len(QUEUES)) else None


def _left(accounts: list[LaneAccount], sums: Sums, price: LanePrices, at_most: bool = False) -> Spent:
    """What jobs in flight still need, by the mean of such jobs.

    Before a job of its kind has ended, a job counts 0, or with `at_most` its time limit.
    """
    seconds: dict[Queue, float] = dict.fromkeys(QUEUES, 0.0)
    for account in accounts:
        expected = sums.mean(account.queue, account.run_id) or (account.allowed if at_most else 0.0)
        seconds[account.queue] += max(0.0, expected - account.flying)
    return _priced(seconds, price)


def _over(
    limits: BudgetConfig, day: str, spent: dict[Scope, Spent], in_flight: dict[Scope, Spent], following: Spent
) -> Closure | None:
    """The limit that one more job would exceed, or None. The evolution's comes first: the next day does not lift it."""
    of_scope: dict[Scope, Limits] = {"evolution": limits.evolution, "day": limits.day}
    units: tuple[Unit, Unit] = ("gpu_hours", "money")
    for scope, limit_of in of_scope.items():
        for unit in units:
            limit: float | None = getattr(limit_of, unit)
            used, expected, needed = (getattr(sum_, unit) for sum_ in (spent[scope], in_flight[scope], following))
            if limit is not None and (used + expected >= limit or used + expected + needed > limit):
                return Closure(
                    reason=Reason.LIMIT_TOO_SMALL if limit == 0 or needed > limit else Reason.LIMIT_REACHED,
                    scope=scope,
                    day=day,
                    unit=unit,
                    currency=limits.currency,
                    limit=limit,
                    spent=used,
                    in_flight=expected,
                    next_job=needed,
                )
    return None


def _share(limits: Limits, spent: Spent) -> float:
    pairs = ((limits.gpu_hours, spent.gpu_hours), (limits.money, spent.money))
    return max((1.0 if not limit else has / limit for limit, has in pairs if limit is not None), default=0.0)
