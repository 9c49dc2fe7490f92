"""The inline executor: jobs run in this process, one at a time, for a debugger."""

from coral_core.config import InfraConfig
from coral_core.execution.local import LocalExecutor
from coral_core.lanes.lane import Lane
from coral_core.ledger import Ledger
from coral_core.lm.engine_client import InlineEngine
from coral_core.store.store import Store

NO_LIMIT = 1e9
"""Seconds that stand for no limit."""


class InlineExecutor(LocalExecutor):
    """One lane whose engine runs in this process.

    Failed jobs are not retried and time limits are not enforced, since a debugger may stop a job for any time. The lane is a
    thread, so that an evolution whose budget is closed still notices a cancel; `breakpoint()` works in it.

    Args:
        infra: Settings of the executor; lanes, attempts and time limits are ignored.
        store: Where results go.
        run_id: As for `LocalExecutor`.
        ledger: As for `LocalExecutor`.
    """

    def __init__(self, infra: InfraConfig, store: Store, run_id: str = "", ledger: Ledger | None = None) -> None:
        super().__init__(infra, store, run_id, ledger)
        self._limit = self._attempts = 1
        self._linger = NO_LIMIT
        self._seconds = dict.fromkeys(self._seconds, NO_LIMIT)
        self._allowed = dict.fromkeys(self._seconds, 0.0)  # without time limits the ledger cannot forecast a job

    def _make_lane(self) -> Lane:
        return Lane(self._store, InlineEngine())
