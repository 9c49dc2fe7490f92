"""Watches what the budget does to a running evolution: pauses, and shares of a limit that are spent.

The budget itself is enforced where jobs start (`coral_core.ledger`, asked by lanes and executors). Here it is only
observed, so that listeners can show it.
"""

import asyncio
import logging
from typing import Literal

from coral_core.digest import digest
from coral_core.errors import StoreError
from coral_core.evolution.state import Recorder
from coral_core.execution.executor import Executor
from coral_core.ledger import Closure, Ledger, Standing
from coral_core.runs.run_folder import RunFolder

log = logging.getLogger("coral.evolve")

LOOK_SECONDS = 1.0
MARKS: tuple[Literal[80, 100], ...] = (80, 100)
"""Percents of a limit that listeners are notified of."""


async def watch_budget(executor: Executor, ledger: Ledger, recorder: Recorder) -> None:
    """Look every `LOOK_SECONDS` until cancelled; an error is logged once, and the next pause is seen all the same."""
    logged = ""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            closure = await asyncio.to_thread(executor.held)
            recorder.budget_holds(str(closure or ""))
            for mark, standing in await asyncio.to_thread(new_marks, recorder.folder, ledger, closure):
                for listener in recorder.listeners:
                    listener.budget_reached(mark, standing)
        except Exception as error:
            if str(error) != logged:
                log.warning("the budget could not be looked at (%s): %s", type(error).__name__, error)
            logged = str(error)


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
