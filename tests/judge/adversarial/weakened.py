"""Judges with one wall missing each: an attack must get through one of these before its failure elsewhere says anything.

Test-only. `fooled(weak, problem, patch)` is True when the weakened judge passes the patch
(or, for `Endless`, when it does not come back).
"""

import json
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from coral_core.judge import judge as judge_module
from coral_core.judge.answers import RunResult, _record
from coral_core.judge.judge import Judge, PatchLimits
from coral_core.judge.oracle import agrees
from coral_core.judge.sandbox.parent import Answer
from coral_core.judge.sandbox.zygote_pool import Pool
from coral_core.problems.problem import Problem
from coral_core.problems.values import decode

LIMITS = PatchLimits(cpu_seconds=0.5, wall_seconds=1.0, work_lines=40_000)
SECONDS = 20.0

NAIVE = """\
# A judge as it is often written: patch, answers and comparison in one process.
import sys
CASES = {cases!r}
ENTRY = {entry!r}
source = {patch!r}
exec(source, space := {{"__name__": "patch"}})
function = space[ENTRY]
passed = []
for arguments, expected in CASES:
    value = function(*arguments)
    if hasattr(type(value), "__next__"):
        value = list(value)
    passed.append({compare})
{end}
"""
EQUAL = "value == expected"
ISINSTANCE = "isinstance(value, type(expected)) and value == expected"
BY_EXIT = "assert all(passed)"
BY_OUTPUT = "print('PASS' if all(passed) else 'FAIL')"


class Naive:
    """`python script.py` with the answers inside; believes the exit code or the output."""

    def __init__(self, end: str = BY_EXIT, compare: str = EQUAL, seconds: float = SECONDS) -> None:
        self.end, self.compare, self.seconds = end, compare, seconds

    def fooled(self, problem: Problem, patch: str) -> bool:
        cases = [([decode(a) for a in case.arguments], decode(case.value)) for case in problem.cases]
        script = NAIVE.format(cases=cases, entry=problem.entry_point, patch=patch, compare=self.compare, end=self.end)
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={"ANSWERS": json.dumps([answer for _, answer in cases]), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            timeout=self.seconds,
            check=False,
        )
        return b"PASS" in done.stdout if self.end == BY_OUTPUT else done.returncode == 0


class Endless(Naive):
    """The naive judge without a time limit; two seconds stand for ever."""

    def __init__(self) -> None:
        super().__init__(seconds=2.0)

    def fooled(self, problem: Problem, patch: str) -> bool:
        try:
            super().fooled(problem, patch)
        except subprocess.TimeoutExpired:
            return True
        return False


class Uncontained:
    """The real judge without Landlock, seccomp and namespaces."""

    def fooled(self, problem: Problem, patch: str) -> bool:
        with Judge(LIMITS, workers=1) as judge:
            judge._pool.close()
            judge._pool = Pool(1, ())
            return judge.judge_batch([(problem, patch)])[0].passed


class Uncapped:
    """The real judge, reading as much as a child writes."""

    def fooled(self, problem: Problem, patch: str) -> bool:
        real, judge_module.MOST_OUTPUT = judge_module.MOST_OUTPUT, 100_000 * 1024
        try:
            with Judge(LIMITS, workers=1) as judge:
                return judge.judge_batch([(problem, patch)])[0].passed
        finally:
            judge_module.MOST_OUTPUT = real


class _Reading(ABC):
    """The real sandbox, with another rule of reading in the parent."""

    def read(self, problem: Problem, first: int, answer: Answer, work_limits: Sequence[int]) -> RunResult:
        records = [record for text in answer.lines if (record := _record(text))]
        passed = [self.passes(problem, number, records) for number in range(len(problem.cases))]
        return RunResult(cases=tuple("pass" if ok else "wrong" for ok in passed))

    @abstractmethod
    def passes(self, problem: Problem, number: int, records: list[dict[str, Any]]) -> bool:
        """Whether `records` let case `number` pass."""

    def fooled(self, problem: Problem, patch: str) -> bool:
        real, judge_module.read = judge_module.read, self.read
        try:
            with Judge(LIMITS, workers=1) as judge:
                return judge.judge_batch([(problem, patch)])[0].passed
        finally:
            judge_module.read = real


class AnyRecord(_Reading):
    """Takes any record of a case that fits, in any order, however many there are."""

    def passes(self, problem: Problem, number: int, records: list[dict[str, Any]]) -> bool:
        return any(record.get("case") == number and agrees(problem.cases[number], record) for record in records)


class TrustsTheChild(_Reading):
    """Lets the child say whether a case has passed, as judges do that compare in the patch's process."""

    def passes(self, problem: Problem, number: int, records: list[dict[str, Any]]) -> bool:
        return any(record.get("case") == number and record.get("pass") is True for record in records)


class Together:
    """One process for all patches, one after another: what one leaves behind, the next one finds."""

    def fooled(self, problem: Problem, patch: str) -> bool:
        cases = [([decode(a) for a in case.arguments], decode(case.value)) for case in problem.cases]
        script = "\n".join(
            [
                "results, sources, spaces = {}, {}, {}",
                f"CASES = {[arguments for arguments, _ in cases]!r}",
                "def judge(name, source, space):",
                "    sources[name] = source",
                "    spaces[name] = space",
                "    exec(source, space)",
                f"    results[name] = [space[{problem.entry_point!r}](*arguments) for arguments in CASES]",
                f"judge('a right patch', {problem.reference!r}, {{'__name__': 'first'}})",
                f"judge('the attack', {patch!r}, {{'__name__': 'second'}})",
                "print(__import__('json').dumps(results['the attack']))",
            ]
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=SECONDS, check=False)
        try:
            return bool(json.loads(done.stdout.splitlines()[-1]) == [answer for _, answer in cases])
        except (ValueError, IndexError):
            return False


JUDGES: dict[str, Any] = {
    "uncontained": Uncontained(),
    "exit code": Naive(),
    "output": Naive(end=BY_OUTPUT),
    "equality": Naive(),
    "isinstance": Naive(compare=ISINSTANCE),
    "unlimited": Naive(),
    "uncapped": Uncapped(),
    "endless": Endless(),
    "any record": AnyRecord(),
    "trusts the child": TrustsTheChild(),
    "together": Together(),
}
