"""What the sessions of a run did, from timings.jsonl: also sessions that were killed and left no line.

A session books each digest once, so a digest that comes again begins the next session;
a `SessionTiming` line ends one.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import Field

from coral_core.bounded_read import look_at
from coral_core.frozen import Frozen
from coral_core.runs.records import JobTiming, SessionTiming
from coral_core.runs.run_folder import RunFolder


class RunState(StrEnum):
    """What a run does now. `PAUSED` is told by the ledger (progress.py), the others by the run's own files."""

    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Whether no session works on the run."""
        return self in (RunState.FINISHED, RunState.STOPPED, RunState.FAILED)


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


def run_state(folder: RunFolder, all_sessions: Sequence[Session]) -> RunState:
    """Finished when the history says so; else running while its process lives (or, not knowing that, writes)."""
    latest = all_sessions[-1].line if all_sessions else None
    return state_from(folder, folder.last("final") is not None, latest)


def session_error(state: RunState, all_sessions: Sequence[Session]) -> str:
    """What ended the latest session of a run in `state`; empty unless it failed."""
    latest = all_sessions[-1].line if all_sessions else None
    return latest.error if latest is not None and state is RunState.FAILED else ""


def state_from(folder: RunFolder, finished: bool, ended: SessionTiming | None) -> RunState:
    """As `run_state`, for callers that have read the files.

    Args:
        folder: The run.
        finished: Whether its history has a final record.
        ended: The line that ended the latest session; None when there is none.
    """
    if finished:
        return RunState.FINISHED
    if ended is not None and ended.started + ended.seconds >= _changed(folder.path / "run.json"):
        return RunState.FAILED if ended.outcome == "failed" else RunState.STOPPED
    alive = folder.lives()
    if alive is None:
        last = max(_changed(folder.path / name) for name in ("run.json", "history.jsonl", "timings.jsonl"))
        alive = time.time() - last < QUIET_SECONDS
    return RunState.RUNNING if alive else RunState.STOPPED


def _changed(path: Path) -> float:
    found = look_at(path)
    return found.st_mtime if found is not None else 0.0
