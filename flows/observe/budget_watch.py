"""Shows that the budget holds an evolution, and goes on by itself: terminal, Prefect state, artifacts, events.

The budget itself is kept where jobs start (`coral_core.ledger`, asked by lanes and executors); here is only what people
see of it. While it holds, the flow run is in a state called Paused of type Running: it keeps its place in the
deployment's concurrency limit, so that the next scheduled evolution does not start beside it.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from prefect.states import Running

from coral_core.digest import digest
from coral_core.errors import StoreError
from coral_core.ledger import Closure, Ledger, Standing
from coral_core.runs.run_folder import RunFolder
from flows.observe import events
from flows.prefect_api.prefect_client import async_client
from flows.session import Session

log = logging.getLogger("coral.evolve")

LOOK_SECONDS = 1.0
MARKS = (80, 100)


@contextlib.asynccontextmanager
async def watched(session: Session, flow_run_id: str) -> AsyncIterator[None]:
    """Shows what the budget does to the evolution that runs within."""
    watch = asyncio.create_task(_watch(session, flow_run_id))
    try:
        yield
    finally:
        watch.cancel()


async def _watch(session: Session, flow_run_id: str) -> None:
    ledger, said = Ledger(session.store), ""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            await _look(session, ledger, flow_run_id)
        except Exception as error:  # whoever watches goes on: the next pause must be seen, too
            if str(error) != said:
                log.warning("the budget could not be looked at (%s): %s", type(error).__name__, error)
            said = str(error)


async def _look(session: Session, ledger: Ledger, flow_run_id: str) -> None:
    closure = await asyncio.to_thread(session.executor.held)
    why = str(closure or "")
    if bool(why) != bool(session.board.paused):
        await _turn(session, flow_run_id, why)
    elif why != session.board.paused:
        session.board.paused = why
        session.on_change()
    await asyncio.to_thread(_tell, session, ledger, closure)


async def _turn(session: Session, flow_run_id: str, why: str) -> None:
    """Into the pause, or out of it."""
    session.board.paused = why
    session.board.last_event = f"paused: {why}" if why else "the budget has room again: going on"
    log.warning("%s", session.board.last_event)
    if why:
        events.paused(session.folder.run_id, why)
    else:
        events.resumed(session.folder.run_id)
    session.on_change()
    await _set_state(flow_run_id, "Paused" if why else "Running", session.board.last_event)


async def _set_state(flow_run_id: str, name: str, message: str) -> None:
    if not flow_run_id:
        return
    state: Any = Running(name=name, message=message)
    try:
        async with async_client() as client:
            now = (await client.read_flow_run(flow_run_id)).state  # type: ignore[arg-type]
            if now is not None and now.is_running():  # somebody may have cancelled it meanwhile
                await client.set_flow_run_state(flow_run_id, state, force=True)
    except Exception as error:  # an API that is away must never stop the search
        log.warning("the flow run's state could not be set to %s: %s", name, error)


def _tell(session: Session, ledger: Ledger, closure: Closure | None = None) -> None:
    """Say, once, that a share of a limit is spent, or that nothing runs because of it."""
    try:
        if not ledger.budget(session.folder.run_id).limited:
            return
        standing = ledger.standing(session.folder.run_id)
    except StoreError as error:
        log.debug("%s", error)  # the executor holds the work and says why
        return
    held = closure is not None and not closure.is_passing
    for mark in MARKS:
        spent = 100 * standing.used >= mark or (mark == 100 and held)
        if spent and _is_news(session.folder, mark, standing):
            session.on_budget(mark, standing)


def _is_news(folder: RunFolder, mark: int, standing: Standing) -> bool:
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
