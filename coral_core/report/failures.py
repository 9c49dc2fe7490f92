"""Jobs of a run that failed in the queue of its store (executor work-pools), and why."""

from coral_core.queue.queue import both
from coral_core.queue.tickets import Ticket
from coral_core.report.evidence import FailedJob
from coral_core.store import Store

LONGEST = 500


def failed_jobs(store: Store, run_id: str) -> tuple[FailedJob, ...]:
    """Jobs of `run_id` with a failed try that still lie in the queue; those that ended well later are gone from it."""
    found: dict[tuple[str, str], FailedJob] = {}
    for queue in both(store):
        for ticket in queue.waiting(run_id):
            if ticket.failures:
                found[queue.name, ticket.digest] = _failed(queue.name, ticket, "waiting")
        for failed in queue.all_failed():
            if failed.ticket.run_id == run_id:
                found[queue.name, failed.ticket.digest] = _failed(queue.name, failed.ticket, "failed")
    return tuple(found[key] for key in sorted(found))


def _failed(queue: str, ticket: Ticket, state: str) -> FailedJob:
    last = ticket.failures[-1] if ticket.failures else None
    return FailedJob(
        queue=queue,
        kind=ticket.kind,
        digest=ticket.digest,
        tries=ticket.tries,
        lanes_lost=ticket.losses,
        state="failed" if state == "failed" else "waiting",
        error=last.error if last else "unknown",
        message=(last.message if last else "")[:LONGEST],
        host=last.host if last else "",
    )
