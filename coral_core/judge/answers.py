"""Turns the output of a child into an outcome per case. Runs in the parent only.

A child writes one well-formed record per case, in order, and an explicit end. A line that is malformed, repeated, out of
order or too long ends the reading as a crash and voids the passes before it, so a patch gains nothing by flooding the
channel with guesses. Text of a child is kept only as far as `printable` allows.
"""

import json
import os
import signal
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from coral_core.frozen import Frozen
from coral_core.judge.oracle import agrees
from coral_core.judge.sandbox.child_clock import Stop
from coral_core.judge.sandbox.parent import Answer
from coral_core.problems.problem import Case, Problem

Record = dict[str, Any]
"""What a child wrote about one case."""
INTRUDED = "the patch wrote into the judge's channel"


class Outcome(StrEnum):
    """The failure taxonomy: one word per patch."""

    ECHO = "echo"
    """The buggy code came back unchanged (in normal form)."""
    NO_FUNCTION = "no-function"
    """The entry point is not defined, or cannot be called."""
    SYNTAX = "syntax"
    """It does not compile."""
    TIME_OUT = "time-out"
    """A case ran into a limit of work or time."""
    CRASH = "crash"
    """Its top level raised, its process ended early, or its answer was malformed."""
    PARTIAL = "partial"
    """Some cases still fail."""
    REGRESSED = "regressed"
    """A case that passed with the buggy code fails now."""
    FIXED = "fixed"
    """Every case passes."""


def printable(text: object, most: int) -> str:
    r"""Make untrusted text safe to print: valid UTF-8, on one line, without control characters.

    Args:
        text: The text; anything but a str gives "(no text)".
        most: Characters that are kept.

    Returns:
        The text, with each control character and lone surrogate replaced by U+FFFD.

    Example:
        >>> printable("a\tb\n", 3).replace("\ufffd", "?")
        'a?b'
    """
    if not isinstance(text, str):
        return "(no text)"
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:most])


class RunResult(Frozen):
    """The result of running a source on a problem's cases, before it is compared with the buggy version."""

    cases: tuple[str, ...]
    lines: int = 0
    trouble: Outcome | None = None
    """Outcome that ended the run early; None: all cases were run."""
    message: str = ""
    backstop: Stop | None = None
    """Set when something other than counted work ended the run: no evidence until it is repeated alone."""
    stopped_at: int | None = None
    """The case that ran into a limit."""
    form: str = ""
    """Digest of the source's normal form (`sandbox.source_form`); "" when it has none."""


class _Reader:
    """Reads the lines of one child, which ran the cases of `problem` from `first` on."""

    def __init__(self, problem: Problem, first: int, work_limits: Sequence[int]) -> None:
        self.problem, self.first = problem, first
        self.cases, self.work_limits = problem.cases[first:], work_limits[first:]
        self.results: list[str] = []
        self.lines = 0
        self.form: str | None = None
        self.finished = False
        self.trouble: Outcome | None = None
        self.message = ""
        self.backstop: Stop | None = None

    def line(self, text: bytes) -> None:
        """Process one line of output."""
        record, number = _record(text), len(self.results)
        case, lines = record.get("case"), record.get("lines")
        if self.finished:
            self.end(Outcome.CRASH, INTRUDED)
        elif self.form is None and isinstance(record.get("form"), str):
            self.form = record["form"][:64]
        elif "setup" in record:
            self.end(*_setup(self.problem, record))
        elif record == {"done": len(self.cases)} and number == len(self.cases):
            self.finished = True
        elif type(case) is int and case == -1 and "timeout" in record and not number:
            self.end(Outcome.TIME_OUT, "the patch's top level ran into the limit")
        elif type(case) is not int or case != number or number >= len(self.cases):
            self.end(Outcome.CRASH, INTRUDED)
        elif "timeout" in record:
            self.out_of_time("work")
        elif type(lines) is not int or not 0 <= lines <= self.work_limits[number]:
            self.end(Outcome.CRASH, INTRUDED)
        else:
            self.results.append(_case(self.cases[number], record))
            self.lines += lines

    def end(self, trouble: Outcome, message: str) -> None:
        """Stop reading."""
        self.trouble, self.message = trouble, message

    def out_of_time(self, which: str) -> None:
        """The current case ran into a limit."""
        self.end(Outcome.TIME_OUT, f"case {self.first + len(self.results)} ran into the {which} limit")
        self.results += [Outcome.TIME_OUT.value] * (len(self.results) < len(self.cases))

    def end_of_output(self, answer: Answer) -> None:
        """Find out why the child ended before its last record."""
        signalled = os.WTERMSIG(answer.status) if os.WIFSIGNALED(answer.status) else 0
        if answer.ended == Stop.OUTPUT:
            self.end(Outcome.CRASH, "the patch returned more than the judge reads")
        elif answer.ended is not None:
            self.backstop = answer.ended
            self.out_of_time("wall-clock" if answer.ended == Stop.ASLEEP else "cpu")
        elif signalled in (signal.SIGPROF, signal.SIGXCPU):
            self.backstop = Stop.CPU
            self.out_of_time("cpu")
        elif signalled == signal.SIGKILL:
            # by the kernel when memory ran out, or by the zygote after the patch closed its pipe
            self.backstop = Stop.KILLED
            self.end(Outcome.CRASH, "the process was killed, or closed the judge's channel")
        else:
            self.end(Outcome.CRASH, f"the process ended early (wait status {answer.status})")


def read(problem: Problem, first: int, answer: Answer, work_limits: Sequence[int]) -> RunResult:
    """The outcome of each case of a problem, from the output of one child.

    Args:
        problem: The problem.
        first: Index of the first case that the child ran.
        answer: Output of the child and how it ended.
        work_limits: Executed lines allowed, per case of the problem.

    Returns:
        The result; cases before `first`, and those that were not reached, are not-run.
    """
    reader = _Reader(problem, first, work_limits)
    for text in answer.lines:
        reader.line(text)
        if reader.trouble:
            break
    if not reader.finished and not reader.trouble:
        reader.end_of_output(answer)
    results = reader.results
    stopped = first + len(results) - 1 if results and results[-1] == Outcome.TIME_OUT else None
    if reader.trouble == Outcome.CRASH:
        results = _without_passes(results)
    results = ["not-run"] * first + results + ["not-run"] * (len(reader.cases) - len(results))
    return RunResult(
        cases=tuple(results),
        lines=reader.lines,
        trouble=reader.trouble,
        message=reader.message,
        backstop=reader.backstop,
        stopped_at=stopped,
        form=reader.form or "",
    )


def records(answer: Answer, count: int) -> list[Record]:
    """The records of the first cases that a child wrote, up to the first that is missing or out of order.

    Args:
        answer: Output of the child.
        count: Number of cases that it was given.
    """
    found: list[Record] = []
    for record in map(_record, answer.lines):
        number = record.get("case")
        if type(number) is int and number == len(found) < count and "timeout" not in record:
            found.append(record)
    return found


def join(one: RunResult, two: RunResult) -> RunResult:
    """Join the results of two children that shared the cases of a problem.

    Args:
        one: Result of the first child, which stopped at a time-out.
        two: Result of the second child, which ran the cases after it.

    Returns:
        The outcome of each case. A crash of the second child voids all passes.
    """
    cases = [b if a == "not-run" else a for a, b in zip(one.cases, two.cases, strict=True)]
    if two.trouble == Outcome.CRASH:
        return two.model_copy(update={"cases": tuple(_without_passes(cases))})
    return one.model_copy(update={"cases": tuple(cases), "stopped_at": two.stopped_at, "lines": one.lines + two.lines})


def _without_passes(cases: Sequence[str]) -> list[str]:
    return [case if case != "pass" else "not-run" for case in cases]


def _setup(problem: Problem, record: dict[str, Any]) -> tuple[Outcome, str]:
    """Outcome and message of a patch whose cases were not reached."""
    why = printable(record.get("why"), 200)
    if record["setup"] == "syntax":
        return Outcome.SYNTAX, why
    if record["setup"] == "no-function":
        return Outcome.NO_FUNCTION, f"the patch defines no {problem.entry_point} that can be called"
    return Outcome.CRASH, f"running the patch raised {why}"


def _record(text: bytes) -> Record:
    """The record in a line; an empty one when there is none."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError, MemoryError):
        return {}
    return record if isinstance(record, dict) else {}


def _case(case: Case, record: dict[str, Any]) -> str:
    try:
        if agrees(case, record):
            return "pass"
    except Exception:  # a value that cannot be compared is not the expected one
        return "outside"
    if "exception" in record and record["exception"] != case.exception:
        return f"exception:{printable(record['exception'], 60)}"
    return "outside" if "outside" in record else "wrong"
