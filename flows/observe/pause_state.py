"""Shows in the state of a flow run that the budget has paused its evolution.

During the pause the flow run has a state named Paused of type Running. It so keeps its place in the deployment's
concurrency limit, and the next scheduled evolution does not start beside it.
"""

import asyncio
import logging
from typing import Any
from uuid import UUID

from prefect.states import Running

from coral_core.evolution.listener import Listener
from coral_core.runs.progress import Progress
from coral_core.runs.records import Outcome
from flows.prefect_api.prefect_client import async_client

log = logging.getLogger("coral.evolve")


class PauseState(Listener):
    """Sets the state of one flow run, in order and without blocking the evolution."""

    def __init__(self, flow_run_id: str) -> None:
        self._flow_run_id = flow_run_id
        self._order = asyncio.Lock()
        self._under_way: set[asyncio.Task[None]] = set()

    def paused(self, why: str) -> None:
        self._begin(Running(name="Paused", message=f"paused: {why}"))

    def resumed(self) -> None:
        self._begin(Running(message="the budget has room again: going on"))

    def ended(self, progress: Progress, outcome: Outcome, error: str) -> None:
        for task in self._under_way:
            task.cancel()

    def _begin(self, state: Any) -> None:
        if self._flow_run_id:
            task = asyncio.create_task(self._set(state))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _set(self, state: Any) -> None:
        try:
            async with self._order, async_client() as client:
                now = (await client.read_flow_run(UUID(self._flow_run_id))).state
                if now is not None and now.is_running():  # it may have been cancelled in between
                    await client.set_flow_run_state(UUID(self._flow_run_id), state, force=True)
        except Exception as error:  # an API that does not answer must never stop the search
            log.warning("the flow run's state could not be set to %s: %s", state.name, error)
