"""Can lanes and evolutions start, or does something stand in the way? The reasons are those that an evolution gives."""

from collections.abc import Sequence

from coral_core.errors import CoralError
from flows.installation.obstacles import DeploymentLook, Obstacle, look_at_deployments, obstacles
from flows.installation.pool_status import LANE_FLOWS
from flows.monitoring.finding import Check, first
from flows.monitoring.work_checks import QueueLook
from flows.prefect_api.client import ANSWER_SECONDS, RestClient

NAME = "lane starts"
_TOLD_ELSEWHERE = ("no worker ",)
"""Of `worker responsiveness`, which says since when."""


def look_at_starts(url: str, runs: str, answer_seconds: float = ANSWER_SECONDS) -> tuple[DeploymentLook, ...] | str:
    """The deployments in use; or why they could not be looked at."""
    try:
        with RestClient(url, answer_seconds) as api:
            return tuple(look_at_deployments(api, runs))
    except CoralError as error:
        return str(error).splitlines()[0]


def lane_starts(found: tuple[DeploymentLook, ...] | str, queues: Sequence[QueueLook]) -> Check:
    """Bad where jobs wait for lanes that cannot start."""
    if isinstance(found, str):
        return Check(NAME, "bad", "could not be looked at", found, "see the check `api`")
    waiting = {look.name for look in queues if look.waiting_runs}
    reasons: dict[str, Obstacle] = {}
    stopped: set[str] = set()
    for look in found:
        queue = LANE_FLOWS.get(look.name.partition("/")[0])
        for obstacle in obstacles(look):
            if not obstacle.busy and not obstacle.key.startswith(_TOLD_ELSEWHERE):
                reasons[obstacle.key] = obstacle
                stopped |= {queue} & waiting if queue is not None else set()
    if not reasons:
        words = "deployment, pool, queue and limits let them start"
        return Check(NAME, "ok", first([look.name for look in found], 9) or "no deployment", words)
    return Check(
        NAME,
        "bad" if stopped else "note",
        first([each.text for each in reasons.values()]),
        f"{' and '.join(sorted(stopped))} jobs wait for it" if stopped else "no job waits for it now",
        "; ".join(dict.fromkeys(each.todo for each in reasons.values() if each.todo)),
    )
