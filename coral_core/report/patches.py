"""The champion's patches on the held-out problems: diff, verdict, and whether the baselines pass too.

A patch is untrusted text from a model. This module never runs it; each writer escapes it.
"""

import difflib

from coral_core.config import RunConfig
from coral_core.errors import CoralError
from coral_core.jobs.job_content import problem_set, split_digest
from coral_core.jobs.jobs import Evaluation, ProblemRecord
from coral_core.problems.problem import Problem
from coral_core.report.content import Contender, Report
from coral_core.report.document import Patch, Patches, Section, blocks, text
from coral_core.report.wording import NAMES
from coral_core.store.store import Store

MOST = 400
"""Patches shown of one run; `coral show RUN --split held-out --limit 0` shows all."""
GROUPS = (
    "Repaired; the default LoRA does not",
    "Not repaired; the default LoRA does",
    "Not repaired",
    "Repaired",
    "Right already, broken by the patch",
    "Right already, and still right",
)


def held_out_patches(report: Report, store: Store, config: RunConfig) -> Section | None:
    """The champion's patches on the held-out split, grouped by outcome.

    Args:
        report: The report of the run.
        store: Holds the held-out evaluations.
        config: Configuration of the run; the problems are rebuilt from it to show diffs.

    Returns:
        A section with at most `MOST` patches. None before the held-out split was evaluated, or if the champion's
        evaluation is no longer in the store.
    """
    evaluation = _evaluation(report.champion, store)
    if evaluation is None:
        return None
    problems, note = _problems(report, config)
    rivals = {"base_model": report.base_model, "default_lora": report.default_lora, "tuned_lora": report.tuned_lora}
    passed = {name: set(found.passed) for name, rival in rivals.items() if (found := _evaluation(rival, store))}
    groups: dict[str, list[Patch]] = {title: [] for title in GROUPS}
    for record in evaluation.records[:MOST]:
        others = {name: record.problem_id in ids for name, ids in passed.items()}
        patch = _patch(record, problems.get(record.problem_id), record.problem_id in evaluation.passed, others)
        groups[_group(record, patch.passed, others.get("default_lora"))].append(patch)
    total, shown = len(evaluation.records), sum(map(len, groups.values()))
    rest = f"; the rest: coral show {report.run_id} --split held-out --limit 0" if shown < total else ""
    title = "The champion's patches on held-out problems"
    return Section("patches", title, blocks(
        text(f"{shown} of {total} problems{rest}. {note}", style="soft small"),
        Patches(tuple((f"{title} ({len(found)})", tuple(found)) for title, found in groups.items() if found)),
    ), shown="page")  # fmt: skip


def unified_diff(buggy: str, patch: str) -> str:
    r"""The patch as a unified diff; empty if nothing but trailing newlines was changed.

    Args:
        buggy: Source of the buggy function.
        patch: Source that the model proposes.

    Example:
        >>> print(unified_diff("def f(x):\n    return x", "def f(x):\n    return -x"))
        --- buggy
        +++ patch
        @@ -1,2 +1,2 @@
         def f(x):
        -    return x
        +    return -x
    """
    before, after = buggy.rstrip("\n").splitlines(), patch.rstrip("\n").splitlines()
    return "\n".join(difflib.unified_diff(before, after, "buggy", "patch", lineterm="", n=20))


def _problems(report: Report, config: RunConfig) -> tuple[dict[str, Problem], str]:
    """The held-out problems by id, rebuilt from the configuration; else no problems and a note that says why."""
    try:
        problems = {problem.problem_id: problem for problem in problem_set(config.problems).split("held_out")}
        here = split_digest(config.problems, "held_out")
    except (CoralError, OSError) as error:
        reason = str(error).splitlines()[0]
        return {}, f"The problems cannot be read here ({reason}), so patches are shown whole instead of as diffs."
    if report.problems.get("digests", {}).get("held_out", here) != here:
        return {}, "The problems here are not those of the run, so patches are shown whole instead of as diffs."
    return problems, ""


def _evaluation(contender: Contender | None, store: Store) -> Evaluation | None:
    digest = contender.held_out_evaluation_digest if contender else None
    return store.read_evaluation(digest) if digest else None


def _group(record: ProblemRecord, passed: bool, default: bool | None) -> str:
    """The group of a patch; `default`: whether the default LoRA repairs the problem, None when that is not known."""
    if record.retention:
        return "Right already, and still right" if passed else "Right already, broken by the patch"
    if default is None or passed == default:
        return "Repaired" if passed else "Not repaired"
    return "Repaired; the default LoRA does not" if passed else "Not repaired; the default LoRA does"


def _patch(record: ProblemRecord, problem: Problem | None, passed: bool, others: dict[str, bool]) -> Patch:
    first = record.samples[0] if record.samples else None
    verdict = first.verdict if first else {}
    patch = first.patch if first else ""
    remarks = [str(verdict.get("message", ""))]
    if verdict.get("was_failing") and not passed:
        remarks.append(f"{verdict.get('now_passing')} of {verdict['was_failing']} broken cases pass now")
    if len(record.samples) > 1:
        remarks.append(f"{sum(sample.passes for sample in record.samples)} of {len(record.samples)} samples pass")
    remarks += [f"{NAMES[name]}: {'repaired' if repaired else 'not repaired'}" for name, repaired in others.items()]
    return Patch(
        problem_id=record.problem_id,
        bug_class="right already" if record.retention else record.bug_class,
        outcome=str(verdict.get("outcome", "unknown")),
        passed=passed,
        remarks=tuple(filter(None, remarks)),
        diff=unified_diff(problem.buggy, patch) if problem else patch,
        is_diff=problem is not None,
    )
