"""Why the ledger lets no new job start, as data: the limit, its scope and unit, the sums, and the remedy."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from coral_core.errors import CoralError
from coral_core.frozen import Frozen

Scope = Literal["day", "evolution"]
Unit = Literal["gpu_hours", "money"]
"""Keys of `coral_core.config.budget_config.Limits`."""


class Reason(StrEnum):
    """Why the next job may not start."""

    LIMIT_REACHED = "limit-reached"
    """The limit has no room for one more job."""
    LIMIT_TOO_SMALL = "limit-too-small"
    """A single job costs more than the whole limit, so the next day does not help."""
    DURATION_UNKNOWN = "duration-unknown"
    """No job has ended yet, and those in flight may use up the rest of the limit."""
    UNREADABLE = "unreadable"
    """An account or a budget cannot be read."""


class Remedy(Frozen):
    """How an evolution can continue: a sentence, and the command that completes it."""

    sentence: str
    command: str

    def __str__(self) -> str:
        return f"{self.sentence} {self.command}"


class Closure(Frozen):
    """Why no new job of an evolution may start; `str()` gives the reason as text. An open ledger has no closure (None).

    Example:
        >>> full = Closure(reason=Reason.LIMIT_REACHED, scope="evolution", unit="money", currency="EUR", limit=5, spent=5)
        >>> str(full)
        'the limit of the evolution, 5 EUR, leaves no room for another job: 5 spent, 0 expected for jobs in flight, 0 for the next job'
        >>> full.remedy("my-run").command
        'coral resume my-run --set budget.evolution.money=...'
    """

    reason: Reason
    scope: Scope | None = Field(None, description="Whose limit; none when something cannot be read.")
    day: str = Field("", description="YYYY-MM-DD, UTC, of a limit of the day.")
    unit: Unit | None = None
    currency: str = ""
    limit: float = 0.0
    spent: float = 0.0
    in_flight: float = Field(0.0, description="What jobs in flight are expected to need.")
    next_job: float = Field(0.0, description="What the next job is expected to need.")
    problem: str = Field("", description="What cannot be read.")
    advice: str = Field("", description="What to do about that.")

    @classmethod
    def of_error(cls, error: CoralError) -> "Closure":
        """The closure because of an account or a budget that cannot be read."""
        return cls(reason=Reason.UNREADABLE, problem=error.problem, advice=error.remedy)

    @property
    def is_passing(self) -> bool:
        """Whether the closure ends by itself as soon as one of the jobs in flight has ended."""
        return self.reason == Reason.DURATION_UNKNOWN

    def __str__(self) -> str:
        day = f" ({self.day} UTC)" if self.scope == "day" else ""
        unit = "GPU hours" if self.unit == "gpu_hours" else self.currency
        limit = f"the limit of the {self.scope}{day}, {self.limit:g} {unit}"
        if self.reason == Reason.UNREADABLE:
            return f"{self.problem}. {self.advice}" if self.advice else self.problem
        if self.reason == Reason.DURATION_UNKNOWN:
            return (
                f"how long a job takes is not known before the first one ends, and those in flight may use up {limit}"
            )
        room = "no room for any job" if self.reason == Reason.LIMIT_TOO_SMALL else "no room for another job"
        return (
            f"{limit}, leaves {room}: {self.spent:.4g} spent, {self.in_flight:.4g} expected for jobs in flight, "
            f"{self.next_job:.4g} for the next job"
        )

    def remedy(self, run_id: str) -> Remedy:
        """How the evolution `run_id` can continue."""
        if self.reason == Reason.UNREADABLE:
            return Remedy(
                sentence="It goes on by itself as soon as that can be read again; look with:", command="coral health"
            )
        if self.reason == Reason.DURATION_UNKNOWN:
            return Remedy(sentence="It goes on by itself then; look with:", command=f"coral progress {run_id}")
        raised = f"coral resume {run_id} --set budget.{self.scope}.{self.unit}=..."
        if self.scope == "day" and self.reason == Reason.LIMIT_REACHED:
            return Remedy(
                sentence="It goes on by itself when the day turns (0:00 UTC), or at once with a raised limit:",
                command=raised,
            )
        return Remedy(sentence="It goes on with a raised limit:", command=raised)
