"""Sums over the work of a run's sessions, from the lines of timings.jsonl.

Each line of a job names its session. A killed session leaves no line of its own; it ends at the first line of the next
session.
"""

from array import array
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from pydantic import Field

from coral_core.frozen import Frozen
from coral_core.jobs.jobs import DeviceTime
from coral_core.runs.records import JobFailure, JobKind, JobTiming, Phase, SessionTiming, Timing
from coral_core.runs.run_folder import RunFolder


class RunState(StrEnum):
    """State of a run. `PAUSED` follows from the ledger (progress.py), the other states from the run's own files."""

    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Whether no session works on the run."""
        return self in (RunState.FINISHED, RunState.STOPPED, RunState.FAILED)


class Counts(Frozen):
    """Work that the latest session did itself."""

    trainings: int = Field(description="Trainings done; cache hits are not counted.")
    evaluations: int = Field(description="Evaluations done; cache hits are not counted.")


class Totals(Frozen):
    """Cost of a run, all its sessions together."""

    trainings: int = Field(description="Trainings done.")
    evaluations: int = Field(description="Evaluations done.")
    sessions: int = Field(description="Times the run was started, killed sessions included.")
    seconds: float = Field(description="Wall-clock seconds of all sessions (of a killed one: until its last job).")
    cpu_seconds: float = Field(description="CPU seconds of engines and judges.")
    tokens: int = Field(description="Tokens trained on and generated.")


class StageCost(Frozen):
    """What a run did itself in one phase, all its sessions together; results found in the store cost nothing."""

    phase: Phase
    trainings: int
    evaluations: int
    seconds: float = Field(description="Seconds of work in lanes.")
    cpu_seconds: float = Field(description="CPU seconds of engines and judges.")


class DeviceUse(Frozen):
    """What devices did in the jobs of a run, all its sessions together.

    The time of a lane after its last job belongs to no job and is left out.
    """

    training: DeviceTime
    evaluation: DeviceTime


@dataclass(slots=True)
class JobSums:
    """Sums over the jobs of one kind."""

    done: int = 0
    found: int = 0
    failed: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    cpu_seconds: float = 0.0
    tokens: int = 0
    device: DeviceTime = field(default_factory=DeviceTime)


def _sums() -> dict[JobKind, JobSums]:
    return {"training": JobSums(), "evaluation": JobSums()}


class WorkDone:
    """Sums over the lines of timings.jsonl; `take` adds them one by one, in order.

    Attributes:
        jobs: Kind -> sums over all sessions.
        session: Kind -> sums over the latest session.
        phases: Wall-clock seconds of each phase, all sessions together.
        stages: Phase -> kind -> sums over all sessions.
        finished: (phase, generation) -> digests of its finished jobs; kept for the latest generations only.
        spans: Generation -> Unix times at which its work began and ended; generations found whole in the store are left out.
        busy: Kind -> start and end of each job in turn (Unix time), of the latest session that did any job.
        sessions: Number of sessions.
        started: Unix time at which the latest session began; 0 before the first.
        last_job: Unix time at which the latest job was finished.
        latest: The newest line; None before the first.
        ended: The line that ended the latest session; None while it is running, or when it was killed.
    """

    def __init__(self) -> None:
        self.jobs = _sums()
        self.session = _sums()
        self.phases = dict.fromkeys((Phase.BASELINES, Phase.SEARCHING, Phase.HELD_OUT), 0.0)
        self.stages: dict[Phase, dict[JobKind, JobSums]] = {phase: _sums() for phase in self.phases}
        self.finished: dict[tuple[Phase, int | None], set[str]] = {}
        self.spans: dict[int, tuple[float, float]] = {}
        self.busy: dict[JobKind, array[float]] = {"training": array("d"), "evaluation": array("d")}
        self.sessions = 0
        self.started = 0.0
        self.last_job = 0.0
        self.latest: Timing | None = None
        self.ended: SessionTiming | None = None
        self._earlier = 0.0
        self._was_idle = True

    @classmethod
    def of(cls, folder: RunFolder) -> Self:
        """The work of the run in `folder`. Raises `StoreError` when timings.jsonl cannot be read."""
        work = cls()
        for timing in folder.timings():
            work.take(timing)
        return work

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the latest session; of a killed one, or one under way, until its last job."""
        return self.ended.seconds if self.ended else max(0.0, self.last_job - self.started)

    @property
    def counts(self) -> Counts:
        """Work of the latest session."""
        return Counts(trainings=self.session["training"].done, evaluations=self.session["evaluation"].done)

    @property
    def totals(self) -> Totals:
        """Sums over all sessions."""
        training, evaluation = self.jobs["training"], self.jobs["evaluation"]
        return Totals(
            trainings=training.done,
            evaluations=evaluation.done,
            sessions=self.sessions,
            seconds=self._earlier + self.seconds,
            cpu_seconds=training.cpu_seconds + evaluation.cpu_seconds,
            tokens=training.tokens + evaluation.tokens,
        )

    @property
    def stage_costs(self) -> tuple[StageCost, ...]:
        """Cost of each phase, in their order."""
        return tuple(
            StageCost(
                phase=phase,
                trainings=sums["training"].done,
                evaluations=sums["evaluation"].done,
                seconds=sum(kind.seconds for kind in sums.values()),
                cpu_seconds=sum(kind.cpu_seconds for kind in sums.values()),
            )
            for phase, sums in self.stages.items()
        )

    @property
    def device(self) -> DeviceUse:
        """What devices did, by kind of job."""
        return DeviceUse(training=self.jobs["training"].device, evaluation=self.jobs["evaluation"].device)

    def error(self, state: RunState) -> str:
        """Error that ended the latest session of a run in `state`; empty unless the state is failed."""
        return self.ended.error if self.ended is not None and state is RunState.FAILED else ""

    def take(self, timing: Timing) -> None:
        """Add the next line of timings.jsonl."""
        self.latest = timing
        match timing:
            case JobFailure():
                self.jobs[timing.kind].failed += 1
            case SessionTiming():
                self._open(timing.started)
                self.ended = timing
            case JobTiming():
                self._open(timing.session)
                self._add(timing)

    def _open(self, session: float) -> None:
        if session == self.started:
            return
        self._earlier += self.seconds
        self.sessions += 1
        self.started = self.last_job = session
        self.session, self.ended, self._was_idle = _sums(), None, True

    def _add(self, job: JobTiming) -> None:
        began, place = job.finished - job.cost.seconds, (job.phase, job.generation)
        for sums in (self.jobs[job.kind], self.session[job.kind], self.stages[job.phase][job.kind]):
            sums.found += job.cached
            sums.done += not job.cached
            sums.seconds += job.cost.seconds
            sums.waited += job.waited
            sums.cpu_seconds += job.cost.cpu_seconds
            sums.tokens += job.cost.tokens
            sums.device = sums.device.plus(job.cost.device or DeviceTime())
        self.phases[job.phase] += max(0.0, job.finished - self.last_job)
        if job.generation is not None:
            self.finished.pop((Phase.SEARCHING, job.generation - 2), None)
        self.finished.setdefault(place, set()).add(job.digest)
        if not job.cached:
            if self._was_idle:
                self.busy, self._was_idle = {"training": array("d"), "evaluation": array("d")}, False
            self.busy[job.kind].extend((began, job.finished))
            if job.generation is not None:
                first, _ = self.spans.get(job.generation, (self.last_job, 0.0))
                self.spans[job.generation] = (first, job.finished)
        self.last_job = max(self.last_job, job.finished)


def run_state(folder: RunFolder, work: WorkDone, finished: bool | None = None) -> RunState:
    """State of a run; never `PAUSED`, which needs the ledger.

    Args:
        folder: Folder of the run.
        work: Sums over its timings.
        finished: Whether its history has a final record; None looks it up.
    """
    if finished or (finished is None and folder.last("final") is not None):
        return RunState.FINISHED
    if (ended := work.ended) is not None and ended.started + ended.seconds >= folder.latest_start():
        return RunState.FAILED if ended.outcome == "failed" else RunState.STOPPED
    return RunState.RUNNING if folder.lives() else RunState.STOPPED
