"""State of a store's two queues and their lanes, from their files; read by `coral status`, `coral health` and the metrics."""

import functools
import time

from pydantic import Field

from coral_core.frozen import Frozen
from coral_core.jobs.jobs import DeviceTime
from coral_core.ledger import Closure, Ledger
from coral_core.queue.lane_board import DoneJob, LaneNote
from coral_core.queue.queue import JobQueue, both_queues
from coral_core.store.store import Store

HOUR = 3600.0
UNCOLLECTED_SECONDS = 300.0
"""A result that was not collected for this long has no evolution that collects it; `coral submit` may wait as long."""


class LaneStatus(Frozen):
    """One lane whose note does not say that it has ended."""

    note: LaneNote
    age: float = Field(description="Seconds since its note was written.")
    limit: float | None = Field(None, description="Seconds that its job may take.")
    working: float = Field(0.0, description="Seconds since it claimed its job.")


class QueueStatus(Frozen):
    """One of the two queues."""

    name: str
    waiting: int = Field(0, description="Jobs that no lane has claimed.")
    waiting_runs: tuple[str, ...] = Field(
        (), description="Evolutions that submitted them and whose budget allows them to start."
    )
    oldest: float = Field(0.0, description="Age in seconds of the oldest ticket of `waiting_runs`.")
    closed: dict[str, Closure] = Field({}, description="Evolutions whose budget allows no new job here -> why.")
    claims: int = 0
    failed: int = Field(0, description="Jobs that failed for good and were not cleared.")
    failed_last_hour: int = Field(0, description="Those of `failed` that did so within the last hour.")
    uncollected: tuple[str, ...] = Field((), description="Digests of results that no evolution has collected.")
    lanes: tuple[LaneStatus, ...] = ()
    device: DeviceTime = Field(
        DeviceTime(), description="What the devices of the last day's lanes did, each since its start."
    )
    done_last_hour: int = 0
    tries_failed_last_hour: int = Field(0, description="Failed attempts; most are retried.")
    jobs: tuple[DoneJob, ...] = Field((), description="Jobs done within the last hour, at most 64 per lane.")


def read_queues(store: Store) -> tuple[QueueStatus, ...]:
    """The queues of `store`; none where no evolution has used work pools with it."""
    if not (store.root / "queue").is_dir():
        return ()
    notes = list(JobQueue(store, "training").lanes.notes(since=time.time() - 24 * HOUR))
    return tuple(_status(queue, [note for note in notes if note.queue == queue.name]) for queue in both_queues(store))


def _status(queue: JobQueue, notes: list[LaneNote]) -> QueueStatus:
    now = time.time()
    claims = {claim.digest: claim for claim in queue.claims()}
    tickets = [ticket for run in queue.runs() for ticket in queue.waiting(run)]
    limits = {ticket.digest: ticket.seconds for ticket in tickets}
    waiting = [t for t in tickets if t.digest not in claims and not queue.is_done(t.digest, t.file)]
    closed = _closed(queue, {ticket.run_id for ticket in waiting})
    open_paths = [queue.root / "tickets" / t.run_id / t.file for t in waiting if t.run_id not in closed]
    failed = queue.all_failed()
    failed_paths = [queue.root / "failed" / each.ticket.run_id / each.ticket.file for each in failed]
    hours = [note.recent.last_hour(now) for note in notes]
    return QueueStatus(
        name=queue.name,
        waiting=len({t.digest for t in waiting}),
        waiting_runs=tuple(sorted({t.run_id for t in waiting} - closed.keys())),
        oldest=max((now - path.stat().st_mtime for path in open_paths if path.exists()), default=0.0),
        closed=closed,
        claims=len(claims),
        failed=len(failed),
        failed_last_hour=sum(path.exists() and now - path.stat().st_mtime < HOUR for path in failed_paths),
        uncollected=tuple(queue.uncollected(UNCOLLECTED_SECONDS)),
        lanes=tuple(
            LaneStatus(
                note=note,
                age=max(0.0, queue.lanes.age(note.lane)),
                limit=limits.get(note.digest),
                working=max(0.0, now - claims[note.digest].since) if note.digest in claims else 0.0,
            )
            for note in notes
            if note.state != "ended"
        ),
        device=functools.reduce(DeviceTime.plus, [note.device for note in notes], DeviceTime()),
        done_last_hour=sum(hour.done for hour in hours),
        tries_failed_last_hour=sum(hour.failed for hour in hours),
        jobs=tuple(job for note in notes for job in note.recent.jobs if not job.failed and now - job.ended < HOUR),
    )


def _closed(queue: JobQueue, runs: set[str]) -> dict[str, Closure]:
    """Those of `runs` whose budget allows no new job, and why; runs without a budget on record are left out."""
    ledger = Ledger(queue.store)
    recorded = [run for run in sorted(runs) if (queue.store.root / "ledger" / "budgets" / f"{run}.json").exists()]
    return {run: why for run in recorded if (why := ledger.closed(run, queue.name))}
