"""Lane notes: one file per lane, written only by that lane, with its heartbeat and its latest jobs.

Each heartbeat replaces the file, so there is no read-modify-write. An observer considers a lane dead if its count of
heartbeats has not changed for one lease of the observer's own clock; clocks of two machines are never compared.
"""

import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from coral_core.atomic_write import write_atomic
from coral_core.bounded_read import RECORD, look_at, read_model
from coral_core.frozen import Frozen
from coral_core.jobs.jobs import DeviceTime

LEASE_SECONDS = 60.0
"""Seconds without a heartbeat after which a lane is considered dead."""
BEAT_SECONDS = 2.0
"""Seconds between two heartbeats."""
MOST_JOBS = 64
"""Number of latest jobs in a lane's note."""
MINUTES = 60
"""Number of latest minutes for which a lane's note counts jobs."""


def lane_name(queue: str, flow_run_id: str) -> str:
    """A lane's id. It is known before the lane starts, so that the lane can be asked to end.

    Args:
        queue: training or evaluation.
        flow_run_id: The lane's Prefect flow run, or any unique text outside Prefect.

    Example:
        >>> lane_name("training", "0198c2")
        'training-0198c2'
    """
    return f"{queue}-{flow_run_id}"


Ended = Literal["idle", "asked", "cancelled", "drained", "budget"]
"""Why a lane ended without an error."""
LaneName = Annotated[str, Field(pattern=r"^[^/.\x00][^/\x00]{0,199}$")]
"""A lane's id; it names a file, so the pattern excludes paths out of the folder."""


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
    """A lane's latest jobs, and counts of ended jobs for each of the last minutes; a few kilobytes at most.

    The lane keeps this record because no other process sees all its jobs: those of all evolutions, failed tries, and
    jobs submitted by hand.
    """

    jobs: tuple[DoneJob, ...] = Field((), description=f"The last {MOST_JOBS}, oldest first.")
    minutes: dict[int, Minute] = Field({}, description="Minute since 1970 -> jobs that ended in it.")

    def with_job(self, job: DoneJob) -> "Recent":
        """This record with one more job; the oldest job and minutes are dropped."""
        minute = int(job.ended // 60)
        old = self.minutes.get(minute, Minute())
        new = Minute(done=old.done + (not job.failed), failed=old.failed + job.failed)
        kept = {number: counts for number, counts in self.minutes.items() if minute - MINUTES < number <= minute}
        return Recent(jobs=(*self.jobs[-(MOST_JOBS - 1) :], job), minutes=kept | {minute: new})

    def last_hour(self, now: float | None = None) -> Minute:
        """Counts of jobs that ended within the 60 minutes before `now` (Unix time; None: the current time)."""
        first = int((time.time() if now is None else now) // 60) - MINUTES
        counted = [counts for number, counts in self.minutes.items() if number > first]
        return Minute(done=sum(c.done for c in counted), failed=sum(c.failed for c in counted))


class LaneNote(Frozen):
    """State of one lane, as the lane itself reports it. Times are of the lane's own clock and only for display."""

    schema_version: int = 1
    lane: LaneName
    queue: Literal["training", "evaluation"]
    flow_run_id: str = Field("", description="Prefect flow run that is this lane; empty outside Prefect.")
    host: str = ""
    pid: int = 0
    started: float
    beat: int = Field(0, description="Counts up while the lane lives.")
    seen: float = Field(0.0, description="When this was written, Unix time.")
    state: Literal["starting", "idle", "working", "ended"] = "starting"
    digest: str = Field("", description="The job in flight.")
    run_id: str = Field("", description="The evolution it is done for.")
    jobs: int = Field(0, ge=0, description="Jobs that ended here, done, failed or stopped.")
    recent: Recent = Field(Recent(), description="What it did lately.")
    device: DeviceTime = Field(DeviceTime(), description="What its device did since the lane started.")
    ended: str = Field("", description="Why it ended.")


class LaneBoard:
    """Reads and writes the notes of lanes, ``queue/lanes/<lane>.json``, and requests to end them.

    Args:
        root: The folder `queue` of a store.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / "lanes"
        self._seen: dict[str, tuple[int, float, float]] = {}

    def write(self, note: LaneNote) -> None:
        """Replace the note of a lane. Raises `OSError`, also if the folder is gone: it is never created again."""
        if not self._folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the store is gone", str(self._folder))
        write_atomic(self._folder / f"{note.lane}.json", note.model_dump_json().encode())

    def read(self, lane: str) -> LaneNote | None:
        """A lane's note; None if it is absent or cannot be read."""
        try:
            return read_model(self._folder / f"{lane}.json", LaneNote, RECORD)
        except (OSError, ValueError):
            return None

    def notes(self, since: float = 0.0) -> Iterator[LaneNote]:
        """Notes of all lanes, including ended ones, that were written at or after `since` (Unix time of the store)."""
        for path in sorted(self._folder.glob("*.json")):
            if self._written(path) >= since and (note := self.read(path.stem)) is not None:
                yield note

    def age(self, lane: str) -> float:
        """Seconds since the lane's note was written; infinite if there is none."""
        return time.time() - self._written(self._folder / f"{lane}.json")

    @staticmethod
    def _written(path: Path) -> float:
        status = look_at(path)
        return -float("inf") if status is None else status.st_mtime

    def silent(self, note: LaneNote, lease: float) -> bool:
        """Whether the lane's heartbeat has been missing for a whole lease, by this process's clock.

        The lease starts again if this process has not asked for half of it: it may have been suspended together with
        the lane.

        Args:
            note: The lane's note as read now.
            lease: Seconds without a heartbeat after which a lane is considered dead.
        """
        now = time.monotonic()
        beat, since, looked = self._seen.get(note.lane, (-1, now, now))
        if beat != note.beat or now - looked > lease / 2:
            since = now
        self._seen[note.lane] = (note.beat, since, now)
        return now - since > lease

    def ask_to_end(self, lane: str) -> None:
        """Request that the lane ends after the job in flight."""
        (self._folder / "end" / lane).touch()

    def asked_to_end(self, lane: str) -> bool:
        """Whether the lane was requested to end."""
        return (self._folder / "end" / lane).exists()
