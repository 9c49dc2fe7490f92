"""Notifies listeners of the progress of a running evolution, of pauses by the budget, and of spent shares of a limit.

Progress is derived from the run's files (`coral_core.runs.progress`). Lanes and executors enforce the budget through
`coral_core.ledger`; this module only observes it.
"""

import asyncio
import contextlib
import logging
from typing import Literal

from coral_core.digest import digest
from coral_core.errors import StoreError
from coral_core.evolution.listener import Listener
from coral_core.execution.executor import Executor
from coral_core.ledger import Closure, Ledger, Standing
from coral_core.runs.progress import Progress, progress_of
from coral_core.runs.run_folder import RunFolder
from coral_core.runs.run_reader import RunReading
from coral_core.store.store import Store

log = logging.getLogger("coral.evolve")

LOOK_SECONDS = 1.0
"""Longest time between two readings of the files and the budget."""
SHORTEST_SECONDS = 0.2
"""Shortest time between two readings, however many jobs end."""
MARKS: tuple[Literal[80, 100], ...] = (80, 100)
"""Percents of a limit that listeners are notified of."""


class ProgressWatch:
    """Notifies the listeners of one session.

    Args:
        folder: Folder of the run; it must hold the frozen configuration.
        store: Where results are.
        executor: Executor of the run; it tells whether the budget holds its jobs.
        listeners: Objects to notify.
    """

    def __init__(self, folder: RunFolder, store: Store, executor: Executor, listeners: list[Listener]) -> None:
        self._folder = folder
        self._executor = executor
        self._listeners = listeners
        self._reading = RunReading(folder, store)
        self._ledger = Ledger(store)
        self._woken = asyncio.Event()
        self._is_paused = False
        self._logged = ""

    def wake(self) -> None:
        """Read again soon, because a job has ended."""
        self._woken.set()

    def progress(self) -> Progress:
        """Progress of the run now. Reads files, so it may block."""
        return progress_of(self._reading.refresh(), self._ledger)

    async def run(self) -> None:
        """Read files and notify listeners until cancelled.

        An error of reading is logged, once while it stays the same. An error of a listener is raised.
        """
        while True:
            try:
                progress = await asyncio.to_thread(self.progress)
                closure = await asyncio.to_thread(self._executor.held)
                marks = await asyncio.to_thread(new_marks, self._folder, self._ledger, closure)
            except Exception as error:
                if str(error) != self._logged:
                    log.warning("the progress could not be looked at (%s): %s", type(error).__name__, error)
                self._logged = str(error)
            else:
                self._notify(progress, closure, marks)
            await asyncio.sleep(SHORTEST_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS - SHORTEST_SECONDS):
                    await self._woken.wait()
            self._woken.clear()

    def _notify(
        self, progress: Progress, closure: Closure | None, marks: list[tuple[Literal[80, 100], Standing]]
    ) -> None:
        switched, self._is_paused = self._is_paused != (closure is not None), closure is not None
        if switched:
            log.warning("%s", f"paused: {closure}" if closure else "the budget has room again: going on")
        for listener in self._listeners:
            listener.changed(progress)
            if switched:
                listener.paused(str(closure)) if closure else listener.resumed()
            for mark, standing in marks:
                listener.budget_reached(mark, standing)


def new_marks(folder: RunFolder, ledger: Ledger, closure: Closure | None) -> list[tuple[Literal[80, 100], Standing]]:
    """Marks (percents of a limit) that a run has newly reached; each is returned once, also over restarts.

    Args:
        folder: Folder of the run; returned marks are noted in its subfolder ``told``.
        ledger: Ledger of its store.
        closure: Why no job starts now, or None; a closure that does not pass by itself counts as 100 %.

    Returns:
        Pairs of a mark and the standing of the budget; empty without limits or when the ledger cannot be read.
    """
    try:
        if not ledger.budget(folder.run_id).limited:
            return []
        standing = ledger.standing(folder.run_id)
    except StoreError as error:
        log.debug("%s", error)  # the executor holds its jobs and reports the reason
        return []
    held = closure is not None and not closure.is_passing
    reached = [mark for mark in MARKS if 100 * standing.used >= mark or (mark == 100 and held)]
    return [(mark, standing) for mark in reached if _is_new(folder, mark, standing)]


def _is_new(folder: RunFolder, mark: int, standing: Standing) -> bool:
    """True once per mark, day and limits, also over restarts: each day and each raised limit begins a new budget."""
    limits = digest(standing.limits.model_dump(mode="json"))[:12]
    marker = folder.path / "told" / f"budget-{mark}-{standing.day}-{limits}"
    try:
        marker.parent.mkdir(exist_ok=True)
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError as error:  # better to notify twice than never
        log.debug("%s: %s", marker, error)
    return True
