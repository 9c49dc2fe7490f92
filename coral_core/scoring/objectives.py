"""The objectives: seven numbers in [0, 1], larger is better.

All are pure functions of problems, patches, verdicts and lint findings, so that scores can be recomputed from a stored
evaluation. With several samples per problem, the value of a problem is the mean over its samples.

A patch cannot dilute its findings by adding code: style is relative to the statements of the buggy function, which are
the same for every patch, and security is an absolute count.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from statistics import fmean

from coral_core.frozen import Frozen
from coral_core.judge.judge import Verdict
from coral_core.problems.problem import Problem
from coral_core.scoring.judged import Judged
from coral_core.scoring.lint import Findings, findings
from coral_core.syntax import UNPARSABLE, parse, statements

SCORING_VERSION = "3"
"""Of the formulas here, of what linters are given and how they are asked: part of the evaluation digest."""


class Scores(Frozen):
    """The objectives of one evaluation, and pass@1 and pass@k."""

    bugfix: float
    style: float
    security: float
    runtime: float
    syntax: float
    retention: float
    cost: float
    pass_at_1: float
    pass_at_k: dict[str, float] = {}  # noqa: RUF012 (pydantic copies it)

    def objectives(self) -> dict[str, float]:
        """Objective name -> score, without pass@1 and pass@k."""
        return self.model_dump(exclude={"pass_at_1", "pass_at_k"})


def score(judged: Judged, reference_lines: Sequence[int], lint: Mapping[str, Findings] | None = None) -> Scores:
    """Scores of one evaluation.

    Args:
        judged: Problems, patches and verdicts.
        reference_lines: As `Judge.reference_lines` gives them for its problems.
        lint: Findings of all patches, where they are known already.

    Raises:
        JudgeError: as `findings`.
    """
    problems, patches, verdicts = judged.problems, judged.patches, judged.verdicts
    if lint is None:
        lint = findings([patch for group in patches for patch in group])
    bugs = [(p, group) for p, group in zip(problems, verdicts, strict=True) if not p.retention]
    each = [(p, patch) for p, group in zip(problems, patches, strict=True) for patch in group]
    return Scores(
        bugfix=_mean([bugfix(verdict) for _, group in bugs for verdict in group]),
        style=_mean([style(patch, lint, size(problem)) for problem, patch in each]),
        security=_mean([security(patch, lint) for _, patch in each]),
        runtime=runtime(problems, verdicts, reference_lines, judged.base_passes),
        syntax=_mean([syntax(problem, patch, lint) for problem, patch in each]),
        retention=retention(problems, verdicts, judged.base_passes),
        cost=cost(judged.trainable_parameters, judged.base_parameters),
        pass_at_1=_mean([float(verdict.passed) for _, group in bugs for verdict in group]),
        pass_at_k=pass_at_more([group for _, group in bugs]) if bugs else {},
    )


def size(problem: Problem) -> int:
    """Statements with an effect in the buggy version (`syntax.statements`), at least 1."""
    return _statements(problem.buggy)


@lru_cache(maxsize=10_000)
def _statements(source: str) -> int:
    try:
        return max(1, statements(parse(source)))
    except UNPARSABLE:
        return 1


def bugfix(verdict: Verdict) -> float:
    """max(0, now passing / was failing - lost / was passing), in [0, 1].

    1 when every case passes; 0 for the buggy code unchanged. Each case that passed before and fails now lowers the score. A
    patch that does not run (all cases lost) scores 0.

    >>> verdict = Verdict(
    ...     problem_id="p", outcome="regressed", cases=("pass", "pass", "wrong"),
    ...     was_failing=1, now_passing=1, was_passing=2, still_passing=1,
    ... )
    >>> bugfix(verdict)
    0.5
    """
    fixed = verdict.now_passing / verdict.was_failing if verdict.was_failing else 1.0
    lost = (verdict.was_passing - verdict.still_passing) / verdict.was_passing if verdict.was_passing else 0.0
    return max(0.0, fixed - lost)


def style(patch: str, lint: Mapping[str, Findings], statements: int = 1) -> float:
    """1 / (1 + 5 * violations / statements) by ruff; 0 when ruff did not read the patch, or it is empty or does not compile.

    Args:
        patch: A patch that `lint` knows.
        lint: Findings per patch.
        statements: Number of statements of the buggy version (`size`). The patch's own length does not count, so no comment,
            docstring, `pass`, constant, unused function or dead code reduces the weight of a violation.

    Example:
        >>> style("patch", {"patch": Findings(style=1)}, statements=5)
        0.5
    """
    patch_findings = lint.get(patch)
    if patch_findings is None or patch_findings.style_unread:
        return 0.0
    return 1.0 / (1.0 + 5.0 * patch_findings.style / max(1, statements))


def security(patch: str, lint: Mapping[str, Findings]) -> float:
    """max(0, 1 - 0.1 low - 0.3 medium - 1.0 high) by bandit; 0 when bandit did not read it, or it is empty or does not compile.

    Args:
        patch: A patch that `lint` knows.
        lint: Findings per patch.

    Example:
        >>> security("patch", {"patch": Findings(security_low=5)})
        0.5
    """
    patch_findings = lint.get(patch)
    if patch_findings is None or patch_findings.security_unread:
        return 0.0
    return max(
        0.0,
        1.0
        - 0.1 * patch_findings.security_low
        - 0.3 * patch_findings.security_medium
        - 1.0 * patch_findings.security_high,
    )


def syntax(problem: Problem, patch: str, lint: Mapping[str, Findings] | None = None) -> float:
    """1 when the patch compiles and defines the function by ``def`` at its top level, also in a block; 0.5 when it only
    compiles and holds a statement that does something; else 0.

    Args:
        problem: Names the function.
        patch: The patch.
        lint: Findings per patch; None: they are made here.
    """
    patch_findings = (findings([patch]) if lint is None else lint).get(patch)
    if patch_findings is None or not patch_findings.compiles:
        return 0.0
    if problem.entry_point in patch_findings.functions:
        return 1.0
    return 0.5 if patch_findings.statements else 0.0


def runtime(
    problems: Sequence[Problem],
    verdicts: Sequence[Sequence[Verdict]],
    reference_lines: Sequence[int],
    base_passes: Collection[str],
) -> float:
    """Mean of min(1, reference lines / patch lines) over problems that base and genome both pass.

    Executed lines are counted in the patch's own process, over the recorded inputs: a patch that tampers with the count
    can reach 1.0, no more. That is why runtime is a report by default. Without a problem that both pass: over those that
    the genome passes; without one of these either: 0.

    Args:
        problems: The problems of a split.
        verdicts: For each problem, a verdict per sample; the first counts.
        reference_lines: Executed lines of each reference, as `Judge.reference_lines` gives them.
        base_passes: Ids of the problems that the bare base model repairs.
    """
    ratios = {
        problem.problem_id: ratio
        for problem, group, lines in zip(problems, verdicts, reference_lines, strict=True)
        for verdict in group[:1]
        if (ratio := work_ratio(verdict, lines)) is not None
    }
    both = [ratio for name, ratio in ratios.items() if name in base_passes]
    return _mean(both or list(ratios.values()))


def work_ratio(verdict: Verdict, reference_lines: int) -> float | None:
    """min(1, reference lines / patch lines); None for a patch that fails.

    Args:
        verdict: Counts the executed lines of the patch.
        reference_lines: Executed lines of the reference.
    """
    if not verdict.passed or verdict.lines is None:
        return None
    return min(1.0, max(1, reference_lines) / max(1, verdict.lines))


def retention(
    problems: Sequence[Problem], verdicts: Sequence[Sequence[Verdict]], base_passes: Collection[str]
) -> float:
    """Share of patches that pass, over functions that are right already and bugs that the bare base repairs; 1 without any.

    Args:
        problems: The problems of a split.
        verdicts: For each problem, a verdict per sample.
        base_passes: Ids of the problems that the bare base model repairs.
    """
    kept = [
        float(verdict.passed)
        for problem, group in zip(problems, verdicts, strict=True)
        if problem.retention or problem.problem_id in base_passes
        for verdict in group
    ]
    return _mean(kept) if kept else 1.0


def cost(trainable_parameters: int, base_parameters: int) -> float:
    """1 - log(1 + trainable) / log(1 + base parameters), at least 0; 1 for the bare base.

    Args:
        trainable_parameters: Of the adapter; 0 for the bare base.
        base_parameters: Of the base model.

    Example:
        >>> cost(0, 7_000_000_000), round(cost(4_000_000, 7_000_000_000), 3)
        (1.0, 0.329)
    """
    if trainable_parameters <= 0:
        return 1.0
    return max(0.0, 1.0 - math.log1p(trainable_parameters) / math.log1p(max(base_parameters, 2)))


def pass_at_k(samples: int, passing: int, k: int) -> float:
    """Unbiased estimate of pass@k (Chen et al. 2021, eq. 1).

    Args:
        samples: Samples of a problem, at least `k`.
        passing: How many of them pass.
        k: Samples that a user would try.

    Example:
        >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2)
        (0.25, 0.5)
    """
    if not 1 <= k <= samples or not 0 <= passing <= samples:
        raise ValueError(
            f"pass@{k} of {samples} samples with {passing} passing is not defined: 1 <= k <= samples, 0 <= passing <= samples"
        )
    if samples - passing < k:
        return 1.0
    return 1.0 - math.prod((samples - passing - i) / (samples - i) for i in range(k))


def pass_at_more(groups: Sequence[Sequence[Verdict]]) -> dict[str, float]:
    """Mean pass@k over problems, for k = 2, 4, 8, ... and the number of samples.

    Args:
        groups: For each problem, a verdict per sample.

    Returns:
        k as text -> pass@k; {} when there is one sample per problem.
    """
    samples = min((len(group) for group in groups), default=0)
    wanted = sorted({2**power for power in range(1, samples.bit_length()) if 2**power <= samples} | {samples} - {0, 1})
    return {
        str(k): _mean([pass_at_k(len(group), sum(verdict.passed for verdict in group), k) for group in groups])
        for k in wanted
    }


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0
