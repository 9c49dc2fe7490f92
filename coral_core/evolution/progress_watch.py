"""Shows a running evolution to its listeners: its progress, pauses of its budget, and shares of a limit that are spent.

Everything shown is derived from the run's files (`coral_core.runs.progress`). The budget is enforced where jobs start
(`coral_core.ledger`, asked by lanes and executors); here it is only observed.
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
"""The files and the budget are looked at so often when no job ends."""
SHORTEST_SECONDS = 0.2
"""Between two looks, however many jobs end."""
MARKS: tuple[Literal[80, 100], ...] = (80, 100)
"""Percents of a limit that listeners are notified of."""


class ProgressWatch:
    """Notifies the listeners of one session.

    Args:
        folder: The run; its configuration is on disk.
        store: Where results are.
        executor: Says whether the budget holds its jobs.
        listeners: Are notified.
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
        """A job has ended: look soon."""
        self._woken.set()

    def progress(self) -> Progress:
        """Where the run stands now. Reads files."""
        return progress_of(self._reading.refresh(), self._ledger)

    async def run(self) -> None:
        """Look until cancelled. Errors of files are logged once; what a listener raises is raised."""
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
        turned, self._is_paused = self._is_paused != (closure is not None), closure is not None
        if turned:
            log.warning("%s", f"paused: {closure}" if closure else "the budget has room again: going on")
        for listener in self._listeners:
            listener.changed(progress)
            if turned:
                listener.paused(str(closure)) if closure else listener.resumed()
            for mark, standing in marks:
                listener.budget_reached(mark, standing)


def new_marks(folder: RunFolder, ledger: Ledger, closure: Closure | None) -> list[tuple[Literal[80, 100], Standing]]:
    """Marks that the run in `folder` has reached and that were not returned before, also not to an earlier session.

    Args:
        folder: The run.
        ledger: Of its store.
        closure: Why no job starts now; unless it passes by itself, it is the mark of 100 %.
    """
    try:
        if not ledger.budget(folder.run_id).limited:
            return []
        standing = ledger.standing(folder.run_id)
    except StoreError as error:
        log.debug("%s", error)  # the executor holds the work and says why
        return []
    held = closure is not None and not closure.is_passing
    reached = [mark for mark in MARKS if 100 * standing.used >= mark or (mark == 100 and held)]
    return [(mark, standing) for mark in reached if _is_new(folder, mark, standing)]


def _is_new(folder: RunFolder, mark: int, standing: Standing) -> bool:
    """True once per mark, day and limits, also over restarts: a day has a budget of its own, and so has a raised limit."""
    limits = digest(standing.limits.model_dump(mode="json"))[:12]
    told = folder.path / "told" / f"budget-{mark}-{standing.day}-{limits}"
    try:
        told.parent.mkdir(exist_ok=True)
        told.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError as error:  # rather twice than never
        log.debug("%s: %s", told, error)
    return True
