"""The ledger's files. Every lane keeps an account that only it writes; every evolution has its limits on record.

Layout, under the store::

    ledger/accounts/<lane>.json    LaneAccount
    ledger/budgets/<run>.json      Budget
"""

import time
from typing import Annotated, Literal

from pydantic import Field

from coral_core.config.budget_config import BudgetConfig
from coral_core.frozen import Frozen

Queue = Literal["training", "evaluation"]
QUEUES: tuple[Queue, ...] = ("training", "evaluation")
NOBODY = ""
"""In accounts: the seconds of a lane that has not worked for anybody yet."""


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
