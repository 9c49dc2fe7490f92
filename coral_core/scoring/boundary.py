"""From completion to scored item: the only path by which text of a model enters scoring.

Extraction, the parser, the linters and the judge work on untrusted text in processes of their own (`text_process`,
`judge.sandbox`), and their answers are checked. A text that makes one of them raise, crash, hang or grow affects its own
item only, in bounded time and memory. Scoring fails closed: a text that could not be read scores 0.

Errors raised here are about this machine or a problem: `JudgeError`, and `TimeoutError` when the job's time is over.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coral_core.frozen import Frozen
from coral_core.judge.answers import printable
from coral_core.judge.judge import Judge, Verdict
from coral_core.problems.problem import Problem
from coral_core.prompting.extraction import LONGEST, Extraction
from coral_core.scoring.lint import Findings, findings
from coral_core.scoring.text_process import TextProcess, Unread


class Item(Frozen):
    """One completion for one problem, with everything that its scores are computed from."""

    problem_id: str
    completion: str
    """The text of the model: valid UTF-8, cut to `LONGEST` characters."""
    patch: str
    extraction: str
    verdict: Verdict
    findings: Findings
    remark: str
    """Why a part of it could not be read; "" when all was read."""


@dataclass(frozen=True)
class Items:
    """The items of one evaluation: for each problem, one per completion."""

    groups: tuple[tuple[Item, ...], ...]

    def patches(self) -> tuple[tuple[str, ...], ...]:
        """Per problem, the patch of each sample."""
        return tuple(tuple(item.patch for item in group) for group in self.groups)

    def verdicts(self) -> tuple[tuple[Verdict, ...], ...]:
        """Per problem, the verdict on each sample."""
        return tuple(tuple(item.verdict for item in group) for group in self.groups)

    def findings(self) -> dict[str, Findings]:
        """Findings per patch."""
        return {item.patch: item.findings for group in self.groups for item in group}

    def remarks(self) -> list[str]:
        """A line for each item with a remark: problem, number of the sample, reason."""
        return [
            f"problem {item.problem_id}, patch {number + 1}: {item.remark}"
            for group in self.groups
            for number, item in enumerate(group)
            if item.remark
        ]


def score_completions(
    problems: Sequence[Problem],
    completions: Sequence[Sequence[object]],
    judge: Judge,
    process: TextProcess,
    left: Callable[[], float],
) -> Items:
    """Extract, judge and lint each completion.

    Args:
        problems: The problems of a split.
        completions: For each problem, one completion per sample. Anything but a text counts as an empty one.
        judge: Judges the patches.
        process: Parses and lints completions and patches.
        left: Returns the seconds that are left of the job's time.

    Raises:
        JudgeError: this machine cannot judge or read an ordinary patch, or a problem's reference fails.
        TimeoutError: no time is left; nothing is known then.
    """
    texts = [[_text(completion) for completion in group] for group in completions]
    extracted = [
        [read_completion(text, problem.entry_point, process, time.monotonic() + left()) for text in group]
        for problem, group in zip(problems, texts, strict=True)
    ]
    flat = [(problem, found.patch) for problem, group in zip(problems, extracted, strict=True) for found, _ in group]
    verdicts = iter(judge.judge_batch(flat, left()))
    lint = findings([patch for _, patch in flat], process, left())
    return Items(
        tuple(
            tuple(
                _item(problem, text, found, why, next(verdicts), lint[found.patch])
                for text, (found, why) in zip(group, answers, strict=True)
            )
            for problem, group, answers in zip(problems, texts, extracted, strict=True)
        )
    )


def read_completion(
    completion: object, entry_point: str, process: TextProcess, until: float = math.inf
) -> tuple[Extraction, str]:
    """Extract the patch from a completion, in the text process.

    Args:
        completion: Text of a model; anything but a str counts as an empty text.
        entry_point: The function that the patch should define.
        process: Runs the extraction.
        until: Deadline, in `time.monotonic` seconds.

    Returns:
        The extraction, and why there is no patch when the text could not be read ("" when it could).

    Raises:
        JudgeError: as `TextProcess.ask`.
        TimeoutError: as `TextProcess.ask`.
    """
    request = {"op": "extract", "completion": _text(completion), "entry_point": entry_point}
    answer = process.ask(request, until)
    if isinstance(answer, Unread):
        return Extraction(patch="", how="none"), f"no patch was extracted: {answer.reason}"
    return Extraction.model_validate(answer), ""


def _text(completion: object) -> str:
    return completion[:LONGEST].encode("utf-8", "replace").decode() if isinstance(completion, str) else ""


def _item(problem: Problem, text: str, found: Extraction, why: str, verdict: Verdict, lint: Findings) -> Item:
    closed = lint.unread if lint.compiles else ""  # the verdict reports code that does not compile
    reasons = [why, f"not linted: {closed}" if closed else ""]
    return Item(
        problem_id=problem.problem_id,
        completion=text,
        patch=found.patch,
        extraction=found.how,
        verdict=verdict,
        findings=lint,
        remark=printable("; ".join(reason for reason in reasons if reason), 400),
    )
