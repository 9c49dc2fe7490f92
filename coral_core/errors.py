"""Errors that a user can act on.

Every error raised on purpose derives from `CoralError` and has two fields: the problem (which value, where it came from,
what is wrong) and the remedy (what to do). No caller has to parse a sentence. Users see a traceback for bugs of CORAL-X
only.
"""


class CoralError(Exception):
    """Root of all errors raised on purpose. Its text is the first line of the problem, the remedy, then the other lines.

    Args:
        problem: The value, where it came from and what is wrong with it; its first line is complete by itself.
        remedy: What to do, as a whole sentence; empty when the problem includes it.

    Attributes:
        exit_code: Exit status of the command line for this error.

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
        key: Path of the key in the configuration, for a caller that knows the line of each key.
        remedy: As in `CoralError`.
    """

    exit_code = 2

    def __init__(self, problem: str, key: tuple[str, ...] = (), *, remedy: str = "") -> None:
        super().__init__(problem, remedy=remedy)
        self.key = key


class ProblemError(CoralError):
    """A problem or problem source cannot be used (missing tests, duplicate name, ...)."""

    exit_code = 2


class TableError(CoralError):
    """A gene table cannot be read, or does not hold what was asked of it."""

    exit_code = 2


class StoreError(CoralError):
    """The store cannot be read or written (full, read-only, unreachable)."""

    exit_code = 3


class EngineError(CoralError):
    """The engine process failed without evidence against the genome; the job may be retried."""

    exit_code = 4


class EngineDiedError(EngineError):
    """The engine process ended by itself in the middle of a request (a signal, the kernel's out-of-memory killer)."""


class EngineTimeOutError(EngineError):
    """A job exceeded its time limit in the engine, in the judge or in the objective of a plug-in, and was ended."""


class EngineMemoryError(EngineError):
    """Memory ran out during a request. It is evidence against the genome only if the job ran alone."""


class BaseChangedError(EngineError):
    """The base model in an engine's memory differs from what was loaded; results of this engine are not valid."""


class AdapterError(EngineError):
    """An adapter does not load exactly: a wrong shape or name, a value that is no number, or an unknown option."""


class BaseModelError(CoralError):
    """The base model cannot be found or loaded."""

    exit_code = 2


class BudgetClosedError(CoralError):
    """The budget allows no more work, and the caller does not wait for it to open again."""

    exit_code = 7


class JudgeError(CoralError):
    """The judge could not reach a verdict; this says nothing about the patch."""

    exit_code = 5


class Infeasible(CoralError):  # noqa: N818 (a finding about a genome, not a fault)
    """A genome cannot be trained or evaluated, and the cause is the genome itself (NaN, out of memory, missing module).

    Args:
        reason: One of `coral_core.jobs.jobs.InfeasibleReason`.
        problem: As in `CoralError`.
    """

    def __init__(self, reason: str, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason
