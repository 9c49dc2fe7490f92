"""One verdict for each patch, from values that a locked-down child returned.

The child is not trusted: the patch owns its process. A patch that looks for the result pipe finds it (frames, gc, its
own /proc) and can write well-formed records with values, line counts and time-outs of its choice. It gains no more than
by returning those values, because

- expected outcomes never enter the child: it is sent the arguments of the cases only. The reference runs in a child of
  its own, of the same empty zygote. So a patch passes a case only by producing a value that it would have to know;
- a case counts by exactly one well-formed record, in order, with an explicit end (`answers`): guesses, repetitions and
  records of other cases void the passes of the patch;
- values arrive in a closed value language and are compared here (`oracle`): no code, type or ``__eq__`` of the patch
  takes part. Exit code and standard output are ignored;
- a pipe belongs to one child, the zygote never reads it, and children share no memory, descriptor, file or signal: no
  patch reaches the verdict of another.

Executed lines, which the runtime objective divides, are counted in the child: a patch can understate them, up to the
score of the reference. The runtime objective is therefore a report by default; no other objective uses them.

The work limit counts executed lines, so machine load changes no verdict. A patch that disables the count, or works in C,
meets the backstops: CPU time and time asleep (`sandbox.child_clock`). A backstop is evidence only when it is met again by
the patch running alone (`Judge._repeated_alone`).

Patches are isolated from each other. Each text is compiled in its own child. A failure on the way to a verdict counts
against the patch when the reference can be judged in the same place (`Judge._isolated`). `JudgeError` is about this
machine or the problem; no patch can cause it.
"""

from collections.abc import Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Self

from pydantic import Field

from coral_core.config.scoring_config import AfterTimeOut, JudgeConfig, PatchLimits
from coral_core.digest import digest
from coral_core.errors import JudgeError
from coral_core.frozen import Frozen
from coral_core.judge.answers import Outcome, Record, RunResult, join, printable, read, records
from coral_core.judge.oracle import ORACLE_VERSION
from coral_core.judge.sandbox.child_clock import Allowance, Stop, busy
from coral_core.judge.sandbox.parent import START_SECONDS, Answer
from coral_core.judge.sandbox.zygote_pool import CLOSED, Pool, layers_in_use
from coral_core.problems.problem import Problem

__all__ = ["JUDGE_VERSION", "ORACLE_VERSION", "Judge", "Outcome", "PatchLimits", "Verdict"]

JUDGE_VERSION = "7"
LONGEST_PATCH = 200_000
"""Characters."""
MOST_OUTPUT = 1024 * 1024
"""Bytes that are read of a child."""
MOST_ITEMS = 100_000
"""Items in one returned value."""
RECURSION = 1_000
"""Recursion limit of a patch."""
ALONE, ALONE_ON_A_BUSY_MACHINE = 2.0, 4.0
"""Factor on the CPU limits of a patch when it is judged again alone."""
KEPT_RUNS = 10_000
"""Runs of buggy versions that a judge remembers. Every verdict on a patch needs that of its problem's."""
TRIES = 2
"""Tries of a patch that crashes the sandbox where the reference does not."""


class Verdict(Frozen):
    """The judge's result for one patch: `outcome` summarises it, `cases` has one word per case of the problem."""

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
    after_time_out: AfterTimeOut = Field("stop", description="stop: cases after the first time-out were not run.")
    message: str = ""

    @property
    def passed(self) -> bool:
        """There are cases, and every one passes."""
        return bool(self.cases) and all(case == "pass" for case in self.cases)


class Judge(AbstractContextManager["Judge"]):
    r"""Judges patches in parallel, each in a child process of its own. Thread-safe; a context manager.

    Args:
        limits: Limits of a patch; None: the defaults.
        workers: Patches judged at a time, at least 1; changes no verdict.
        allow_missing_layers: Names of base layers of the sandbox (landlock, seccomp) that may be missing on this machine.
        hash_seed: Seed of the hashes of strings in the children. Verdicts are those of 0; problem sources compare others.

    Raises:
        JudgeError: a base layer is missing and not accepted by name.

    Example:
        >>> from coral_core.problems import Case, Problem
        >>> code = "def double(n):\n    return 2 * n"
        >>> cases = [Case(arguments=[n], value=2 * n) for n in (1, 2, 5)]
        >>> buggy = code.replace("2 *", "2 +")
        >>> problem = Problem(problem_id="d", entry_point="double", buggy=buggy, reference=code, cases=cases)
        >>> with Judge(workers=1) as judge:
        ...     found = judge.judge_batch([(problem, code), (problem, buggy), (problem, "double = 1")])
        >>> [(verdict.outcome.value, verdict.now_passing, verdict.still_passing) for verdict in found]
        [('fixed', 2, 1), ('echo', 0, 1), ('no-function', 0, 0)]
    """

    def __init__(
        self,
        limits: PatchLimits | None = None,
        workers: int = 2,
        allow_missing_layers: Sequence[str] = (),
        hash_seed: int = 0,
    ) -> None:
        self.limits = limits or PatchLimits()
        self._pool = Pool(workers, layers_in_use(allow_missing_layers), hash_seed)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="judge")
        self._known: dict[str, RunResult] = {}
        self.closed = False
        self.repeated_alone = 0
        """How many patches met a backstop and were judged again alone."""

    @classmethod
    def configured(cls, config: JudgeConfig) -> Self:
        """The judge that ``scoring.judge`` of a configuration describes.

        Raises:
            JudgeError: as `Judge`.
        """
        return cls(config, config.workers, config.allow_missing_layers)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the zygotes."""
        self.closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.close()

    def kill(self) -> None:
        """Close at once, from any thread: verdicts in progress fail with `JudgeError`."""
        self.close()
        self._pool.kill()

    def judge(self, problem: Problem, patch: str) -> Verdict:
        """The verdict on one patch. Use `judge_batch` for several: it judges them in parallel.

        Args:
            problem: The problem.
            patch: Text of a module that should define the problem's entry point.

        Raises:
            JudgeError: as `judge_batch`.
            ProblemError: as `judge_batch`.
        """
        return self.judge_batch([(problem, patch)])[0]

    def judge_batch(self, patches: Sequence[tuple[Problem, str]], seconds: float | None = None) -> list[Verdict]:
        """A verdict for each (problem, patch), in order; equal ones are judged once.

        Args:
            patches: Pairs of a problem and the text of a module that should define its entry point.
            seconds: Wall-clock limit for all of them together; None: no limit.

        Raises:
            JudgeError: the sandbox failed, or the judge is closed.
            ProblemError: a case of a problem is not in the value language.
            TimeoutError: not all were judged within `seconds`. There is no verdict then, and the judge is closed.
        """
        # one digest per problem: bugs are judged by the hundred, and a problem may hold megabytes of cases
        problems = {id(problem): problem for problem, _ in patches}
        digests = {number: problem.digest() for number, problem in problems.items()}
        keys = [(_key(digests[id(each)], each.buggy), _key(digests[id(each)], patch)) for each, patch in patches]
        needed: dict[str, tuple[Problem, str]] = {}
        for (buggy, key), (problem, patch) in zip(keys, patches, strict=True):
            needed |= {buggy: (problem, problem.buggy), key: (problem, patch)}
        results = dict(self._known)  # another thread may be judging too
        missing = {key: item for key, item in needed.items() if key not in results}
        for problem, patch in missing.values():
            if patch == problem.buggy:  # once per problem, so that its malformed cases are not blamed on patches
                problem.check()
        results.update(zip(missing, self._run_all(list(missing.values()), seconds), strict=True))
        recent = {buggy: results[buggy] for buggy, _ in keys}  # patches of past batches are not kept
        older = [(key, result) for key, result in self._known.items() if key not in recent]
        self._known = dict(older[-KEPT_RUNS:]) | recent
        return [
            self._verdict(problem, results[key], results[buggy])
            for (buggy, key), (problem, _) in zip(keys, patches, strict=True)
        ]

    def observe(self, problem: Problem, source: str, lend_values: bool = False) -> tuple[RunResult, list[Record]]:
        """Run a source on a problem's cases, and return also what it answered: for problem sources, and to show it to people.

        Args:
            problem: The problem.
            source: Text of a module that should define the problem's entry point.
            lend_values: Give the source the module `problems.values` under the name ``coral_values``.

        Returns:
            The result, and the records of the cases up to the first without one: ``value`` or ``exception`` or ``outside``,
            ``mutated``, ``lines``. Records are untrusted data.

        Raises:
            JudgeError: as `judge_batch`.
        """
        answer, result = self._child(problem, source, 0, 1.0, False, lend_values)
        return result, records(answer, len(problem.cases))

    def reference_lines(self, problems: Sequence[Problem], seconds: float | None = None) -> list[int]:
        """Executed lines of each reference over its cases; each runs in a child of its own.

        Args:
            problems: The problems.
            seconds: Wall-clock limit for all of them together; None: no limit.

        Returns:
            One count per problem, in order.

        Raises:
            JudgeError: a reference does not pass its own cases.
            TimeoutError: as `judge_batch`.
        """
        counts = []
        results = self._run_all([(problem, problem.reference) for problem in problems], seconds)
        for problem, result in zip(problems, results, strict=True):
            if any(case != "pass" for case in result.cases):
                raise JudgeError(
                    f"problem {problem.problem_id}: its reference does not pass its own cases ({result.cases})",
                    remedy="Check the problem.",
                )
            counts.append(result.lines)
        return counts

    def active_layers(self) -> tuple[str, ...]:
        """Names of the isolation layers around this judge's children: the base layers and any namespaces."""
        return self._pool.active_layers()

    def _run_all(self, patches: Sequence[tuple[Problem, str]], seconds: float | None) -> list[RunResult]:
        """The result of each patch, in order. On a time-out all children are killed, so that no thread is left behind."""
        try:
            return list(self._threads.map(lambda item: self._isolated(*item), patches, timeout=seconds))
        except TimeoutError:
            self.kill()
            raise
        except (CancelledError, RuntimeError):
            if not self.closed:
                raise
            raise JudgeError(CLOSED) from None

    def _isolated(self, problem: Problem, patch: str) -> RunResult:
        """Run one patch; a failure that it causes in the judge counts against this patch only.

        Raises:
            JudgeError: the reference cannot be judged here either, or the judge was closed.
        """
        reason = ""
        for _ in range(TRIES):
            try:
                return self._run(problem, patch)
            except Exception as error:
                if self.closed:
                    raise
                reason = f"{type(error).__name__}: {error}"
                self._check_reference(problem, error)
        message = f"could not be judged in {TRIES} tries, while the reference could: {reason}"
        return RunResult(
            cases=("not-run",) * len(problem.cases), trouble=Outcome.CRASH, message=printable(message, 400)
        )

    def _check_reference(self, problem: Problem, error: Exception) -> None:
        """Judge the reference where a patch could not be judged. Raises `JudgeError` when it cannot be judged either."""
        try:
            result = self._run(problem, problem.reference)
        except Exception as other:
            raise JudgeError(
                f"problem {problem.problem_id}: neither a patch nor the reference can be judged on this machine: {other}",
                remedy="See `coral doctor`.",
            ) from error
        if any(case != "pass" for case in result.cases):
            raise JudgeError(
                f"problem {problem.problem_id}: a patch could not be judged ({error}), and the reference does not pass its own "
                f"cases here ({result.message or result.cases})",
                remedy="Check the problem.",
            ) from error

    def _run(self, problem: Problem, patch: str) -> RunResult:
        """All cases; with `after_time_out: go-on`, in a new child after each time-out of a case."""
        if len(patch) > LONGEST_PATCH:
            message = f"the patch has {len(patch)} characters, more than {LONGEST_PATCH}"
            return RunResult(cases=("not-run",) * len(problem.cases), trouble=Outcome.SYNTAX, message=message)
        result = self._repeated_alone(problem, patch, 0)
        while (
            self.limits.after_time_out == "go-on"
            and result.stopped_at is not None
            and result.trouble == Outcome.TIME_OUT
        ):
            first = result.stopped_at + 1
            if first == len(problem.cases):
                break
            result = join(result, self._repeated_alone(problem, patch, first))
        return result

    def _repeated_alone(self, problem: Problem, patch: str, first: int) -> RunResult:
        """The cases from `first` on; a run that a backstop ended is repeated with no other child beside it.

        Alone, a patch may use twice its CPU time. If that is not enough on an otherwise idle machine, it has timed out. On a
        machine busy with other work, and where the patch got no CPU at all, it runs once more with four times its CPU time.
        A patch that used up its time in the second run is timed out even if the third one ends: it has used more than twice its
        limit. A patch that reads its limits and ends just before them therefore gains nothing. Time asleep is the patch's own
        choice and does not depend on load.

        Raises:
            JudgeError: the machine gave the patch no CPU in the last run either.
        """
        _, result = self._child(problem, patch, first, 1.0, False)
        if not result.backstop:
            return result
        self.repeated_alone += 1
        answer, twice = self._child(problem, patch, first, ALONE, True)
        if twice.backstop in (None, Stop.ASLEEP, Stop.KILLED):
            return twice
        if twice.backstop == Stop.CPU and not busy(answer.waited, answer.cpu_seconds):
            return twice
        _, result = self._child(problem, patch, first, ALONE_ON_A_BUSY_MACHINE, True)
        if result.backstop == Stop.STARVED:
            raise JudgeError(
                f"problem {problem.problem_id}: a patch got no CPU for {answer.seconds:.0f} s, three times",
                remedy="Judge it on a machine that is less loaded.",
            )
        return twice if twice.backstop == Stop.CPU and not result.backstop else result

    def _child(
        self, problem: Problem, patch: str, first: int, factor: float, alone: bool, lend_values: bool = False
    ) -> tuple[Answer, RunResult]:
        """Run the cases from `first` on in one child, with `factor` times the CPU time."""
        limits, cases = self.limits, problem.cases[first:]
        slow_cpu, top_level = factor * limits.slow.cpu_seconds, factor * limits.cpu_seconds
        cpu = [slow_cpu if case.slow else top_level for case in cases]
        request = {
            "source": patch.removeprefix("\ufeff"),  # Python too ignores the byte order mark of a file
            "setup": problem.setup,
            "lend_values": lend_values,
            "entry_point": problem.entry_point,
            "cases": [
                case.model_dump(include={"arguments", "keywords", "slow", "nodes"})
                | {"mutated": case.mutated is not None}
                for case in cases
            ],
            "limits": {
                "work_lines": limits.work_lines,
                "cpu_seconds": top_level,
                "total_cpu_seconds": int(sum(cpu) + 2 * top_level) + 2,
                "memory_mb": limits.memory_mb,
                "items": MOST_ITEMS,
                "recursion": RECURSION,
                "slow": {"work_lines": limits.slow.work_lines, "cpu_seconds": slow_cpu},
            },
        }
        asleep = limits.wall_seconds + (limits.slow.wall_seconds if any(case.slow for case in cases) else 0.0)
        # CPU limits in order: until ready, compilation, top level and first case, each further case, the end
        allowed = (START_SECONDS, top_level, top_level + cpu[0], *cpu[1:], 1.0)
        answer = self._pool.run(request, Allowance(asleep, allowed), MOST_OUTPUT, alone)
        work = [limits.slow.work_lines if case.slow else limits.work_lines for case in problem.cases]
        return answer, read(problem, first, answer, work)

    def _verdict(self, problem: Problem, result: RunResult, buggy: RunResult) -> Verdict:
        was = [case == "pass" for case in buggy.cases]
        now = [case == "pass" for case in result.cases]
        fixed = sum(n and not w for n, w in zip(now, was, strict=True))
        kept = sum(n and w for n, w in zip(now, was, strict=True))
        return Verdict(
            problem_id=problem.problem_id,
            outcome=_outcome(problem, result, buggy, all(now), kept < sum(was)),
            cases=result.cases,
            was_failing=len(was) - sum(was),
            now_passing=fixed,
            was_passing=sum(was),
            still_passing=kept,
            lines=result.lines if all(now) else None,
            after_time_out=self.limits.after_time_out,
            message=result.message,
        )


def _key(problem: str, patch: str) -> str:
    """Identity of a patch of the problem with this digest."""
    return digest([problem, patch.encode("utf-8", "backslashreplace").decode()])


def _outcome(problem: Problem, result: RunResult, buggy: RunResult, all_pass: bool, lost: bool) -> Outcome:
    if all_pass:
        return Outcome.FIXED
    echo = not problem.retention and result.form and result.form == buggy.form
    if echo and result.trouble not in (Outcome.SYNTAX, Outcome.NO_FUNCTION):
        return Outcome.ECHO
    return result.trouble or (Outcome.REGRESSED if lost else Outcome.PARTIAL)
