"""The live state of a running evolution, and the interface of those who are notified of it.

`EvolutionState` is what the terminal, a progress callback and Prefect events show while an evolution runs. It counts what
this session does. Not covered: a run on disk, which `coral_core.runs.progress` describes from its files.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from coral_core.errors import StoreError
from coral_core.jobs.jobs import Cost
from coral_core.ledger import Standing
from coral_core.queue import Failure
from coral_core.runs.progress import Phase
from coral_core.runs.records import GenomeRecord, JobFailure, JobTiming
from coral_core.runs.run_folder import RunFolder
from coral_core.untrusted import in_a_line, visible

log = logging.getLogger("coral.evolve")

Outcome = Literal["finished", "stopped", "failed"]
JobKind = Literal["training", "evaluation"]


@dataclass(frozen=True)
class EvolutionState:
    """Where a running evolution stands.

    Attributes:
        run_id: Name of the run and of its folder.
        phase: What it does now.
        generation: Number of the generation under way, from 1; 0 before the first.
        generations: Generations at most.
        jobs_done: Trainings and evaluations that are done or were found in the store, in this session.
        jobs_running: Jobs that were submitted and have not ended.
        jobs_expected: Jobs of this session at most; ``jobs_done`` when it has finished.
        trainings: Trainings done by this session.
        evaluations: Evaluations done by this session.
        cached: Jobs whose result was in the store.
        best: Id of the fittest genome so far; at the end the champion. Empty before the first.
        best_fitness: Its weighted sum of objectives.
        best_pass_at_1: Share of the fitness bugs that it repairs, 0 to 1.
        baselines: ``base_model`` and ``default_lora`` -> share of the fitness bugs that they repair, 0 to 1.
        last_event: What happened last, for people.
        paused: Why the budget lets no job start; empty while it does.
        start: What the first population comes from, for people; empty when it comes from nothing.
        started: `time.monotonic` at the start of this session.
    """

    run_id: str = ""
    phase: Phase = Phase.STARTING
    generation: int = 0
    generations: int = 0
    jobs_done: int = 0
    jobs_running: int = 0
    jobs_expected: int = 0
    trainings: int = 0
    evaluations: int = 0
    cached: int = 0
    best: str = ""
    best_fitness: float | None = None
    best_pass_at_1: float | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)
    last_event: str = ""
    paused: str = ""
    start: str = ""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of this session so far."""
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the pace so far, in seconds; None before the first finished job and after the last.

        Example:
            >>> state = EvolutionState(jobs_done=10, jobs_expected=30, started=time.monotonic() - 60)
            >>> round(state.seconds_left)
            120
        """
        if not self.jobs_done or self.jobs_done >= self.jobs_expected:
            return None
        return self.seconds / self.jobs_done * (self.jobs_expected - self.jobs_done)


class Listener:
    """Is notified of what happens in an evolution; override what is of interest.

    Methods are called in the event loop of the evolution: they must return at once. What one raises ends the evolution.
    """

    def started(self, state: EvolutionState) -> None:
        """The session begins; the run may have been begun earlier."""

    def changed(self, state: EvolutionState) -> None:
        """Anything has changed."""

    def job_finished(self, state: EvolutionState) -> None:
        """A job is done, or was found in the store; ``last_event`` names it."""

    def champion_found(self, champion: GenomeRecord, generation: int, before: float | None) -> None:
        """Generation `generation` (from 0) ended with another champion; `before` is the fitness of the one it replaces."""

    def paused(self, why: str) -> None:
        """The budget lets no job start."""

    def resumed(self) -> None:
        """Jobs start again after a pause."""

    def budget_reached(self, percent: Literal[80, 100], standing: Standing) -> None:
        """`percent` of a limit is spent (100 also when what is left is too little for a job); once per limit and day."""

    def ended(self, state: EvolutionState, outcome: Outcome, error: str) -> None:
        """The session has ended; `error` is empty unless it failed."""


class Recorder:
    """Keeps the state of one session, adds its jobs to timings.jsonl, and notifies listeners."""

    def __init__(self, folder: RunFolder, listeners: Sequence[Listener] = (), **state: Any) -> None:
        self.folder = folder
        self.listeners = list(listeners)
        self.state = EvolutionState(run_id=folder.run_id, **state)

    def update(self, **changes: Any) -> None:
        """Replace fields of the state."""
        self.state = replace(self.state, **changes)
        for listener in self.listeners:
            listener.changed(self.state)

    def job_submitted(self) -> None:
        self.update(jobs_running=self.state.jobs_running + 1)

    def job_left(self) -> None:
        """A submitted job is no longer with the executor, whatever came of it."""
        self.update(jobs_running=self.state.jobs_running - 1)

    def job_finished(self, kind: JobKind, digest: str, label: str, cost: Cost | None, seconds: float = 0.0) -> None:
        """Book a finished job.

        Args:
            kind: What it was.
            digest: Of the job.
            label: Genome id, or baseline and split.
            cost: What it cost; None when its result was found in the store.
            seconds: From submission to result.

        Raises:
            StoreError: timings.jsonl cannot be written.
        """
        state, waited = self.state, max(0.0, seconds - cost.seconds) if cost else 0.0
        how = f"done in {cost.seconds:.1f} s" if cost else "found in the store"
        log.info("%s %s of %s %s", kind, digest[:12], label, f"{how} after {waited:.1f} s of waiting" if cost else how)
        self.folder.append_timing(
            JobTiming(
                kind=kind,
                digest=digest,
                label=label,
                cached=cost is None,
                finished=time.time(),
                waited=waited,
                cost=cost or Cost(),
            )
        )
        counter = "cached" if cost is None else "trainings" if kind == "training" else "evaluations"
        self.update(
            jobs_done=state.jobs_done + 1,
            last_event=f"{kind} of {label} {how}",
            **{counter: getattr(state, counter) + 1},
        )
        for listener in self.listeners:
            listener.job_finished(self.state)

    def job_failed(self, kind: str, digest: str, failure: Failure) -> None:
        """Add a failed try to timings.jsonl; executors call this from threads of theirs. Questions to lanes are no jobs of the run."""
        if kind == "identity":
            return
        record = JobFailure(
            kind="training" if kind == "training" else "evaluation",
            digest=digest,
            when=time.time(),
            error=failure.error,
            message=visible((failure.message.splitlines() or [""])[0])[:300],
        )
        try:
            self.folder.append_timing(record)
        except StoreError as error:  # the executor has more to do than to note this
            log.warning("a failed try could not be noted: %s", in_a_line(error))

    def genome_scored(self, genome_id: str, fitness: float | None, pass_at_1: float) -> None:
        """Show the genome when it is the fittest so far (display only: selection decides)."""
        best = self.state.best_fitness
        if fitness is not None and (best is None or fitness > best):
            self.update(best=genome_id, best_fitness=fitness, best_pass_at_1=pass_at_1)

    def budget_holds(self, why: str) -> None:
        """The budget lets no job start because of `why`, or lets jobs start (empty)."""
        before = self.state.paused
        if bool(why) == bool(before):
            if why != before:
                self.update(paused=why)
            return
        event = f"paused: {why}" if why else "the budget has room again: going on"
        log.warning("%s", event)
        self.update(paused=why, last_event=event)
        for listener in self.listeners:
            listener.paused(why) if why else listener.resumed()
