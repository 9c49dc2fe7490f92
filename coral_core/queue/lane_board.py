"""Reports of lanes: a file per lane that only this lane writes.

Each beat replaces the file, so nothing is read, changed and written back. An observer takes a lane for dead when its count
of beats has not changed for a lease of the observer's own clock; clocks of two machines are never compared.
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

LEASE_SECONDS = 60.0
BEAT_SECONDS = 2.0
MOST_JOBS = 64
"""Jobs that are kept one by one."""
MINUTES = 60
"""Minutes that are kept as counts."""


def lane_name(queue: str, flow_run_id: str) -> str:
    """A lane's id; known before it has started, so that it can be asked to end."""
    return f"{queue}-{flow_run_id}"


Ended = Literal["idle", "asked", "cancelled", "drained", "budget"]
"""Why a lane ended by itself."""
LaneName = Annotated[str, Field(pattern=r"^[^/.\x00][^/\x00]{0,199}$")]
"""Names a file, so it must not lead out of its folder."""


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
    """What a lane did lately: its last jobs, and how many ended in each of the last minutes; a few kilobytes at most.

    Only the lane sees every job of its queue: of evolutions that write elsewhere, jobs submitted by hand, failed tries.
    """

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


class LaneNote(Frozen):
    """One lane's account of itself. Times are of the lane's own clock and for people only."""

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
    ended: str = Field("", description="Why it ended.")


class LaneBoard:
    """Reads and writes ``queue/lanes/<lane>.json``."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "lanes"
        self._seen: dict[str, tuple[int, float, float]] = {}

    def write(self, note: LaneNote) -> None:
        """Replace the note of a lane. Raises `OSError`, also where the folder is gone: it is never made anew."""
        if not self._folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the store is gone", str(self._folder))
        write_atomic(self._folder / f"{note.lane}.json", note.model_dump_json().encode())

    def read(self, lane: str) -> LaneNote | None:
        """A lane's note; None when there is none that can be read."""
        try:
            return read_model(self._folder / f"{lane}.json", LaneNote, RECORD)
        except (OSError, ValueError):
            return None

    def notes(self, since: float = 0.0) -> Iterator[LaneNote]:
        """All lanes that ever were, ended ones too; or those whose note was written after `since` (Unix time of the store)."""
        for path in sorted(self._folder.glob("*.json")):
            if self._written(path) >= since and (note := self.read(path.stem)) is not None:
                yield note

    def age(self, lane: str) -> float:
        """Seconds since the lane's note was written; infinite when there is none."""
        return time.time() - self._written(self._folder / f"{lane}.json")

    @staticmethod
    def _written(path: Path) -> float:
        found = look_at(path)
        return -float("inf") if found is None else found.st_mtime

    def silent(self, note: LaneNote, lease: float) -> bool:
        """Has the lane's count of beats stood still for `lease` seconds of this process's clock?

        If this process did not look for half of `lease`, it may have been stopped together with the lane, and counts anew.
        """
        now = time.monotonic()
        beat, since, looked = self._seen.get(note.lane, (-1, now, now))
        if beat != note.beat or now - looked > lease / 2:
            since = now
        self._seen[note.lane] = (note.beat, since, now)
        return now - since > lease

    def ask_to_end(self, lane: str) -> None:
        """Have the lane end after the job in flight."""
        (self._folder / "end" / lane).touch()

    def asked_to_end(self, lane: str) -> bool:
        """Was the lane asked to end?"""
        return (self._folder / "end" / lane).exists()
