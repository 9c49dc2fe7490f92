"""One finding of a check."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from coral_core.errors import CoralError

State = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Check:
    """What one check saw.

    Args:
        name: Name of the check; stable.
        state: `bad` fails `coral health`; a `note` is worth knowing and fails nothing.
        found: What was seen, in a few words.
        text: What that means.
        todo: What to do; empty when nothing is.

    Example:
        >>> Check("disk space", "bad", "0.5 GB free at /srv", todo="free space").state
        'bad'
    """

    name: str
    state: State
    found: str
    text: str = ""
    todo: str = ""

    @classmethod
    def of_error(cls, name: str, error: CoralError, text: str = "") -> "Check":
        """A bad check: its problem is what was found, its remedy is what to do."""
        return cls(name, "bad", error.problem, text, error.remedy)


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
