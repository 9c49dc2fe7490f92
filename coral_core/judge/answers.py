"""Turns what a child wrote into outcomes per case. Runs in the parent only.

One well-formed record per case, in order, and an explicit end: whatever is malformed,
repeated, out of order or too much ends the reading as a crash, and voids the passes
before it. So a patch gains nothing by flooding the channel with guesses. Texts of a child
go no further than `printable` lets them.
"""

import json
import os
import signal
from collections.abc import Sequence
from typing import Any

from coral_core.frozen import Frozen
from coral_core.judge.oracle import agrees
from coral_core.judge.sandbox.parent import Answer
from coral_core.problems.problem import Problem

INTRUDED = "the patch wrote into the judge's channel"


def printable(text: object, most: int) -> str:
    """At most `most` characters of `text`, valid UTF-8 on one line: control characters and lone surrogates are replaced."""
    if not isinstance(text, str):
        return "(no text)"
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:most])


class Raw(Frozen):
    """What running a source against a problem's cases gave, before it is compared with the buggy version."""

    cases: tuple[str, ...]
    lines: int = 0
    trouble: str = ""
    message: str = ""
    backstop: str = ""
    """cpu, wall, starved or killed when something other than counted work ended it: no evidence until repeated alone."""
    stopped_at: int | None = None
    """The case that ran into a limit."""
    form: str = ""
    """Digest of the source's normal form (`sandbox.form`); "" when it has none."""


class _Reader:
    """Reads the lines of one child, which ran the cases of `problem` from `first` on."""

    def __init__(self, problem: Problem, first: int, work_limits: Sequence[int]) -> None:
        self.problem = problem
        self.first = first
        self.count = len(problem.cases) - first
        self.work_limits = work_limits
        self.results: list[str] = []
        self.lines = 0
        self.trouble = self.message = self.backstop = self.form = ""
        self.started = False
        self.finished = False

    def line(self, text: bytes) -> None:
        record = _record(text)
        number = len(self.results)
        first, self.started = not self.started, True
        if record is None or self.finished:
            self.end("crash", INTRUDED)
        elif first and isinstance(record.get("form"), str):
            self.form = record["form"][:64]
        elif "setup" in record:
            self.end(*_setup(self.problem, record))
        elif record == {"done": self.count} and number == self.count:
            self.finished = True
        elif record.get("case") == -1 and type(record.get("case")) is int and "timeout" in record and not number:
            self.end("time-out", "the patch's top level ran into the limit")
        elif type(record.get("case")) is not int or record["case"] != number or number >= self.count:
            self.end("crash", INTRUDED)
        elif "timeout" in record:
            self.out_of_time("work")
        elif type(record.get("lines")) is not int or not 0 <= record["lines"] <= self.work_limits[self.first + number]:
            self.end("crash", INTRUDED)
        else:
            self.results.append(_case(self.problem, self.first + number, record))
            self.lines += record["lines"]

    def end(self, trouble: str, message: str) -> None:
        self.trouble, self.message = trouble, message

    def out_of_time(self, which: str) -> None:
        """The current case ran into a limit."""
        self.end("time-out", f"case {self.first + len(self.results)} ran into the {which} limit")
        self.results += ["time-out"] * (len(self.results) < self.count)

    def no_more(self, answer: Answer) -> None:
        """The child fell silent before its end: why?"""
        if answer.ended in ("asleep", "cpu", "starved"):
            self.backstop = "wall" if answer.ended == "asleep" else answer.ended
            self.out_of_time("wall-clock" if self.backstop == "wall" else "cpu")
        elif answer.ended == "output":
            self.end("crash", "the patch returned more than the judge reads")
        elif os.WIFSIGNALED(answer.status) and os.WTERMSIG(answer.status) in (signal.SIGPROF, signal.SIGXCPU):
            self.backstop = "cpu"
            self.out_of_time("cpu")
        elif os.WIFSIGNALED(answer.status) and os.WTERMSIG(answer.status) == signal.SIGKILL:
            # by the kernel, short of memory, or by our own zygote, after the patch had closed its pipe
            self.backstop = "killed"
            self.end("crash", "the process was killed, or closed the judge's channel")
        else:
            self.end("crash", f"the process ended early (wait status {answer.status})")


def read(problem: Problem, first: int, answer: Answer, work_limits: Sequence[int]) -> Raw:
    """Outcomes of the cases of `problem` from `first` on; those before it are not-run here."""
    reader = _Reader(problem, first, work_limits)
    for text in answer.lines:
        reader.line(text)
        if reader.trouble:
            break
    if not reader.finished and not reader.trouble:
        reader.no_more(answer)
    results = reader.results
    stopped = first + len(results) - 1 if results and results[-1] == "time-out" else None
    if reader.trouble == "crash":
        results = [result if result != "pass" else "not-run" for result in results]
    results = ["not-run"] * first + results + ["not-run"] * (reader.count - len(results))
    return Raw(
        cases=tuple(results),
        lines=reader.lines,
        trouble=reader.trouble,
        message=reader.message,
        backstop=reader.backstop,
        stopped_at=stopped,
        form=reader.form,
    )


def joined(one: Raw, two: Raw) -> Raw:
    """`one`, which stopped at a time-out, and `two`, which ran the cases after it."""
    cases = [b if a == "not-run" else a for a, b in zip(one.cases, two.cases, strict=True)]
    if two.trouble == "crash":
        cases = [case if case != "pass" else "not-run" for case in cases]
        return two.model_copy(update={"cases": tuple(cases)})
    return one.model_copy(update={"cases": tuple(cases), "stopped_at": two.stopped_at, "lines": one.lines + two.lines})


def _setup(problem: Problem, record: dict[str, Any]) -> tuple[str, str]:
    """Trouble and message of a patch whose cases were not reached."""
    why = printable(record.get("why"), 200)
    if record["setup"] == "syntax":
        return "syntax", why
    if record["setup"] == "no-function":
        return "no-function", f"the patch defines no {problem.entry_point} that can be called"
    return "crash", f"running the patch raised {why}"


def _record(text: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError, MemoryError):
        return None
    return record if isinstance(record, dict) else None


def _case(problem: Problem, number: int, record: dict[str, Any]) -> str:
    try:
        if agrees(problem.cases[number], record):
            return "pass"
    except Exception:  # whatever it made of a comparison, it is not the value that was asked for
        return "outside"
    if "exception" in record and record["exception"] != problem.cases[number].exception:
        return f"exception:{printable(record['exception'], 60)}"
    return "outside" if "outside" in record else "wrong"
