"""What accounts say together.

In whole nanoseconds: the order of adding changes nothing, so what was spent never shrinks by a rounding.
"""

from coral_core.ledger.accounts import QUEUES, LaneAccount, Queue

NANO = 1e9


class Sums:
    """Lane seconds by day, evolution and queue, and what jobs took."""

    def __init__(self) -> None:
        self._spent: dict[tuple[str, str, Queue], int] = {}
        self._work: dict[tuple[str, Queue], tuple[int, int]] = {}

    def add(self, account: LaneAccount) -> None:
        for day, runs in account.spent.items():
            for run_id, queues in runs.items():
                for queue, seconds in queues.items():
                    key = (day, run_id, queue)
                    self._spent[key] = self._spent.get(key, 0) + round(seconds * NANO)
        for run_id, done in account.work.items():
            for queue, work in done.items():
                jobs, took = self._work.get((run_id, queue), (0, 0))
                self._work[run_id, queue] = (jobs + work.jobs, took + round(work.seconds * NANO))

    def copy(self) -> "Sums":
        made = Sums()
        made._spent, made._work = dict(self._spent), dict(self._work)
        return made

    def seconds(self, run_id: str | None, day: str | None) -> dict[Queue, float]:
        """Lane seconds of one evolution or all, on one day or all."""
        found = dict.fromkeys(QUEUES, 0)
        for (when, run, queue), taken in self._spent.items():
            if day in (None, when) and run_id in (None, run):
                found[queue] += taken
        return {queue: taken / NANO for queue, taken in found.items()}

    def days(self) -> list[str]:
        return sorted({day for day, _, _ in self._spent})

    def evolutions(self) -> list[str]:
        return sorted({run_id for _, run_id, _ in self._spent})

    def mean(self, queue: Queue, run_id: str) -> float:
        """Seconds that a job of this evolution took, else one of any evolution of this store; 0 before the first."""
        for runs in ((run_id,), None):
            done = [work for (run, kind), work in self._work.items() if kind == queue and (runs is None or run in runs)]
            if jobs := sum(count for count, _ in done):
                return sum(took for _, took in done) / NANO / jobs
        return 0.0
