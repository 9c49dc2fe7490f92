"""Failures of a run: failed tries from its timings, failed jobs from the queue of its store (executor work-pools)."""

from typing import Literal

from coral_core.queue.queue import Ticket, both_queues
from coral_core.report.content import FailedJob, FailedTries
from coral_core.runs.records import JobFailure, JobTiming
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store

LONGEST = 500
"""Characters of a message."""


def failed_jobs(store: Store, run_id: str) -> tuple[FailedJob, ...]:
    """Jobs in the queue with at least one failed try. Jobs that succeeded later are no longer in the queue.

    Args:
        store: The run's store.
        run_id: The evolution.
    """
    jobs: list[FailedJob] = []
    for queue in both_queues(store):
        jobs += [_failed(queue.name, ticket, "waiting") for ticket in queue.waiting(run_id) if ticket.failures]
        ended = [failed.ticket for failed in queue.all_failed() if failed.ticket.run_id == run_id]
        jobs += [_failed(queue.name, ticket, "failed") for ticket in ended]
    return tuple(sorted(jobs, key=lambda job: (job.queue, job.digest)))


def _failed(queue: str, ticket: Ticket, state: Literal["waiting", "failed"]) -> FailedJob:
    last = ticket.failures[-1] if ticket.failures else None
    return FailedJob(
        queue=queue,
        kind=ticket.kind,
        digest=ticket.digest,
        tries=ticket.tries,
        lanes_lost=ticket.losses,
        state=state,
        error=last.error if last else "unknown",
        message=(last.message if last else "")[:LONGEST],
        host=last.host if last else "",
    )


def failed_tries(folder: RunFolder) -> tuple[FailedTries, ...]:
    """Failed tries of all sessions, grouped by kind, error and message, most frequent first."""
    groups: dict[tuple[Literal["training", "evaluation"], str, str], list[JobFailure]] = {}
    for failure in folder.failures():
        groups.setdefault((failure.kind, failure.error, failure.message), []).append(failure)
    done = (
        {(timing.kind, timing.digest) for timing in folder.timings() if isinstance(timing, JobTiming)}
        if groups
        else set()
    )
    lines = []
    for (kind, error, message), tries in groups.items():
        jobs = {(kind, failure.digest) for failure in tries}
        lines.append(FailedTries(
            kind=kind, error=error, message=message[:LONGEST], count=len(tries), jobs=len(jobs), done_later=len(jobs & done),
            last=max(failure.when for failure in tries),
        ))  # fmt: skip
    return tuple(sorted(lines, key=lambda tries: (-tries.count, -tries.last, tries.message)))
