"""Budget of an evolution: prices of lanes, limits per day and per evolution."""

from typing import Self

from pydantic import Field, model_validator

from coral_core.config.section import ConfigSection, conflict


class LanePrices(ConfigSection):
    """Money per hour of one lane, at work or idle: a rented GPU costs the same."""

    training: float = Field(0.0, ge=0, le=10_000, description="Money per hour of a training lane.")
    evaluation: float = Field(0.0, ge=0, le=10_000, description="Money per hour of an evaluation lane.")


class Limits(ConfigSection):
    """Two limits, of which the first to be reached applies. Null: no limit."""

    gpu_hours: float | None = Field(None, ge=0, le=10_000_000, description="Lane hours (a lane holds one GPU).")
    money: float | None = Field(None, ge=0, le=1_000_000_000, description="Money, in the budget's currency.")

    @property
    def any(self) -> bool:
        """True when a limit is set."""
        return self.gpu_hours is not None or self.money is not None


class BudgetConfig(ConfigSection):
    """Spending. At a limit no new job starts, running ones finish and are kept, and the evolution is paused."""

    currency: str = Field("USD", pattern=r"^[A-Z]{3}$", description="Three letters, for people.")
    price: LanePrices = Field(LanePrices(), description="Money per lane and hour.")
    day: Limits = Field(
        Limits(), description="Limits of everything that is spent on this store in a day (UTC), by whichever evolution."
    )
    evolution: Limits = Field(Limits(), description="Limits of this evolution, all its sessions together.")

    @model_validator(mode="after")
    def _priced(self) -> Self:
        """A limit in money needs a price for every pool: lanes without one would never reach it."""
        for name, limits in (("day", self.day), ("evolution", self.evolution)):
            for pool, price in (("training", self.price.training), ("evaluation", self.price.evaluation)):
                if limits.money is not None and price <= 0:
                    raise conflict(
                        f"{name}.money {limits.money:g} would not count {pool} lanes, because budget.price.{pool} is 0: "
                        f"set budget.price.{pool} to what such a lane costs an hour, or limit {name}.gpu_hours instead",
                        f"{name}.money",
                    )
        return self

    @property
    def limited(self) -> bool:
        """True when any limit is set, per day or per evolution."""
        return self.day.any or self.evolution.any
