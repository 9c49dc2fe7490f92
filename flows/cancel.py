"""Notices that somebody cancelled this flow run, wherever it runs.

A worker ends the process of a cancelled run; a run that was started from a terminal has no
worker, so it looks for itself. It also ends in order here: tasks first, then lanes.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

from prefect.client.orchestration import get_client

log = logging.getLogger("coral.evolve")

LOOK_SECONDS = 3.0


async def until_cancelled(work: Coroutine[Any, Any, None], flow_run_id: str) -> bool:
    """Run `work` to its end; True when the flow run was cancelled first and `work` was ended."""
    main = asyncio.create_task(work)
    look = asyncio.create_task(_cancelled(flow_run_id))
    try:
        await asyncio.wait({main, look}, return_when=asyncio.FIRST_COMPLETED)
        if main.done():
            main.result()
            return False
        return True
    finally:
        for task in (main, look):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await asyncio.gather(main, look, return_exceptions=True)


async def _cancelled(flow_run_id: str) -> None:
    """Return as soon as the API says that the run is cancelled."""
    if not flow_run_id:
        await asyncio.Event().wait()
    async with get_client() as client:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                state = (await client.read_flow_run(flow_run_id)).state  # type: ignore[arg-type]
            except Exception as error:
                log.debug("the API does not answer: %s", error)
                continue
            if state is not None and (state.is_cancelling() or state.is_cancelled()):
                return
