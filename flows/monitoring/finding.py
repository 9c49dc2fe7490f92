"""One finding of a check."""

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from coral_core.frozen import Frozen

State = Literal["ok", "note", "bad"]


class Check(Frozen):
    """What one check saw."""

    name: str = Field(description="Name of the check; stable.")
    state: State = Field(description="`bad` fails `coral health`; a `note` is worth knowing and fails nothing.")
    found: str = Field(description="What was seen, in a few words.")
    text: str = Field("", description="What that means.")
    todo: str = Field("", description="What to do; empty when nothing is.")


def healthy(checks: Iterable[Check]) -> bool:
    """No check is bad."""
    return all(check.state != "bad" for check in checks)


def summary(checks: Sequence[Check], of: str) -> str:
    """What all checks together say, and no more than they looked at.

    Args:
        of: What they are checks of.
    """
    bad, notes = ([check.name for check in checks if check.state == state] for state in ("bad", "note"))
    told = f"; {len(notes)} worth a look: {first(notes)}" if notes else ""
    if bad:
        return f"{len(bad)} of {len(checks)} checks of {of} are bad: {first(bad)}{told}."
    return f"None of the {len(checks)} checks of {of} is bad{told}."


def first(names: Iterable[str], most: int = 3) -> str:
    """The first few of many names, and how many more there are."""
    listed = list(names)
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more} more" if more > 0 else "")
