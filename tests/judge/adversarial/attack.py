"""One hostile patch, and how it is written down.

An attack of an escape class defines ``attack(facts)`` and returns "escaped" once it has
what it wanted; the others define ``add(a, b)`` without adding.
"""

from dataclasses import dataclass
from textwrap import dedent, indent


@dataclass(frozen=True)
class Attack:
    """One hostile patch."""

    kind: str
    name: str
    patch: str
    weak: str
    """The weakened judge that it gets through (`weakened.JUDGES`)."""
    escape: bool = False
    """It attacks the scene (`scene.escape_problem`), not the sum."""
    privileged: bool = False
    """Its success against the weakened judge needs the superuser."""


def escape(kind: str, weak: str, name: str, body: str, privileged: bool = False) -> Attack:
    patch = "def attack(facts):\n" + indent(dedent(body).strip(), "    ") + "\n    return 'escaped'\n"
    return Attack(kind, name, patch, weak, True, privileged)


def cheat(kind: str, weak: str, name: str, patch: str) -> Attack:
    return Attack(kind, name, dedent(patch).strip() + "\n", weak)


ZERO = "def add(a, b):\n    return 0\n"
