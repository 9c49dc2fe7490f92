"""Errors that a person can act on.

Every error raised on purpose derives from `CoralError` and says two things: the problem (which value, where it came
from, what is wrong) and the remedy (what to do). Both are fields, so that no caller takes a sentence apart. A traceback
is for bugs of ours only.
"""


class CoralError(Exception):
    """Root of all errors raised on purpose. Its text is the first line of the problem, the remedy, and what follows.

    Args:
        problem: The value, where it came from and what is wrong with it; its first line stands alone.
        remedy: What to do, as a whole sentence; empty where the problem says it.

    Attributes:
        exit_code: What the command line returns.

    Example:
        >>> error = CoralError("rank: 0 (c.yaml:3): not positive", remedy="Give a number from 1 to 256.")
        >>> str(error)
        'rank: 0 (c.yaml:3): not positive. Give a number from 1 to 256.'
        >>> error.remedy
        'Give a number from 1 to 256.'
    """

    exit_code = 1

    def __init__(self, problem: str = "", *, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        first, line_end, rest = self.problem.partition("\n")
        return f"{first.rstrip('.')}. {self.remedy}{line_end}{rest}" if self.remedy else self.problem


class ConfigError(CoralError):
    """The configuration is wrong: nothing was started and nothing was spent.

    Args:
        problem: As in `CoralError`; names the key and the value.
        key: Where it stands in the configuration, for a reader who knows the file's lines.
    """

    exit_code = 2

    def __init__(self, problem: str, key: tuple[str, ...] = (), *, remedy: str = "") -> None:
        super().__init__(problem, remedy=remedy)
        self.key = key


class ProblemError(CoralError):
    """A problem or problem source cannot be used (missing tests, duplicate name, ...)."""

    exit_code = 2


class StoreError(CoralError):
    """The store cannot be read or written (full, read-only, unreachable)."""

    exit_code = 3


class EngineError(CoralError):
    """The engine process failed for a reason that is not the genome's fault; the job may be retried."""

    exit_code = 4


class EngineDiedError(EngineError):
    """The engine process ended by itself in the middle of a request (a signal, the kernel's out-of-memory killer)."""


class EngineTimeOutError(EngineError):
    """A job took longer than its time limit: its request to the engine, its patches in the judge or the objective of a
    plug-in. Whatever took so long was ended."""


class EngineMemoryError(EngineError):
    """Memory ran out during a request. Whose fault that is, a run with nothing beside it tells."""


class BaseChangedError(EngineError):
    """The base model in an engine's memory is not what was loaded: what this engine computed counts for nothing."""


class AdapterError(EngineError):
    """An adapter does not load exactly: another shape, another name, a value that is no number, an option not known here."""


class BaseModelError(CoralError):
    """The base model cannot be found or loaded."""

    exit_code = 2


class BudgetClosedError(CoralError):
    """The budget allows no more work, and nobody waits for it to open again."""

    exit_code = 7


class JudgeError(CoralError):
    """The judge could not reach a verdict; this says nothing about the patch."""

    exit_code = 5


class Infeasible(CoralError):  # noqa: N818 (a finding about a genome, not a fault)
    """A genome cannot be trained or evaluated on evidence of its own (NaN, out of memory, absent module).

    `reason` is one of the stable words in `coral_core.jobs.jobs.InfeasibleReason`.
    """

    def __init__(self, reason: str, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason
