"""The command of a lane, from the Prefect API: go on, take no more work, or stop.

A lane stops when its flow run was cancelled or deleted. It takes no more work when its pool is paused. While the API does
not answer, the last command stays. Heartbeats do not arrive while the server is down, so that a living lane may be recorded
as lost; the lane then corrects the record.
"""

import logging
from uuid import UUID

from prefect.exceptions import ObjectNotFound
from prefect.states import Running

from coral_core.lanes.worker import Command
from flows.prefect_api.prefect_client import believed_lost, retries, short_client

log = logging.getLogger("coral.lane")


class LaneCommands:
    """Reads the command of one lane at each call.

    Args:
        flow_run_id: The lane's flow run; None: there is none, and the command is always to go on.
    """

    def __init__(self, flow_run_id: str | None) -> None:
        self._id = UUID(flow_run_id) if flow_run_id else None
        self._client = short_client() if flow_run_id else None
        self._last: Command = "go on"

    def __call__(self) -> Command:
        try:
            with retries(0):
                self._last = self._ask()
        except Exception as error:
            log.debug("the API does not answer: %s", error)
        return self._last

    def _ask(self) -> Command:
        if self._client is None or self._id is None:
            return "go on"
        try:
            run = self._client.read_flow_run(self._id)
        except ObjectNotFound:  # it was deleted: no evolution counts this lane any more
            return "stop"
        if believed_lost(run.state):
            log.warning("this lane lives and was on record as lost (%s): corrected", run.state and run.state.message)
            self._client.set_flow_run_state(run.id, Running(), force=True)
        elif run.state is not None and (run.state.is_cancelling() or run.state.is_final()):
            return "stop"
        paused = run.work_pool_name and self._client.read_work_pool(run.work_pool_name).is_paused
        return "finish" if paused or self._last == "finish" else "go on"
