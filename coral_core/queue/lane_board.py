"""What lanes say of themselves: a file per lane that only this lane writes.

Each beat rewrites it whole, so there is no read-modify-write anywhere; sums over the
files give what each evolution was served. A lane is believed dead when its count of beats
has not changed for `LEASE_SECONDS` of the *observer's* clock: no two clocks are compared.
"""

import errno
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from coral_core.atomic_write import write_atomic
from coral_core.bounded_read import RECORD, SMALL, read_file, read_model
from coral_core.frozen import Frozen
from coral_core.json_object import json_object

LEASE_SECONDS = 60.0
BEAT_SECONDS = 2.0
MOST_JOBS = 64
"""Jobs that are kept one by one."""
MINUTES = 60
"""Minutes that are kept as counts."""


def lane_name(queue: str, flow_run_id: str) -> str:
    """A lane's id; known before it has started, so that it can be asked to end."""
    return f"{queue}-{flow_run_id}"


LaneName = Annotated[str, Field(pattern=r"^[^/.\x00][^/\x00]{0,199}$")]
"""Names a file, so it must not lead out of its folder."""


class Served(Frozen):
    """What one evolution got from one lane."""

    jobs: int = 0
    seconds: float = 0.0


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
    served: dict[str, Served] = Field({}, description="Finished and failed work per evolution.")
    recent: Recent = Field(Recent(), description="What it did lately.")
    ended: str = Field("", description="Why it ended.")


class LaneBoard:
    """Reads and writes ``queue/lanes/<lane>.json``."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "lanes"
        self._seen: dict[str, tuple[int, float, float]] = {}
        self._ended: dict[str, LaneNote] = {}

    def write(self, note: LaneNote) -> None:
        self._put(f"{note.lane}.json", note.model_dump_json().encode())

    def _put(self, name: str, data: bytes) -> None:
        if not self._folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the store is gone", str(self._folder))
        write_atomic(self._folder / name, data)

    def read(self, lane: str) -> LaneNote | None:
        """A lane's note; None when there is none that can be read."""
        try:
            return read_model(self._folder / f"{lane}.json", LaneNote, RECORD)
        except (OSError, ValueError):
            return None

    def notes(self, since: float = 0.0) -> Iterator[LaneNote]:
        """All lanes that ever were, ended ones too; or those whose note was written after `since` (Unix time of the store)."""
        for path in sorted(self._folder.glob("*.json")):
            if since and self._written(path) < since:
                continue
            note = self._ended.get(path.stem) or self.read(path.stem)
            if note is None:
                continue
            if note.state == "ended":  # an ended lane writes no more, and there may be thousands
                self._ended[path.stem] = note
            yield note

    def age(self, lane: str) -> float:
        """Seconds since the lane's note was written; infinite when there is none."""
        return time.time() - self._written(self._folder / f"{lane}.json")

    @staticmethod
    def _written(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except OSError:
            return -float("inf")

    def living(self) -> list[LaneNote]:
        """Lanes that have not said goodbye and whose beats go on, as far as this observer knows."""
        return [note for note in self.notes() if note.state != "ended" and not self.silent(note)]

    def silent(self, note: LaneNote, lease: float = LEASE_SECONDS) -> bool:
        """Has the lane's beat stood still for `lease` seconds of this process's clock, as far as it looked? Who did not look
        for half of that may have stood still together with the lane, and counts anew."""
        now = time.monotonic()
        beat, since, looked = self._seen.get(note.lane, (-1, now, now))
        if beat != note.beat or now - looked > lease / 2:
            since = now
        self._seen[note.lane] = (note.beat, since, now)
        return now - since > lease

    def served(self) -> dict[tuple[str, str], Served]:
        """(queue, run id) -> everything that lanes did for it."""
        total: dict[tuple[str, str], Served] = {}
        for note in self.notes():
            for run_id, served in note.served.items():
                old = total.get((note.queue, run_id), Served())
                total[note.queue, run_id] = Served(jobs=old.jobs + served.jobs, seconds=old.seconds + served.seconds)
        return total

    # -- asking a lane to end --------------------------------------------------------------

    def ask_to_end(self, lane: str, why: str) -> None:
        """The lane ends after the job in flight."""
        self._put(f"end/{lane}.json", json.dumps({"why": why}).encode())

    def asked_to_end(self, lane: str) -> str:
        """Why the lane was asked to end; empty when it was not."""
        try:
            return str(json_object(read_file(self._folder / "end" / f"{lane}.json", SMALL))["why"]) or "asked to"
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, KeyError, TypeError):
            return "asked to"
