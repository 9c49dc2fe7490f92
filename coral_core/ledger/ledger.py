"""Sums over all accounts of a store, forecasts, and the one question: may the next job start?

All sums are made by reading the accounts, so there is nothing to race for and nothing that a restart forgets. Whoever
is about to start a job asks `closed`, wherever the job lies: also a lane whose evolution is dead. What cannot
be read closes the ledger for every evolution with a limit; it never lets their work through.
"""

import time
from pathlib import Path

from pydantic import Field

from coral_core.atomic_write import write_atomic
from coral_core.bounded_read import RECORD, read_model
from coral_core.config.budget_config import BudgetConfig, LanePrices, Limits
from coral_core.errors import StoreError
from coral_core.frozen import Frozen
from coral_core.ledger.account_reader import Accounts, prepare, unreadable
from coral_core.ledger.accounts import QUEUES, Budget, LaneAccount, Queue, today
from coral_core.ledger.meter import Meter
from coral_core.ledger.remedies import DAY, EVOLUTION, FIRST, NEVER, is_passing
from coral_core.ledger.sums import Sums
from coral_core.store.store import Store

HOUR = 3600.0
QUIET_SECONDS = 30.0
"""A lane that has booked nothing for so long, by the clock of who looks, is dead."""
OLD_SECONDS = 600.0
"""The same for who looks once; two machines' clocks may differ, so it is long."""


class Spent(Frozen):
    """Lane time and its price."""

    training_hours: float = Field(0.0, description="Hours of training lanes.")
    evaluation_hours: float = Field(0.0, description="Hours of evaluation lanes.")
    gpu_hours: float = Field(0.0, description="Both together: a lane holds one GPU.")
    money: float = Field(0.0, description="Their price, in the budget's currency.")


class Standing(Frozen):
    """Where the budget of one evolution stands."""

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
    closed_queues: dict[Queue, str] = Field(description="Queue -> why no new job of it starts; open ones are left out.")
    closed: str = Field(
        description="Why it starts no new job: of no queue, or of one while none of its jobs is in flight; else empty."
    )


class Ledger:
    """Reads the accounts of a store; keeps what it read until a file changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._root = store.root / "ledger"
        self._accounts = Accounts(self._root)
        self._budgets: dict[Path, tuple[tuple[int, int, int], BudgetConfig]] = {}

    # -- limits ----------------------------------------------------------------------------

    def set_budget(self, run_id: str, budget: BudgetConfig) -> None:
        """Put the limits of an evolution in force, also while it runs. Raises `StoreError`."""
        path = self._root / "budgets" / f"{run_id}.json"
        try:
            prepare(self._store)
            write_atomic(path, Budget(run_id=run_id, budget=budget).model_dump_json(indent=1).encode())
        except OSError as error:
            raise self._store.unwritable(error) from error

    def budget(self, run_id: str) -> BudgetConfig:
        """The limits in force. Raises `StoreError`: they cannot be read."""
        path = self._root / "budgets" / f"{run_id}.json"
        try:
            stat = path.stat()
            mark = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            kept = self._budgets.get(path)
            if kept is None or kept[0] != mark:
                kept = self._budgets[path] = (mark, read_model(path, Budget, RECORD).budget)
            return kept[1]
        except (OSError, ValueError) as error:
            way_out = f"Put it in force again with: coral resume {run_id}"
            raise unreadable(f"budget of {run_id}: {path}", error, way_out) from None

    # -- sums ------------------------------------------------------------------------------

    def accounts(self) -> list[LaneAccount]:
        """Every lane's account, ended lanes' too. Raises `StoreError`: one of them, or their folder, cannot be read."""
        return self._accounts.read()[0]

    def spent(self, price: LanePrices, run_id: str | None = None, day: str | None = None) -> Spent:
        """What lanes cost, of one evolution or all, on one day or all. Raises `StoreError`."""
        return _priced(self._accounts.read()[1].seconds(run_id, day), price)

    def days(self, price: LanePrices, run_id: str | None = None) -> dict[str, Spent]:
        """Day -> what lanes cost on it. Raises `StoreError`."""
        sums = self._accounts.read()[1]
        return {day: _priced(sums.seconds(run_id, day), price) for day in sums.days()}

    def evolutions(self, price: LanePrices) -> dict[str, Spent]:
        """Run id -> what lanes cost for it; the empty one: for nobody yet. Raises `StoreError`."""
        sums = self._accounts.read()[1]
        return {run_id: _priced(sums.seconds(run_id, None), price) for run_id in sums.evolutions()}

    def standing(self, run_id: str, but: str = "") -> Standing:
        """Sums, forecasts, and which queues are closed.

        Args:
            run_id: The evolution that asks.
            but: A lane whose job in flight is not counted: the one that asks whether it may begin what it has taken.

        Raises:
            StoreError: as `budget` and `accounts` do.
        """
        limits = self.budget(run_id)
        (accounts, sums), day, price = self._accounts.read(), today(), limits.price
        spent, so_far = _priced(sums.seconds(run_id, None), price), _priced(sums.seconds(None, day), price)
        means = {queue: sums.mean(queue, run_id) for queue in QUEUES}
        flying = [a for a in accounts if a.digest and a.lane != but and self._lives(a)]
        own = [account for account in flying if account.run_id == run_id]
        sums_of = (spent, so_far)
        known = _left(own, sums, price), _left(flying, sums, price)
        might = _left(own, sums, price, may=True), _left(flying, sums, price, may=True)
        closed: dict[Queue, str] = {}
        for queue in QUEUES:
            # before the first of its kind has ended, a job may take what those in flight may; the very first one starts
            longest = max((account.allowed for account in flying if account.queue == queue), default=0.0)
            next_known, next_might = (
                _priced({queue: means[queue]}, price),
                _priced({queue: means[queue] or longest}, price),
            )
            why = _over(limits, sums_of, known, next_known) or _first(_over(limits, sums_of, might, next_might))
            if why:
                closed[queue] = why
        return Standing(
            run_id=run_id,
            day=day,
            currency=limits.currency,
            limits=limits,
            spent=spent,
            today=so_far,
            forecast=might[1],
            used=max(_share(limits.day, so_far), _share(limits.evolution, spent)),
            closed_queues=closed,
            closed=_pause(closed, busy=bool(own)),
        )

    def closed(self, run_id: str, queue: Queue, but: str = "") -> str:
        """Why no new job of `run_id` may start in `queue`; empty when one may. What cannot be read is a reason."""
        try:
            return self.standing(run_id, but).closed_queues.get(queue, "") if self.budget(run_id).limited else ""
        except StoreError as error:
            return str(error)

    def begin(self, meter: Meter, run_id: str, queue: Queue, digest: str, allowed: float = 0.0) -> str:
        """Book the beginning of a job of `allowed` seconds at most in `meter`'s lane; why it may not begin otherwise.

        Lanes that ask at the same moment see each other's beginnings, and all but one step back. Raises `StoreError`.
        """
        if why := self.closed(run_id, queue):
            return why
        meter.work(run_id, queue, digest, allowed)
        if why := self.closed(run_id, queue, but=meter.lane):
            meter.drop()
        return why

    def _lives(self, account: LaneAccount) -> bool:
        """Is the lane still booking? A killed one never ends its account, and what flew with it lands no more."""
        still = self._accounts.still(account)
        return not account.ended and still < QUIET_SECONDS and time.time() - account.seen < OLD_SECONDS


def _priced(seconds: dict[Queue, float], price: LanePrices) -> Spent:
    training, evaluation = seconds.get("training", 0.0) / HOUR, seconds.get("evaluation", 0.0) / HOUR
    return Spent(
        training_hours=training,
        evaluation_hours=evaluation,
        gpu_hours=training + evaluation,
        money=training * price.training + evaluation * price.evaluation,
    )


def _pause(closed: dict[Queue, str], busy: bool) -> str:
    """Why an evolution starts no new job; empty while jobs of it fly that others only wait for, or another queue is open."""
    lasting = [why for why in closed.values() if not (busy and is_passing(why))]
    return lasting[0] if lasting and (not busy or len(lasting) == len(QUEUES)) else ""


def _first(why: str) -> str:
    limit = why.partition(", leaves ")[0]
    return (
        f"{FIRST} nothing says how long one takes, and those in flight may need what is left of {limit}" if why else ""
    )


def _left(accounts: list[LaneAccount], sums: Sums, price: LanePrices, may: bool = False) -> Spent:
    """What jobs in flight still need, by what such jobs of their own evolution took; else, with `may`, by what they may take."""
    seconds: dict[Queue, float] = dict.fromkeys(QUEUES, 0.0)
    for account in accounts:
        expected = sums.mean(account.queue, account.run_id) or (account.allowed if may else 0.0)
        seconds[account.queue] += max(0.0, expected - account.flying)
    return _priced(seconds, price)


def _over(limits: BudgetConfig, spent: tuple[Spent, Spent], flying: tuple[Spent, Spent], following: Spent) -> str:
    """Would one more job pass a limit? Says which, with all the figures; empty when not. Pairs: of the evolution, of all."""
    # the limit of the evolution first: when both are reached, waiting for the next day helps nobody
    return _passed(limits.evolution, EVOLUTION, spent[0], flying[0], following, limits.currency) or _passed(
        limits.day, f"{DAY} ({today()} UTC)", spent[1], flying[1], following, limits.currency
    )


def _passed(limits: Limits, whose: str, spent: Spent, flying: Spent, following: Spent, currency: str) -> str:
    for limit, has, comes, more, unit in (
        (limits.gpu_hours, spent.gpu_hours, flying.gpu_hours, following.gpu_hours, "GPU hours"),
        (limits.money, spent.money, flying.money, following.money, currency),
    ):
        if limit is not None and (has + comes >= limit or has + comes + more > limit):
            room = NEVER if limit == 0 or more > limit else "no room for another job"
            return (
                f"{whose}, {limit:g} {unit}, leaves {room}: {has:.4g} spent, {comes:.4g} expected of jobs in "
                f"flight, {more:.4g} of the next"
            )
    return ""


def _share(limits: Limits, spent: Spent) -> float:
    pairs = ((limits.gpu_hours, spent.gpu_hours), (limits.money, spent.money))
    return max((1.0 if not limit else has / limit for limit, has in pairs if limit is not None), default=0.0)
