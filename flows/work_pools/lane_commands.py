"""What is wanted of a lane, as the Prefect API says: go on, take no more work, or stop.

A lane stops when its flow run was cancelled or deleted. It takes no more work when its pool is
paused, and when lanes of another store wait for a place while all of the pool's are taken: within a
store the queue is shared fairly, between stores the places take turns. An API that is away is no
reason for either. A lane that lives and finds itself on record as lost (heartbeats do not arrive
while the server is away) puts the record right.
"""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, StateType, WorkPool
from prefect.exceptions import ObjectNotFound
from prefect.states import Running

from coral_core.lanes.worker import Order
from flows.prefect_api.prefect_client import believed_lost, read_flow_runs, retries, short_client

log = logging.getLogger("coral.lane")

LOOK_SECONDS = 3.0
OTHERS_SECONDS = 10.0
"""Between two looks at who else waits for a place."""
WAITED_SECONDS = 15.0
"""A lane of another store that waits longer than this is not just about to be taken by a worker."""
LANE_TAG = "coral-lane"


def store_tag(installation: str) -> str:
    """Tag of the flow runs that are lanes of a store."""
    return f"store:{installation[:12]}"


def deployment_tag(name: str) -> str:
    """Tag of the flow runs that were started as lanes from a deployment of this full name, also before it was made again."""
    return f"deployment:{name}"


class Orders:
    """Asked for its orders by a lane.

    Args:
        flow_run_id: The lane's flow run.
        installation: Name of its store; empty: nobody's, and it makes no room for others.
        turn: Seconds that a lane may keep its place while others wait.
    """

    def __init__(self, flow_run_id: str, installation: str, turn: float) -> None:
        self._id = UUID(flow_run_id)
        self._tag = store_tag(installation) if installation else ""
        self._client = short_client()
        self._begun = time.monotonic()
        self._turn = turn
        self._next = 0.0
        self._next_others = 0.0
        self._last: Order = "go on"

    def __call__(self) -> Order:
        if time.monotonic() < self._next:
            return self._last
        self._next = time.monotonic() + LOOK_SECONDS
        try:
            with retries(0):
                self._last = self._ask()
        except Exception as error:
            log.debug("the API does not answer: %s", error)
        return self._last

    def _ask(self) -> Order:
        try:
            run = self._client.read_flow_run(self._id)
        except ObjectNotFound:  # somebody deleted it: nobody counts this lane any more
            return "stop"
        if believed_lost(run.state):
            log.warning("this lane lives and was on record as lost (%s): put right", run.state and run.state.message)
            self._client.set_flow_run_state(run.id, Running(), force=True)
        elif run.state is not None and (run.state.is_cancelling() or run.state.is_final()):
            return "stop"
        if not run.work_pool_name:
            return "go on"
        pool = self._client.read_work_pool(run.work_pool_name)
        return "finish" if pool.is_paused or self._last == "finish" or self._turn_is_over(pool) else "go on"

    def _turn_is_over(self, pool: WorkPool) -> bool:
        """Do lanes of another store wait while every place is taken, and has this one had its turn?"""
        now = time.monotonic()
        if not self._tag or pool.concurrency_limit is None or now - self._begun < self._turn:
            return False
        if now < self._next_others:
            return False
        self._next_others = now + OTHERS_SECONDS
        if (
            len(read_flow_runs(self._client, [StateType.PENDING, StateType.RUNNING], pool.name))
            < pool.concurrency_limit
        ):
            return False
        waiting = read_flow_runs(self._client, [StateType.SCHEDULED], pool.name, [LANE_TAG])
        others = [run for run in waiting if self._tag not in run.tags and age(run) > WAITED_SECONDS]
        if others:
            log.info(
                "makes room for %s, a lane of another store that has waited %.0f s", others[0].name, age(others[0])
            )
        return bool(others)


def age(run: FlowRun) -> float:
    """Seconds since a flow run was asked for, by this machine's clock."""
    return max(0.0, (datetime.now(UTC) - run.created).total_seconds()) if run.created else 0.0


def orders(flow_run_id: str | None, installation: str, turn: float) -> Callable[[], Order]:
    """`Orders` of a flow run; outside of one a lane goes on until its work ends."""
    return Orders(flow_run_id, installation, turn) if flow_run_id else lambda: "go on"


def being_cancelled(flow_run_id: str | None) -> bool:
    """Does the API say now that somebody cancels this flow run? Then Prefect takes no other end of it than Cancelled."""
    if not flow_run_id:
        return False
    try:
        with retries(1):
            state = short_client().read_flow_run(UUID(flow_run_id)).state
    except Exception as error:  # whoever is away now will not take the end of the run, either
        log.debug("the API does not answer: %s", error)
        return False
    return state is not None and state.is_cancelling()
