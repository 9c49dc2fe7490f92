"""The result of a check, and summaries of several."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from coral_core.errors import CoralError

State = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Args:
        name: Name of the check; stable.
        state: `bad` fails `coral health`; a `note` is worth knowing and fails nothing.
        found: The observation, in a few words.
        text: Its meaning; may be empty.
        todo: The remedy; empty when none is needed.

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
        """A bad check made of an error.

        Args:
            name: Name of the check.
            error: Its problem becomes `found`, its remedy `todo`.
            text: Meaning of the error for the installation.
        """
        return cls(name, "bad", error.problem, text, error.remedy)


def healthy(checks: Iterable[Check]) -> bool:
    """Whether no check is bad; notes do not count."""
    return all(check.state != "bad" for check in checks)


def summary(checks: Sequence[Check], of: str) -> str:
    """One sentence about all checks together; it claims no more than they looked at.

    Args:
        checks: The checks that were made.
        of: Name of what was checked, for the sentence.

    Example:
        >>> summary([Check("api", "ok", "answers"), Check("disk space", "bad", "0.5 GB free")], "this machine")
        '1 of 2 checks of this machine are bad: disk space.'
    """
    bad, notes = ([check.name for check in checks if check.state == state] for state in ("bad", "note"))
    suffix = f"; {len(notes)} worth a look: {first(notes)}" if notes else ""
    if bad:
        return f"{len(bad)} of {len(checks)} checks of {of} are bad: {first(bad)}{suffix}."
    return f"None of the {len(checks)} checks of {of} is bad{suffix}."


def first(names: Iterable[str], most: int = 3) -> str:
    """The first few of many names, and the number of the others.

    Args:
        names: In the order in which they are shown.
        most: Names that are shown.

    Example:
        >>> first(["a", "b", "c"], 2)
        'a, b and 1 more'
    """
    listed = list(names)
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more} more" if more > 0 else "")
