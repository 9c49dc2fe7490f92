"""The judge: one verdict for each patch, from values that a locked-down child returned.

Answers never enter the child; the parent compares (`oracle`). A case passes only on an
explicit, well-formed record; exit code and output count for nothing. The work limit
counts executed lines, so a loaded machine changes no verdict; CPU time and wall clock
are backstops for code that the count does not see.
"""

import ast
import json
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import Field

from coral_core.config.scoring import SlowLimits
from coral_core.digest import digest
from coral_core.errors import JudgeError
from coral_core.frozen import Frozen
from coral_core.repair.problem import Problem
from coral_core.scoring.oracle import ORACLE_VERSION, agrees
from coral_core.scoring.sandbox.pool import Answer, Pool, layers_in_use

__all__ = ["JUDGE_VERSION", "ORACLE_VERSION", "Judge", "Limits", "Verdict"]

JUDGE_VERSION = "2"
LONGEST_PATCH = 200_000

Outcome = Literal["echo", "no-function", "syntax", "time-out", "crash", "partial", "regressed", "fixed"]


class Limits(Frozen):
    """What a patch may use; `slow` holds the limits of cases that are marked slow."""

    work_lines: int = Field(50_000, ge=1, description="Executed lines per case: the limit that decides.")
    cpu_seconds: float = Field(1.0, gt=0, description="CPU time per case: the backstop for code in C.")
    wall_seconds: float = Field(10.0, gt=0, description="Wall clock per patch: the backstop for sleeping.")
    memory_mb: int = Field(256, ge=64, description="Address space.")
    output_kb: int = Field(1024, ge=16, description="Most that a child may answer.")
    items: int = Field(100_000, ge=1, description="Most items in one returned value.")
    recursion: int = Field(1_000, ge=50, description="Recursion limit.")
    slow: SlowLimits = SlowLimits()


class Verdict(Frozen):
    """What the judge says of a patch."""

    problem_id: str
    outcome: Outcome
    cases: tuple[str, ...] = Field(
        description="Per case: pass, wrong, exception:<name>, outside (a value outside the language), time-out, not-run."
    )
    was_failing: int = Field(description="Cases that the buggy version fails.")
    now_passing: int = Field(description="Of these, how many pass.")
    was_passing: int = Field(description="Cases that the buggy version passes.")
    still_passing: int = Field(description="Of these, how many still pass.")
    lines: int | None = Field(None, description="Executed lines over all cases, when every case passes.")
    message: str = ""

    @property
    def passed(self) -> bool:
        """Every case passes."""
        return all(case == "pass" for case in self.cases)


class _Raw(Frozen):
    """What running a source against a problem's cases gave, before it is compared with the buggy version."""

    cases: tuple[str, ...]
    lines: int
    trouble: str = ""
    message: str = ""


class Judge:
    """Judges patches in parallel; a context manager. Thread-safe."""

    def __init__(
        self, limits: Limits | None = None, workers: int = 2, allow_missing_layers: Sequence[str] = ()
    ) -> None:
        self.limits = limits or Limits()
        self._pool = Pool(workers, layers_in_use(allow_missing_layers))
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="judge")
        self._known: dict[str, _Raw] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the zygotes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.close()

    def judge_batch(self, patches: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """A verdict for each (problem, patch), in order; equal ones are judged once.

        Raises:
            JudgeError: the sandbox failed, or a problem's reference does not pass its own cases.
        """
        wanted: dict[str, tuple[Problem, str]] = {}
        keys = []
        for problem, patch in patches:
            wanted.setdefault(_key(problem, problem.buggy), (problem, problem.buggy))
            key = _key(problem, patch)
            keys.append(key)
            wanted.setdefault(key, (problem, patch))
        missing = {key: item for key, item in wanted.items() if key not in self._known}
        found = self._threads.map(lambda item: self._run(*item), missing.values())
        self._known.update(zip(missing, found, strict=True))
        verdicts = [
            _verdict(problem, patch, self._known[key], self._known[_key(problem, problem.buggy)])
            for key, (problem, patch) in zip(keys, patches, strict=True)
        ]
        buggy = {_key(problem, problem.buggy) for problem, _ in patches}
        self._known = {
            key: raw for key, raw in self._known.items() if key in buggy
        }  # patches of past batches are let go
        return verdicts

    def reference_lines(self, problems: Sequence[Problem]) -> list[int]:
        """Executed lines of each reference over its cases, each in a child of its own.

        Raises:
            JudgeError: a reference does not pass its own cases.
        """
        counts = []
        for problem, raw in zip(
            problems, self._threads.map(lambda p: self._run(p, p.reference), problems), strict=True
        ):
            if any(case != "pass" for case in raw.cases):
                raise JudgeError(
                    f"problem {problem.problem_id}: its reference does not pass its own cases ({raw.cases}). Check the problem."
                )
            counts.append(raw.lines)
        return counts

    def _run(self, problem: Problem, patch: str) -> _Raw:
        none = ("not-run",) * len(problem.cases)
        if len(patch) > LONGEST_PATCH:
            return _Raw(
                cases=none,
                lines=0,
                trouble="syntax",
                message=f"the patch has {len(patch)} characters, more than {LONGEST_PATCH}",
            )
        trouble, message = _static(patch, problem.entry_point)
        if trouble:
            return _Raw(cases=none, lines=0, trouble=trouble, message=message)
        limits = self.limits
        slow = sum(case.slow for case in problem.cases)
        cpu = limits.cpu_seconds * (len(problem.cases) - slow + 1) + limits.slow.cpu_seconds * slow
        request = {
            "source": patch,
            "entry_point": problem.entry_point,
            "cases": [
                {
                    "arguments": list(case.arguments),
                    "mutated": case.mutated is not None,
                    "slow": case.slow,
                    "nodes": list(case.nodes),
                }
                for case in problem.cases
            ],
            "limits": {
                "work_lines": limits.work_lines,
                "cpu_seconds": limits.cpu_seconds,
                "total_cpu_seconds": int(cpu) + 2,
                "memory_mb": limits.memory_mb,
                "items": limits.items,
                "recursion": limits.recursion,
                "slow": {"work_lines": limits.slow.work_lines, "cpu_seconds": limits.slow.cpu_seconds},
            },
        }
        wall = limits.wall_seconds + (limits.slow.wall_seconds if slow else 0.0)
        return _read(problem, self._pool.run(request, wall, limits.output_kb * 1024))


def _key(problem: Problem, patch: str) -> str:
    return digest([problem.digest(), patch.encode("utf-8", "backslashreplace").decode()])


def _static(patch: str, entry_point: str) -> tuple[str, str]:
    """("", "") when the patch parses and binds the entry point; else the trouble and why."""
    try:
        patch.encode()
        tree = ast.parse(patch)
    except UnicodeEncodeError:
        return "syntax", "the patch is not valid UTF-8"
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return "syntax", f"{type(error).__name__}: {error}"[:200]
    names = {getattr(node, "name", None) for node in tree.body}
    names |= {
        t.id for node in ast.walk(tree) if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)
    }
    names |= {
        a.asname or a.name for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)) for a in node.names
    }
    return ("", "") if entry_point in names else ("no-function", f"the patch does not define {entry_point}")


def _read(problem: Problem, answer: Answer) -> _Raw:
    """Turn a child's lines into outcomes per case; whatever is malformed or repeated voids what follows."""
    results: list[str] = []
    lines = 0
    trouble = message = ""
    finished = False
    for text in answer.lines:
        record = _record(text)
        if record is None or finished:
            trouble, message = "crash", "the patch wrote into the judge's channel"
            break
        if "setup" in record:
            trouble = "no-function" if record["setup"] == "no-function" else "crash"
            message = f"running the patch raised {record['setup']}"[:200]
            break
        if record.get("done") == len(problem.cases) and len(results) == len(problem.cases):
            finished = True
            continue
        if record.get("case") == -1 and "timeout" in record:
            trouble, message = "time-out", "the patch's top level ran into the limit"
            break
        if type(record.get("case")) is not int or record["case"] != len(results) or len(results) >= len(problem.cases):
            trouble, message = "crash", "the patch wrote into the judge's channel"
            break
        if "timeout" in record:
            results.append("time-out")
            trouble, message = "time-out", f"case {record['case']} ran into the {record['timeout']} limit"[:200]
            break
        results.append(_case(problem, len(results), record))
        lines += record["lines"] if type(record.get("lines")) is int else 0
    if not finished and not trouble:
        if answer.timed_out:
            trouble, message = "time-out", "the wall-clock limit passed"
            results += ["time-out"] * (len(results) < len(problem.cases))
        elif os.WIFSIGNALED(answer.status) and os.WTERMSIG(answer.status) in (signal.SIGPROF, signal.SIGXCPU):
            trouble, message = "time-out", f"case {len(results)} ran into the cpu limit"
            results += ["time-out"] * (len(results) < len(problem.cases))
        elif answer.overflowed:
            trouble, message = "crash", "the patch returned more than the judge reads"
        else:
            trouble, message = "crash", f"the process ended early (wait status {answer.status})"
    if trouble == "crash":
        results = [result if result != "pass" else "not-run" for result in results]
    results += ["not-run"] * (len(problem.cases) - len(results))
    return _Raw(cases=tuple(results), lines=lines, trouble=trouble, message=message)


def _record(text: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _case(problem: Problem, number: int, record: dict[str, Any]) -> str:
    try:
        if agrees(problem.cases[number], record):
            return "pass"
    except RecursionError:
        return "outside"
    if "exception" in record:
        return f"exception:{str(record['exception'])[:60]}"
    return "outside" if "outside" in record else "wrong"


def _verdict(problem: Problem, patch: str, raw: _Raw, buggy: _Raw) -> Verdict:
    was = [case == "pass" for case in buggy.cases]
    now = [case == "pass" for case in raw.cases]
    fixed = sum(n and not w for n, w in zip(now, was, strict=True))
    kept = sum(n and w for n, w in zip(now, was, strict=True))
    return Verdict(
        problem_id=problem.problem_id,
        outcome=_outcome(problem, patch, raw, all(now), kept < sum(was)),
        cases=raw.cases,
        was_failing=len(was) - sum(was),
        now_passing=fixed,
        was_passing=sum(was),
        still_passing=kept,
        lines=raw.lines if all(now) else None,
        message=raw.message,
    )


def _outcome(problem: Problem, patch: str, raw: _Raw, all_pass: bool, lost: bool) -> Outcome:
    """The failure taxonomy: one word for each patch."""
    if all_pass:
        return "fixed"
    if raw.trouble in ("syntax", "no-function"):
        return "syntax" if raw.trouble == "syntax" else "no-function"
    if not problem.retention and _same_tree(patch, problem.buggy):
        return "echo"
    if raw.trouble == "time-out":
        return "time-out"
    if raw.trouble == "crash":
        return "crash"
    return "regressed" if lost else "partial"


def _same_tree(one: str, two: str) -> bool:
    try:
        return ast.dump(ast.parse(one)) == ast.dump(ast.parse(two))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
