"""Errors that a person can act on.

Every error raised on purpose derives from `CoralError`. Its first line names the
value, where it came from and what to do; the traceback is for bugs of ours only.
"""


class CoralError(Exception):
    """Root of all errors raised on purpose. `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(CoralError):
    """The configuration is wrong: nothing was started and nothing was spent.

    Args:
        message: Names the key and the value, and what to do.
        key: Where it stands in the configuration, for a reader who knows the file's lines.
    """

    exit_code = 2

    def __init__(self, message: str, key: tuple[str, ...] = ()) -> None:
        super().__init__(message)
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

    `reason` is one of the stable words in `coral_core.jobs.InfeasibleReason`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
