"""Function families: tasks in several structures, from which problems and training pairs are drawn."""

from dataclasses import dataclass

from coral_core.problem_sources.families.draw import Family, Function, draw, draw_inputs
from coral_core.problem_sources.families.group_a import FAMILIES as A_FAMILIES
from coral_core.problem_sources.families.group_b import FAMILIES as B_FAMILIES

ALL_FAMILIES = A_FAMILIES + B_FAMILIES


@dataclass(frozen=True, eq=False)
class Roles:
    """Which families a base model knows how to repair, and which its adapters learn."""

    known: tuple[Family, ...]
    learnt: tuple[Family, ...]


USUAL = Roles(known=A_FAMILIES, learnt=B_FAMILIES)
"""Those of coral-tiny and of the source builtin."""
EXCHANGED = Roles(known=B_FAMILIES + A_FAMILIES[len(B_FAMILIES) :], learnt=A_FAMILIES[: len(B_FAMILIES)])
"""No family is learnt that is learnt in `USUAL`: for a second base model, on which nothing was tuned."""

__all__ = [
    "ALL_FAMILIES",
    "A_FAMILIES",
    "B_FAMILIES",
    "EXCHANGED",
    "USUAL",
    "Family",
    "Function",
    "Roles",
    "draw",
    "draw_inputs",
]
