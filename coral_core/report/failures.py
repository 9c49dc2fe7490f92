"""What failed in a run, and why: tries by its timings, jobs in the queue of its store (executor work-pools)."""

from collections.abc import Set as AbstractSet

from coral_core.queue.queue import both
from coral_core.queue.tickets import Ticket
from coral_core.report.evidence import FailedJob, FailedTries
from coral_core.runs.records import JobFailure
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store

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


def failed_tries(folder: RunFolder) -> tuple[FailedTries, ...]:
    """Tries of all sessions that did not end in a result, alike ones together, most frequent first."""
    groups: dict[tuple[str, str, str], list[JobFailure]] = {}
    for failure in folder.failures():
        groups.setdefault((failure.kind, failure.error, failure.message), []).append(failure)
    done = {(timing.kind, timing.digest) for timing in folder.timings() if timing.type == "job"} if groups else set()
    found = [_alike(tries, done) for tries in groups.values()]
    return tuple(sorted(found, key=lambda tries: (-tries.count, -tries.last, tries.message)))


def _alike(tries: list[JobFailure], done: AbstractSet[tuple[str, str]]) -> FailedTries:
    first = tries[0]
    jobs = {failure.digest for failure in tries}
    return FailedTries(
        kind=first.kind,
        error=first.error,
        message=first.message[:LONGEST],
        count=len(tries),
        jobs=len(jobs),
        done_later=sum((first.kind, digest) in done for digest in jobs),
        last=max(failure.when for failure in tries),
    )
