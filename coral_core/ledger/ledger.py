"""Sums over all accounts of a store, forecasts, and the decision whether the next job may start.

All sums are made by reading the accounts, so there is no shared counter to race for, and none to lose in a restart.
Every lane asks `closed` before it starts a job, also if the evolution's process is dead. An account that cannot be read
closes the ledger for every evolution with a limit.
"""

import time
from typing import Annotated

from pydantic import Field, PlainSerializer

from coral_core.atomic_write import write_atomic
from coral_core.bounded_read import RECORD, read_model
from coral_core.config.budget_config import BudgetConfig, LanePrices, Limits
from coral_core.errors import StoreError
from coral_core.frozen import Frozen
from coral_core.ledger.accounts import (
    QUEUES,
    AccountReader,
    Budget,
    LaneAccount,
    Queue,
    Sums,
    prepare,
    today,
    unreadable,
)
from coral_core.ledger.closure import Closure, Reason, Scope, Unit
from coral_core.ledger.meter import Meter
from coral_core.store.store import Store

HOUR = 3600.0
QUIET_SECONDS = 30.0
"""A lane that has booked nothing for so long, by the reader's clock, is dead."""
OLD_SECONDS = 600.0
"""A lane whose account was written so long ago, by the lane's clock, is dead; long, since two clocks may differ."""


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
