"""Ranges of genes."""

from typing import Self

from pydantic import Field, model_validator

from coral_core.config.section import ConfigSection


class Range(ConfigSection):
    """A closed range of a real-valued gene."""

    low: float = Field(description="Smallest value.")
    high: float = Field(description="Largest value; equal to low fixes the gene.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}: swap them")
        return self

    def at(self, position: float) -> float:
        """The value at `position` in [0, 1] of the range; other positions are clipped.

        >>> Range(low=0.2, high=1.0).at(0.25)
        0.4
        """
        return self.low + min(1.0, max(0.0, position)) * (self.high - self.low)


class IntRange(Range):
    """A closed range of an integer gene."""

    low: int = Field(description="Smallest value.")
    high: int = Field(description="Largest value; equal to low fixes the gene.")

    def at(self, position: float) -> int:
        """The value at `position` in [0, 1]; each integer has an equal share of the interval.

        >>> IntRange(low=5, high=6).at(0.7)
        6
        """
        width = self.high - self.low + 1
        return self.low + min(width - 1, int(min(1.0, max(0.0, position)) * width))
