"""What objectives are computed from: problems, patches and verdicts of one evaluation."""

from dataclasses import dataclass

from coral_core.repair.problem import Problem
from coral_core.scoring.judge import Verdict


@dataclass(frozen=True)
class Judged:
    """What an objective sees of one evaluation."""

    problems: tuple[Problem, ...]
    """The split's problems."""
    patches: tuple[tuple[str, ...], ...]
    """For each problem, its samples, as extracted from the completions."""
    verdicts: tuple[tuple[Verdict, ...], ...]
    """For each problem, a verdict per sample."""
    base_passes: frozenset[str]
    """Ids of the problems that the bare base model repairs."""
    trainable_parameters: int
    """Of the adapter; 0 for the bare base."""
    base_parameters: int
    """Of the base model."""
