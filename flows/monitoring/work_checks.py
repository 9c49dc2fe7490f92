"""Checks of the work in progress: queues, lanes and results."""

from collections.abc import Iterator, Sequence

from coral_core.errors import StoreError
from coral_core.queue.lane_board import LEASE_SECONDS
from coral_core.queue.queue import both_queues
from coral_core.store.store import Store
from flows.installation.queue_status import UNCOLLECTED_SECONDS, LaneStatus, QueueStatus
from flows.monitoring.finding import Check, first
from flows.monitoring.server_checks import ServerStatus

SLACK_SECONDS = 60.0
"""A job may exceed its limit by this much, in which the lane ends the engine and reports it."""
WAIT_SECONDS = 180.0
"""Waiting for this long without any lane is bad: a lane start takes a quarter of it."""
MANY_FAILED = 10


def work_checks(queues: Sequence[QueueStatus], server: ServerStatus | None, store: Store) -> Iterator[Check]:
    """All checks of this module.

    Args:
        queues: The queues of the store; empty where work pools were never used with it.
        server: State of the server; None: the API cannot be used.
        store: The store.
    """
    yield queue_connectivity(queues, server, store)
    yield lanes(queues)
    yield result_collection(queues, store)


def queue_connectivity(queues: Sequence[QueueStatus], server: ServerStatus | None, store: Store) -> Check:
    """Checks that the queue folders can be written and that waiting jobs have lanes, or will get some.

    Args:
        queues: The queues of the store; empty where work pools were never used with it.
        server: State of the server; None: the API cannot be used, so no lane can be started, which is bad.
        store: The store.
    """
    name = "queue connectivity"
    if not queues:
        return Check(name, "note", f"no queue in {store.root}", "no evolution has used work pools with this store")
    try:
        for queue in both_queues(store):
            queue.prepare()
    except StoreError as error:
        return Check.of_error(name, error, "jobs can be neither submitted nor taken")
    depth = ", ".join(f"{queue.name} {queue.waiting} waiting, {queue.claims} in lanes" for queue in queues)
    if server is None:
        text = "lanes that run go on with what waits; none can be started without the API"
        return Check(name, "bad", depth, text, "see the check `api`")
    for status in queues:
        if status.oldest > WAIT_SECONDS and not any(lane.age < LEASE_SECONDS for lane in status.lanes):
            starting = sum(pool.queued + pool.running for pool in server.pools if pool.queue == status.name)
            text = f"the oldest {status.name} waits for {status.oldest / 60:.0f} minutes and no lane is online"
            if starting:
                return Check(name, "bad", depth, f"{text}; {starting} lanes were asked for", "see lane starts and worker responsiveness")  # fmt: skip
            text += "; no lane was asked for: no evolution looks after them"
            todo = f"go on with coral resume RUN ({first(status.waiting_runs)}), or drop them: coral jobs clear"
            return Check(name, "bad", depth, text, todo)
    closed = {run: why for status in queues for run, why in status.closed.items()}
    for run, why in closed.items():
        todo = f"coral budget {run}; coral resume {run} with a raised limit, or wait"
        return Check(name, "note", depth, f"{len(closed)} evolutions wait for their budget: {why}", todo)
    return Check(name, "ok", depth)


def lanes(queues: Sequence[QueueStatus]) -> Check:
    """Checks that lanes beat and that no job exceeds its time limit."""
    name, found = "lanes making progress", [lane for queue in queues for lane in queue.lanes]
    silent = [lane for lane in found if lane.age > LEASE_SECONDS]
    # the note of a killed lane stays; the lane is bad while it holds a job, or shortly after its last beat
    bad = [_silence(lane) for lane in silent if lane.working or lane.age < 2 * LEASE_SECONDS]
    bad += [
        f"{_name(lane)} works on {lane.note.digest[:12]} for {lane.working / 60:.0f} minutes, and {lane.limit / 60:.0f} are allowed"
        for lane in found
        if lane not in silent and lane.limit is not None and lane.working > lane.limit + SLACK_SECONDS
    ]
    if bad:
        return Check(
            name,
            "bad",
            first(bad),
            "its job goes to another lane as soon as an evolution looks",
            "coral logs RUN --genome G shows what it did last; cancel its flow run in the UI if it stays",
        )
    done = ", ".join(f"{queue.name} {queue.done_last_hour}" for queue in queues)
    online = f"{len(found) - len(silent)} online" + (f"; done in the last hour: {done}" if done else "")
    return Check(name, "ok", online, f"{len(silent)} older ones were killed" if silent else "")


def _silence(lane: LaneStatus) -> str:
    job = f" with {lane.note.queue} {lane.note.digest[:12]} in flight" if lane.working else ""
    return f"{_name(lane)} has not beaten for {lane.age:.0f} s{job}"


def _name(lane: LaneStatus) -> str:
    return f"{lane.note.lane[:19]} on {lane.note.host}"


def result_collection(queues: Sequence[QueueStatus], store: Store) -> Check:
    """Checks that evolutions collect their results, and that few jobs fail for good.

    Args:
        queues: The queues of the store.
        store: The store; its path stands in the remedy.
    """
    name, left = "result collection", [digest[:12] for queue in queues for digest in queue.uncollected]
    failed, lately = (sum(getattr(queue, field) for queue in queues) for field in ("failed", "failed_last_hour"))
    if left:
        return Check(
            name,
            "bad",
            f"{len(left)} results that nobody has taken for {UNCOLLECTED_SECONDS / 60:.0f} minutes: {first(left)}",
            "their evolution was killed or hangs; the results themselves are safe in the store",
            f"coral status shows which runs are stopped; coral resume RUN collects, coral jobs --store {store.root} lists",
        )
    if not failed:
        return Check(name, "ok", "every result was taken, no job has failed for good")
    return Check(
        name,
        "bad" if lately >= MANY_FAILED else "note",
        f"{failed} jobs were given up, {lately} of them in the last hour",
        "they failed as often as infra.attempts allows, or for a reason that no lane can mend",
        f"coral jobs --store {store.root} says why; coral jobs retry DIGEST, or drop DIGEST",
    )
