"""The champion's patches on the held-out problems: diff, verdict, and who else repaired the bug.

Everything in a patch was written by a model. Here it is text only; who shows it escapes it.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from coral_core.config import RunConfig
from coral_core.errors import CoralError
from coral_core.jobs.job_content import problem_set, split_digest
from coral_core.jobs.jobs import Evaluation, ProblemRecord
from coral_core.problems.problem import Problem
from coral_core.report.history_records import History
from coral_core.store.store import Store

MOST = 400
"""Patches shown of one run; `coral show RUN --split held-out --limit 0` shows all."""
RIVALS = ("base_model", "default_lora")


@dataclass(frozen=True)
class PatchView:
    """One patch as a reader sees it."""

    problem_id: str
    bug_class: str
    retention: bool
    outcome: str
    passed: bool
    samples: int
    passing: int
    diff: str
    """Unified diff against the buggy source; the patch itself when the problem is not at hand; empty: no change."""
    is_diff: bool
    now_passing: int | None
    was_failing: int | None
    message: str
    others: dict[str, bool]
    """base_model, default_lora -> does it repair this problem too."""


@dataclass(frozen=True)
class PatchGroup:
    """Patches that ended alike."""

    title: str
    patches: tuple[PatchView, ...]


@dataclass(frozen=True)
class Patches:
    """What the page shows of the champion's work on the held-out split."""

    groups: tuple[PatchGroup, ...]
    shown: int
    total: int
    note: str


def held_out_patches(history: History, store: Store, config: RunConfig) -> Patches | None:
    """The champion's patches; None before the end or when the evaluation has left the store."""
    line = history.held_out("champion")
    evaluation = store.read_evaluation(line.evaluation_digest) if line else None
    if evaluation is None:
        return None
    problems, note = _problems(history, config)
    rivals = {name: found for name in RIVALS if (found := _evaluation(history, store, name)) is not None}
    views = [_view(record, problems.get(record.problem_id), evaluation, rivals) for record in evaluation.records]
    bugs, right = [v for v in views if not v.retention], [v for v in views if v.retention]
    default = "default_lora" in rivals
    groups = [
        ("Repaired; the default LoRA does not", [v for v in bugs if v.passed and default and not v.others["default_lora"]]),
        ("Not repaired; the default LoRA does", [v for v in bugs if not v.passed and v.others.get("default_lora")]),
        ("Not repaired", [v for v in bugs if not v.passed and not v.others.get("default_lora")]),
        ("Repaired" + (", by the default LoRA too" if default else ""), [v for v in bugs if v.passed and not (default and not v.others["default_lora"])]),
        ("Right already, broken by the patch", [v for v in right if not v.passed]),
        ("Right already, and still right", [v for v in right if v.passed]),
    ]  # fmt: skip
    left, shown = MOST, []
    for title, members in groups:
        if members and left > 0:
            shown.append(PatchGroup(f"{title} ({len(members)})", tuple(members[:left])))
            left -= len(members)
    return Patches(groups=tuple(shown), shown=min(len(views), MOST), total=len(views), note=note)


def unified(buggy: str, patch: str) -> str:
    """The patch as a unified diff against the buggy source; empty when nothing was changed."""
    before, after = buggy.rstrip("\n").splitlines(), patch.rstrip("\n").splitlines()
    return "\n".join(difflib.unified_diff(before, after, "buggy", "patch", lineterm="", n=20))


def _problems(history: History, config: RunConfig) -> tuple[dict[str, Problem], str]:
    """The held-out problems by id, rebuilt from the configuration; a note when that cannot be done here."""
    try:
        found = {problem.problem_id: problem for problem in problem_set(config.problems).split("held_out")}
        here = split_digest(config.problems, "held_out")
    except (CoralError, OSError) as error:
        reason = str(error).splitlines()[0]
        return {}, f"The problems cannot be read here ({reason}), so patches are shown whole instead of as diffs."
    digests = history.run.problems.get("digests", {}) if history.run else {}
    if digests.get("held_out", here) != here:
        return {}, "The problems here are not those of the run, so patches are shown whole instead of as diffs."
    return found, ""


def _evaluation(history: History, store: Store, name: str) -> Evaluation | None:
    line = history.held_out(name)
    return store.read_evaluation(line.evaluation_digest) if line else None


def _view(
    record: ProblemRecord, problem: Problem | None, evaluation: Evaluation, rivals: Mapping[str, Evaluation]
) -> PatchView:
    first = record.samples[0] if record.samples else None
    verdict = first.verdict if first else {}
    patch = first.patch if first else ""
    return PatchView(
        problem_id=record.problem_id,
        bug_class=record.bug_class,
        retention=record.retention,
        outcome=str(verdict.get("outcome", "unknown")),
        passed=record.problem_id in evaluation.passed,
        samples=len(record.samples),
        passing=sum(sample.passes for sample in record.samples),
        diff=unified(problem.buggy, patch) if problem else patch,
        is_diff=problem is not None,
        now_passing=_whole(verdict.get("now_passing")),
        was_failing=_whole(verdict.get("was_failing")),
        message=str(verdict.get("message", "")),
        others={name: record.problem_id in found.passed for name, found in rivals.items()},
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None
