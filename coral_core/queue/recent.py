"""What a lane did lately: enough for waiting and working times and a rate, and never more than a few kilobytes.

It rides in the lane's note. Waiting and work are taken here and not from the runs' timings.jsonl, because only the lane
sees every job of its queue: of evolutions that write elsewhere, jobs put there by hand, failed tries. Waiting is from
the ticket to the claim; both are files of one store, so no two clocks are compared.
"""

import time

from pydantic import Field

from coral_core.frozen import Frozen

MOST_JOBS = 64
"""Jobs that are kept one by one."""
MINUTES = 60
"""Minutes that are kept as counts."""


class DoneJob(Frozen):
    """One job that ended in this lane."""

    ended: float = Field(description="Unix time, of the lane's clock.")
    waited: float = Field(ge=0, description="Seconds from the ticket to the claim.")
    seconds: float = Field(ge=0, description="Seconds from the claim to the end.")
    failed: bool = False


class Minute(Frozen):
    """Jobs that ended within one minute."""

    done: int = 0
    failed: int = 0


class Recent(Frozen):
    """The last jobs of a lane, and how many ended in each of the last minutes."""

    jobs: tuple[DoneJob, ...] = Field((), description=f"The last {MOST_JOBS}, oldest first.")
    minutes: dict[int, Minute] = Field({}, description="Minute since 1970 -> jobs that ended in it.")

    def with_job(self, job: DoneJob) -> "Recent":
        """With one more job; what is too old falls out."""
        minute = int(job.ended // 60)
        old = self.minutes.get(minute, Minute())
        new = Minute(done=old.done + (not job.failed), failed=old.failed + job.failed)
        kept = {number: counts for number, counts in self.minutes.items() if minute - MINUTES < number <= minute}
        return Recent(jobs=(*self.jobs[-(MOST_JOBS - 1) :], job), minutes=kept | {minute: new})

    def last_hour(self, now: float | None = None) -> Minute:
        """Jobs that ended within the last 60 minutes."""
        first = int((time.time() if now is None else now) // 60) - MINUTES
        counted = [counts for number, counts in self.minutes.items() if number > first]
        return Minute(done=sum(c.done for c in counted), failed=sum(c.failed for c in counted))
