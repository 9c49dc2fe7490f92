"""From completion to scored item: the only path by which text of a model enters scoring.

Extraction, the parser, the linters and the judge work on untrusted text in processes of their own (`text_process`,
`judge.sandbox`), and their answers are checked. A text that makes one of them raise, crash, hang or grow affects its own
item only, in bounded time and memory. Scoring fails closed: a text that could not be read scores 0.

Errors raised here are about this machine or a problem: `JudgeError`, and `TimeoutError` when the job's time is over.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from coral_core.frozen import Frozen
from coral_core.judge.answers import printable
from coral_core.judge.judge import Judge, Verdict
from coral_core.problems.problem import Problem
from coral_core.prompting.extraction import LONGEST, Extraction
from coral_core.scoring.lint import Findings, findings_without_style, with_style
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


@dataclass(frozen=True)
class _Read:
    """A completion that was extracted and judged."""

    text: str
    found: Extraction
    why: str
    """Why there is no patch when the text could not be read."""
    verdict: Verdict


class CompletionScorer:
    """Extracts, judges and lints the completions of one evaluation, in portions as they come.

    The items depend on the completions alone, not on the order or the size of the portions. Not thread-safe.

    Args:
        problems: The problems of a split.
        judge: Judges the patches.
        process: Parses and lints completions and patches; used by this scorer alone until `items` has returned.
        left: Returns the seconds that are left of the job's time.
    """

    def __init__(
        self, problems: Sequence[Problem], judge: Judge, process: TextProcess, left: Callable[[], float]
    ) -> None:
        self._problems = problems
        self._judge = judge
        self._process = process
        self._left = left
        self._read: dict[int, list[_Read]] = {}
        self._facts: dict[str, Findings] = {}

    def add(self, portion: Mapping[int, Sequence[object]]) -> None:
        """Extract, judge and lint completions, all but for style, which `items` looks at.

        Args:
            portion: Number of a problem -> its completions, one per sample. Anything but a text counts as an empty one.

        Raises:
            JudgeError: this machine cannot judge or read an ordinary patch, or a problem's reference fails.
            TimeoutError: no time is left; nothing is known then.
        """
        texts = [(number, _text(completion)) for number, group in portion.items() for completion in group]
        extracted = [
            read_completion(text, self._problems[number], self._process, self._until()) for number, text in texts
        ]
        patches = [
            (self._problems[number], found.patch) for (number, _), (found, _) in zip(texts, extracted, strict=True)
        ]
        verdicts = self._judge.judge_batch(patches, self._left())
        self._read |= {number: [] for number in portion}
        for (number, text), (found, why), verdict in zip(texts, extracted, verdicts, strict=True):
            self._read[number].append(_Read(text, found, why, verdict))
            if found.patch not in self._facts:
                self._facts[found.patch] = findings_without_style(found.patch, self._process, self._until())

    def items(self) -> Items:
        """The items of all problems; each must have been added once.

        Raises:
            JudgeError: as `add`.
            TimeoutError: as `add`.
        """
        patches = [read.found.patch for number in range(len(self._problems)) for read in self._read[number]]
        lint = with_style({patch: self._facts[patch] for patch in patches}, self._process, self._until())
        return Items(
            tuple(
                tuple(_item(problem, read, lint[read.found.patch]) for read in self._read[number])
                for number, problem in enumerate(self._problems)
            )
        )

    def _until(self) -> float:
        return time.monotonic() + self._left()


def read_completion(
    completion: object, problem: Problem, process: TextProcess, until: float = math.inf
) -> tuple[Extraction, str]:
    """Extract the patch from a completion, in the text process.

    Args:
        completion: Text of a model; anything but a str counts as an empty text.
        problem: The problem that it answers; gives the function to define, and the code that need not be repeated.
        process: Runs the extraction.
        until: Deadline, in `time.monotonic` seconds.

    Returns:
        The extraction, and why there is no patch when the text could not be read ("" when it could).

    Raises:
        JudgeError: as `TextProcess.ask`.
        TimeoutError: as `TextProcess.ask`.
    """
    request = {"op": "extract", "completion": _text(completion)}
    request |= {"entry_point": problem.entry_point, "setup": problem.setup}
    answer = process.ask(request, until)
    if isinstance(answer, Unread):
        return Extraction(patch="", how="none"), f"no patch was extracted: {answer.reason}"
    return Extraction.model_validate(answer), ""


def _text(completion: object) -> str:
    return completion[:LONGEST].encode("utf-8", "replace").decode() if isinstance(completion, str) else ""


def _item(problem: Problem, read: _Read, lint: Findings) -> Item:
    closed = lint.unread if lint.compiles else ""  # the verdict reports code that does not compile
    reasons = [read.why, f"not linted: {closed}" if closed else ""]
    return Item(
        problem_id=problem.problem_id,
        completion=read.text,
        patch=read.found.patch,
        extraction=read.found.how,
        verdict=read.verdict,
        findings=lint,
        remark=printable("; ".join(reason for reason in reasons if reason), 400),
    )
