"""Time limits of a child, from the kernel's accounting of its CPU time.

Wall-clock time alone would count a busy machine against a patch. `/proc/PID/schedstat` gives the time a process ran and
the time it waited for a CPU; the remainder is time in which it chose to wait (sleep, a pipe, the disk). `Stop` names the
three limits that follow from these. Where schedstat is missing, all wall-clock time counts as sleep.
"""

import time
from dataclasses import dataclass
from enum import StrEnum

PATIENCE = 10.0
MARGIN_SECONDS = 0.5
"""CPU seconds beyond a case's own limit before the parent ends it: the timer in the child comes first."""


class Stop(StrEnum):
    """The reason why a child was stopped before its end."""

    ASLEEP = "asleep"
    """Time that it chose to wait, per patch; the load of the machine does not change it."""
    CPU = "cpu"
    """CPU time since the last reported case, or all of it together: the timer in the child may have been switched off."""
    STARVED = "starved"
    """Ten times all of that in wall clock: the machine gave it no CPU, which is no evidence about the patch."""
    OUTPUT = "output"
    """It wrote more than is read."""
    KILLED = "killed"
    """SIGKILL, by the kernel (short of memory) or by the zygote after the patch had closed its pipe."""


@dataclass(frozen=True)
class Allowance:
    """Limits of one child, in seconds."""

    asleep: float
    cpu: tuple[float, ...] = ()
    """CPU seconds allowed after 0, 1, ... records; the last entry applies to all later ones."""

    def total(self) -> float:
        """CPU seconds for all records together; the start, before the first one, is the judge's own."""
        return (sum(self.cpu[1:]) or self.cpu[0]) + MARGIN_SECONDS

    def patience(self) -> float:
        """Wall-clock seconds after which a child that gets no CPU is stopped (`Stop.STARVED`)."""
        return PATIENCE * (self.asleep + sum(self.cpu))


class Watch:
    """The clock of one child; it starts on construction.

    Args:
        pid: Process id of the child.
        allowance: Limits of the child, in seconds.
    """

    def __init__(self, pid: int, allowance: Allowance) -> None:
        self._path = f"/proc/{pid}/schedstat"
        self._allowance = allowance
        self._started = time.monotonic()
        self._records = 0
        self._ran_before = 0.0
        self.ended: Stop | None = None
        self.waited: float | None = None
        self._next = self._started + min((allowance.asleep, *allowance.cpu[:2]))

    def seconds_left(self, records: int) -> float:
        """Seconds until the limits must be checked again; 0 when one has been exceeded (see `ended`).

        Args:
            records: Records that have come from the child so far.
        """
        now = time.monotonic()
        if now >= self._next:
            self._check(now, records)
        return 0.0 if self.ended else max(0.005, self._next - now)

    def finish(self) -> None:
        """Read the account a last time, while the child's /proc entry still exists."""
        account = self._account()
        self.waited = account[1] if account else self.waited

    def _check(self, now: float, records: int) -> None:
        ran, waited = self._account() or (0.0, None)
        if waited is not None:
            self.waited = waited
        elapsed = now - self._started
        if records != self._records:  # a record has come: the next case has begun by now
            self._records, self._ran_before = records, ran
        left = {Stop.ASLEEP: self._allowance.asleep - (elapsed - ran - (waited or 0.0))}
        if waited is not None:
            left[Stop.STARVED] = self._allowance.patience() - elapsed
            if limits := self._allowance.cpu:
                own = limits[min(records, len(limits) - 1)] + MARGIN_SECONDS
                left[Stop.CPU] = min(own - (ran - self._ran_before), self._allowance.total() - ran)
        self.ended = next((name for name, seconds in left.items() if seconds <= 0), None)
        self._next = now + max(0.005, min(left.values()))

    def _account(self) -> tuple[float, float] | None:
        """Seconds on a CPU and seconds waiting for one."""
        try:
            with open(self._path, "rb", buffering=0) as file:
                ran, waited, _ = file.read(128).split()
        except (OSError, ValueError):
            return None
        return int(ran) / 1e9, int(waited) / 1e9


def busy(waited: float | None, used: float) -> bool:
    """Was the machine busy with other work while a child ran? True when it is not known.

    Args:
        waited: Seconds that the child waited for a CPU; None: not known.
        used: CPU seconds that it used.

    Example:
        >>> busy(0.01, 2.0), busy(1.0, 2.0), busy(None, 2.0)
        (False, True, True)
    """
    return waited is None or waited > 0.05 + 0.1 * used
