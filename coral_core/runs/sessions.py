"""What the sessions of a run did, from timings.jsonl: also sessions that were killed and left no line.

A session books each digest once, so a digest that comes again begins the next session;
a `SessionTiming` line ends one.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from coral_core.bounded_read import look_at
from coral_core.frozen import Frozen
from coral_core.runs.records import JobTiming, SessionTiming
from coral_core.runs.run_folder import RunFolder

Status = Literal["running", "finished", "stopped", "failed"]

QUIET_SECONDS = 120.0
"""A session without a line, on another machine, counts as stopped when it has written nothing for so long."""


class Counts(Frozen):
    """Work that the latest session did itself."""

    trainings: int = Field(description="Trainings done; cache hits are not counted.")
    evaluations: int = Field(description="Evaluations done; cache hits are not counted.")


class Totals(Frozen):
    """What the run cost, all its sessions together."""

    trainings: int = Field(description="Trainings done.")
    evaluations: int = Field(description="Evaluations done.")
    sessions: int = Field(description="Times the run was started, killed sessions included.")
    seconds: float = Field(
        description="Wall-clock seconds of all sessions (of a killed one: first to last finished job)."
    )
    cpu_seconds: float = Field(description="CPU seconds of engines and judges.")
    tokens: int = Field(description="Tokens trained on and generated.")


@dataclass(frozen=True)
class Session:
    """One start of the run; `line` is None when it was killed or is still going on."""

    jobs: tuple[JobTiming, ...]
    line: SessionTiming | None

    @property
    def seconds(self) -> float:
        if self.line is not None:
            return self.line.seconds
        if not self.jobs:
            return 0.0
        first = min(job.finished - job.cost.seconds - job.waited for job in self.jobs)
        return max(job.finished for job in self.jobs) - first

    @property
    def counts(self) -> Counts:
        if self.line is not None:
            return Counts(trainings=self.line.trainings, evaluations=self.line.evaluations)
        done = [job for job in self.jobs if not job.cached]
        trainings = sum(job.kind == "training" for job in done)
        return Counts(trainings=trainings, evaluations=len(done) - trainings)


def sessions(timings: Sequence[JobTiming | SessionTiming]) -> list[Session]:
    """The sessions that wrote `timings`, oldest first."""
    found: list[Session] = []
    jobs: list[JobTiming] = []
    seen: set[tuple[str, str]] = set()
    for timing in timings:
        if isinstance(timing, SessionTiming):
            earlier = [job for job in jobs if job.finished < timing.started]
            if earlier:  # a killed session whose digests the next one never met again
                found.append(Session(tuple(earlier), None))
            found.append(Session(tuple(jobs[len(earlier) :]), timing))
            jobs, seen = [], set()
            continue
        if (timing.kind, timing.digest) in seen:
            found.append(Session(tuple(jobs), None))
            jobs, seen = [], set()
        seen.add((timing.kind, timing.digest))
        jobs.append(timing)
    if jobs:
        found.append(Session(tuple(jobs), None))
    return found


def totals(all_sessions: Sequence[Session]) -> Totals:
    """Sums over `all_sessions`."""
    jobs = [job for session in all_sessions for job in session.jobs if not job.cached]
    trainings = sum(job.kind == "training" for job in jobs)
    return Totals(
        trainings=trainings,
        evaluations=len(jobs) - trainings,
        sessions=len(all_sessions),
        seconds=sum(session.seconds for session in all_sessions),
        cpu_seconds=sum(job.cost.cpu_seconds for job in jobs),
        tokens=sum(job.cost.tokens for job in jobs),
    )


def status(folder: RunFolder, all_sessions: Sequence[Session]) -> Status:
    """Finished when history says so; else running while its process lives (or, not knowing that, writes)."""
    latest = all_sessions[-1].line if all_sessions else None
    return standing(folder, folder.last("final") is not None, latest.model_dump() if latest is not None else None)


def error(found: Status, all_sessions: Sequence[Session]) -> str:
    """What ended the latest session of a run whose status is `found`; empty unless that is failed."""
    latest = all_sessions[-1].line if all_sessions else None
    return latest.error if latest is not None and found == "failed" else ""


def standing(folder: RunFolder, finished: bool, line: Mapping[str, Any] | None) -> Status:
    """As `status`, for who has read the files: whether history is complete, the latest session's line when it has one."""
    if finished:
        return "finished"
    if line is not None and line["started"] + line["seconds"] >= _changed(folder.path / "run.json"):
        return "failed" if line["outcome"] == "failed" else "stopped"
    alive = folder.lives()
    if alive is not None:
        return "running" if alive else "stopped"
    last = max(_changed(folder.path / name) for name in ("run.json", "history.jsonl", "timings.jsonl"))
    return "running" if time.time() - last < QUIET_SECONDS else "stopped"


def _changed(path: Path) -> float:
    found = look_at(path)
    return found.st_mtime if found is not None else 0.0
