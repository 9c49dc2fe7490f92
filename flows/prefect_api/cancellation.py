"""Notices that this flow run is to end: cancelled in Prefect, or its process told to by SIGTERM.

A worker ends the process of a cancelled run; a run that was started from a terminal has no
worker, so it looks for itself. It also ends in order here: tasks first, then lanes.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine, Iterator
from typing import Any

from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal
from prefect.states import Running

from flows.prefect_api.short_calls import ANSWER_SECONDS, retries
from flows.work_pools.lost_lanes import believed_lost

log = logging.getLogger("coral.evolve")

LOOK_SECONDS = 3.0


async def until_cancelled(work: Coroutine[Any, Any, None], flow_run_id: str) -> bool:
    """Run `work` to its end; True when the flow run was cancelled first and `work` was ended.

    Raises:
        TerminationSignal: the process got SIGTERM; `work` was ended.
    """
    with _termination() as told:
        main = asyncio.create_task(work)
        looks = [asyncio.create_task(_cancelled(flow_run_id)), asyncio.create_task(told.wait())]
        try:
            await asyncio.wait({main, *looks}, return_when=asyncio.FIRST_COMPLETED)
            if main.done():
                main.result()
                return False
            if told.is_set():
                raise TerminationSignal(signal.SIGTERM)
            return True
        finally:
            for task in (main, *looks):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await asyncio.gather(main, *looks, return_exceptions=True)


@contextlib.contextmanager
def _termination() -> Iterator[asyncio.Event]:
    """An event that SIGTERM sets. Prefect's own handler raises wherever the event loop happens to be, and when that is in
    a task of its own the signal ends this task and nothing else."""
    told = asyncio.Event()
    before = signal.getsignal(signal.SIGTERM)
    try:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    except (ValueError, RuntimeError):  # not in the main thread: signals do not arrive here
        yield told
        return
    try:
        yield told
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)


async def _cancelled(flow_run_id: str) -> None:
    """Return as soon as the API says that the run is cancelled."""
    if not flow_run_id:
        await asyncio.Event().wait()
    running: Any = Running()
    with retries(0):  # it is asked again anyway, and a cancel must not wait for the pauses between tries
        async with get_client(httpx_settings={"timeout": ANSWER_SECONDS}) as client:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                try:
                    state = (await client.read_flow_run(flow_run_id)).state  # type: ignore[arg-type]
                    if believed_lost(state):
                        log.warning("this evolution lives and was on record as lost: put right")
                        await client.set_flow_run_state(flow_run_id, running, force=True)
                except Exception as error:
                    log.debug("the API does not answer: %s", error)
                    continue
                if state is not None and (state.is_cancelling() or state.is_cancelled()):
                    return
                if state is not None and state.is_running():
                    running = Running(name=state.name, message=state.message)
