"""Function families: tasks in several structures, from which problems and training pairs are drawn."""

from coral_core.problem_sources.families.draw import Family, Function, draw, draw_inputs
from coral_core.problem_sources.families.group_a import FAMILIES as A_FAMILIES
from coral_core.problem_sources.families.group_b import FAMILIES as B_FAMILIES

ALL_FAMILIES = A_FAMILIES + B_FAMILIES

__all__ = ["ALL_FAMILIES", "A_FAMILIES", "B_FAMILIES", "Family", "Function", "draw", "draw_inputs"]
