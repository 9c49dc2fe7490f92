"""The input of objectives: problems, patches and verdicts of one evaluation."""

from dataclasses import dataclass, replace

from coral_core.judge.judge import Outcome, Verdict
from coral_core.problems.problem import Problem


@dataclass(frozen=True)
class Judged:
    """The part of one evaluation that objectives are computed from."""

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

    def unchanged(self) -> "Judged":
        """The same evaluation with the buggy code in place of every patch: it holds no text of a model."""
        return replace(
            self,
            patches=tuple(
                (problem.buggy,) * len(group) for problem, group in zip(self.problems, self.patches, strict=False)
            ),
            verdicts=tuple(tuple(_verdict_on_buggy_code(verdict) for verdict in group) for group in self.verdicts),
        )


def _verdict_on_buggy_code(verdict: Verdict) -> Verdict:
    right, wrong = verdict.was_passing, verdict.was_failing
    return Verdict(
        problem_id=verdict.problem_id,
        outcome=Outcome.ECHO if wrong else Outcome.FIXED,
        cases=("pass",) * right + ("wrong",) * wrong,
        was_failing=wrong,
        now_passing=0,
        was_passing=right,
        still_passing=right,
        lines=None if wrong else 1,
        after_time_out=verdict.after_time_out,
    )
