"""What one evolution shares between its flows and tasks while it runs in this process.

Tasks take and return plain JSON; the executor, the store and the progress board are
reached through a context variable, so that nothing live is ever a flow parameter.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from coral_core.errors import StoreError
from coral_core.evolution.planner import Planner
from coral_core.jobs.jobs import Cost, Evaluation, EvaluationJob, TrainingJob
from coral_core.ledger import Standing
from coral_core.queue import Failure
from coral_core.runs.records import JobFailure, JobTiming
from coral_core.runs.run_folder import RunFolder
from coral_core.search.strategy import Scored
from coral_core.store.store import Store
from coral_core.untrusted import in_a_line, visible
from flows.observe import events
from flows.work_pools import Executor

log = logging.getLogger("coral.evolve")
Result = TypeVar("Result")


KEPT = 64
"""Evaluations at hand, at least; elites are asked for again in each generation."""


@dataclass
class Board:
    """Where the evolution stands; what the terminal and the progress artifact show."""

    phase: str = "starting"
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
    baselines: dict[str, float] = field(default_factory=dict)
    last_event: str = ""
    paused: str = ""
    start: str = ""
    ui_url: str = ""
    started: float = field(default_factory=time.monotonic)
    work_seconds: float = 0.0

    def seconds_left(self) -> float | None:
        """Estimate from the pace so far; None before the first finished job."""
        if not self.jobs_done or self.jobs_done >= self.jobs_expected:
            return None
        return (time.monotonic() - self.started) / self.jobs_done * (self.jobs_expected - self.jobs_done)


@dataclass
class Session:
    """One `evolve` in this process."""

    planner: Planner
    store: Store
    executor: Executor
    folder: RunFolder
    board: Board = field(default_factory=Board)
    on_change: Callable[[], None] = lambda: None
    on_budget: Callable[[int, Standing], None] = lambda percent, standing: None
    on_generation: Callable[[int, str], None] = lambda number, flow_run_id: None
    adapters: set[str] = field(default_factory=set)
    """Trainings that are in the store, by digest."""
    evaluated: set[str] = field(default_factory=set)
    """Evaluations that are in the store, by digest."""
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    """The latest of them, without verdicts. The store has them all, and a long run would hold gigabytes."""
    under_way: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)
    """Trainings and evaluations. A task holds the context of the flow that made it, so none is kept when it is done."""
    jobs: dict[str, TrainingJob | EvaluationJob] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)
    submitting: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="submit")
    )
    """Submissions read and write the queue and may wait for a slow store: in a thread of their own, in their order."""

    async def submitted(self, submit: Callable[..., "Future[Result]"], job: TrainingJob | EvaluationJob) -> Result:
        """The result of a job, once a lane has done it; meanwhile the event loop goes on, whatever the submission waits for."""
        future = await asyncio.get_running_loop().run_in_executor(self.submitting, submit, job)
        return await asyncio.wrap_future(future)

    @property
    def pointers(self) -> Path:
        """Where Prefect's task cache keeps its JSON pointers: beside the store they point into."""
        return self.store.root / "prefect-cache"

    def keep(self, digest: str, evaluation: Evaluation) -> None:
        """Have `evaluation` at hand, as the latest; those not asked for in the last generations go."""
        self.evaluated.add(digest)
        self.evaluations.pop(digest, None)
        self.evaluations[digest] = evaluation
        while len(self.evaluations) > max(KEPT, 4 * self.planner.config.search.population):
            del self.evaluations[next(iter(self.evaluations))]

    def failed(self, kind: str, digest: str, failure: Failure) -> None:
        """Put a failed try on record; called by executors, from threads of theirs. A question to a lane is no job of the run."""
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

    def running(self, change: int) -> None:
        """Count a job that enters (+1) or leaves (-1) the executor."""
        self.board.jobs_running += change
        self.on_change()

    def consider(self, scored: Scored, pass_at_1: float) -> None:
        """Show `scored` on the board when it is the fittest so far (display only: selection decides)."""
        board = self.board
        if scored.fitness is not None and (board.best_fitness is None or scored.fitness > board.best_fitness):
            board.best, board.best_fitness, board.best_pass_at_1 = scored.genome.genome_id, scored.fitness, pass_at_1
            self.on_change()

    def finished(self, kind: str, digest: str, label: str, cached: bool, seconds: float, cost: Cost) -> None:
        """Book a finished job: timings, counters, board."""
        board = self.board
        board.jobs_done += 1
        if cached:
            board.cached += 1
        elif kind == "training":
            board.trainings += 1
        else:
            board.evaluations += 1
        board.work_seconds += 0.0 if cached else cost.seconds
        board.last_event = f"{kind} of {label} {'found in the store' if cached else f'done in {cost.seconds:.1f} s'}"
        waited = max(0.0, seconds - cost.seconds) if not cached else 0.0
        how = "found in the store" if cached else f"done in {cost.seconds:.1f} s after {waited:.1f} s of waiting"
        log.info("%s %s of %s %s", kind, digest[:12], label, how)
        self.folder.append_timing(
            JobTiming(
                kind="training" if kind == "training" else "evaluation",
                digest=digest,
                label=label,
                cached=cached,
                finished=time.time(),
                waited=waited,
                cost=Cost() if cached else cost,
            )
        )
        events.job_finished(self.folder.run_id, board.jobs_done, board.jobs_expected, board.last_event)
        self.on_change()


current: ContextVar[Session] = ContextVar("coral_session")
"""The evolution that the running task or flow belongs to."""

watcher: ContextVar[Callable[[Board], None] | None] = ContextVar("coral_watcher", default=None)
"""Called with the board whenever it changes; the terminal sets it."""
