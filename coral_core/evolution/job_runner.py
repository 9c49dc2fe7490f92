"""Has each job of an evolution done once: asks the store, submits what is missing to the executor, books the result.

The store is the truth and is asked first. Only the executor tries a job again. How a job and a generation are run is
behind `Steps`: plain calls here, Prefect flows and tasks in flows/tasks.py.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from coral_core.errors import AdapterError, StoreError
from coral_core.execution.executor import Executor
from coral_core.genome import Genome
from coral_core.jobs.jobs import Cost, Evaluation, EvaluationJob, TrainedAdapter, TrainingJob
from coral_core.queue.queue import Failure
from coral_core.runs.records import JobFailure, JobKind, JobTiming, Phase
from coral_core.runs.run_folder import RunFolder
from coral_core.search.archive import Scored
from coral_core.store.store import Store
from coral_core.untrusted import in_a_line, visible

log = logging.getLogger("coral.evolve")

KEPT = 64
"""Evaluations in memory, at least; elites are asked for again in each generation."""


@dataclass(frozen=True)
class JobStep:
    """One training or evaluation as a step of an evolution.

    Attributes:
        job: What is to be done.
        digest: Of the job.
        label: Genome id, or baseline and split.
        found: Whether the result is in the store already.
        submit: Has the job done by the executor.
    """

    job: TrainingJob | EvaluationJob
    digest: str
    label: str
    found: bool
    submit: Callable[[], Awaitable[None]]

    async def run(self) -> None:
        """Do the job unless its result is in the store."""
        if not self.found:
            await self.submit()


class Steps:
    """Runs the steps of an evolution. Override to run them in an orchestrator."""

    async def job(self, step: JobStep) -> None:
        """Run one training or evaluation."""
        await step.run()

    async def generation(
        self, number: int, genomes: Sequence[Genome], evaluate: Callable[[], Awaitable[list[Scored]]]
    ) -> list[Scored]:
        """Run `evaluate`, which trains and evaluates the `genomes` of generation `number` (from 0)."""
        return await evaluate()


class Recorder:
    """Adds the jobs of one session to timings.jsonl.

    Args:
        folder: The run.
        booked: Is called after each job.

    Attributes:
        started: Unix time at which the session began.
        phase: What asks for jobs now.
        generation: The generation that asks for jobs now, from 0; None outside the search.
        done: Jobs that this session has done itself.
    """

    def __init__(self, folder: RunFolder, booked: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._booked = booked
        self.started = time.time()
        self.phase: Literal[Phase.BASELINES, Phase.SEARCHING, Phase.HELD_OUT] = Phase.BASELINES
        self.generation: int | None = None
        self.done: dict[JobKind, int] = {"training": 0, "evaluation": 0}

    def job_finished(
        self, job: TrainingJob | EvaluationJob, digest: str, label: str, cost: Cost | None = None, seconds: float = 0.0
    ) -> None:
        """Book a finished job.

        Args:
            job: What it was.
            digest: Of the job.
            label: Genome id or baseline, and split.
            cost: What it cost; None when its result was found in the store.
            seconds: From submission to result.

        Raises:
            StoreError: timings.jsonl cannot be written.
        """
        timing = JobTiming(
            session=self.started,
            phase=self.phase,
            generation=self.generation,
            kind="training" if isinstance(job, TrainingJob) else "evaluation",
            split=None if isinstance(job, TrainingJob) else job.split,
            digest=digest,
            label=label,
            cached=cost is None,
            finished=time.time(),
            waited=max(0.0, seconds - cost.seconds) if cost else 0.0,
            cost=cost or Cost(),
        )
        how = f"done in {cost.seconds:.1f} s after {timing.waited:.1f} s of waiting" if cost else "found in the store"
        log.info("%s %s of %s %s", timing.kind, digest[:12], label, how)
        self._folder.append_timing(timing)
        self.done[timing.kind] += cost is not None
        self._booked()

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
            self._folder.append_timing(record)
        except StoreError as error:  # the executor has more to do than to note this
            log.warning("a failed try could not be noted: %s", in_a_line(error))


class JobRunner:
    """Trains and evaluates for one evolution.

    Args:
        store: Where results are looked up; the executor publishes into it.
        executor: Does the jobs.
        recorder: Books them.
        steps: How a job is run.
        keep: Evaluations to keep in memory.
    """

    def __init__(
        self, store: Store, executor: Executor, recorder: Recorder, steps: Steps | None = None, keep: int = 0
    ) -> None:
        self._store = store
        self._executor = executor
        self._recorder = recorder
        self._steps = steps or Steps()
        self._keep = max(KEPT, keep)
        self._trained: set[str] = set()
        self._evaluated: set[str] = set()
        self._evaluations: dict[str, Evaluation] = {}
        """The latest, without verdicts: the store has them all, and a long run would hold gigabytes."""
        self._under_way: dict[str, asyncio.Task[None]] = {}
        """A task holds the context of the flow that made it, so none is kept when it is done."""
        self._submitting = ThreadPoolExecutor(max_workers=1, thread_name_prefix="submit")
        """Submissions may wait for a slow store: they are made in a thread of their own, in order."""

    def close(self) -> None:
        """Submit nothing more; waits for nothing."""
        self._submitting.shutdown(wait=False, cancel_futures=True)

    async def trained(self, job: TrainingJob, label: str) -> None:
        """Have the adapter of `job` in the store; genomes with the same heavy genes share one training.

        Raises:
            CoralError: the executor gave up.
        """
        digest = job.digest()
        if digest not in self._trained:
            await self._once(digest, lambda: self._train(job, digest, label))

    async def evaluated(self, job: EvaluationJob, label: str) -> Evaluation:
        """The evaluation of `job` without its verdicts, started as soon as its adapter is there.

        Raises:
            CoralError: the executor gave up.
        """
        digest = job.digest()
        if digest not in self._evaluated:
            await self._once(digest, lambda: self._evaluate(job, digest, label))
        return self._remember(digest, self._evaluations.get(digest) or await self._stored(job, digest))

    async def _once(self, digest: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do `work`, or wait for whoever does it."""
        if digest not in self._under_way:
            task = self._under_way[digest] = asyncio.create_task(work())
            task.add_done_callback(lambda _: self._under_way.pop(digest, None))
        await asyncio.shield(self._under_way[digest])

    async def _train(self, job: TrainingJob, digest: str, label: str) -> None:
        found = await asyncio.to_thread(self._store.read_adapter, digest)
        await self._step(job, digest, label, found is not None)
        if found is None and await asyncio.to_thread(self._store.read_adapter, digest) is None:
            raise self._is_gone("adapter", digest)
        self._trained.add(digest)

    async def _evaluate(self, job: EvaluationJob, digest: str, label: str) -> None:
        if job.training is not None:
            await self.trained(job.training, label)
        found = await asyncio.to_thread(self._store.read_evaluation, digest)
        try:
            await self._step(job, digest, label, found is not None)
        except AdapterError as error:
            if job.training is None:
                raise
            # it is not what was trained, and the lane moved it away, or it was damaged since: once more, with a new one
            adapter = job.training.digest()
            log.warning("adapter %s of %s is trained anew: %s", adapter[:12], label, in_a_line(error))
            self._trained.discard(adapter)
            await self.trained(job.training, label)
            await self._step(job, digest, label, False)
        self._remember(digest, _without_verdicts(job, found) if found else await self._stored(job, digest))

    async def _step(self, job: TrainingJob | EvaluationJob, digest: str, label: str, found: bool) -> None:
        step = JobStep(job, digest, label, found, lambda: self._submit(job, digest, label))
        await self._steps.job(step)
        if found:
            self._recorder.job_finished(job, digest, label)

    async def _submit(self, job: TrainingJob | EvaluationJob, digest: str, label: str) -> None:
        """Have the job done; meanwhile the event loop goes on, whatever the submission waits for."""
        started, loop = time.perf_counter(), asyncio.get_running_loop()
        kind: JobKind = "training" if isinstance(job, TrainingJob) else "evaluation"
        submit: Any = self._executor.submit_training if kind == "training" else self._executor.submit_evaluation
        log.info("%s %s of %s submitted", kind, digest[:12], label)
        future: Future[TrainedAdapter | Evaluation] = await loop.run_in_executor(self._submitting, submit, job)
        result = await asyncio.wrap_future(future)
        self._recorder.job_finished(job, digest, label, result.cost, time.perf_counter() - started)

    async def _stored(self, job: EvaluationJob, digest: str) -> Evaluation:
        evaluation = await asyncio.to_thread(self._store.read_evaluation, digest)
        if evaluation is None:
            raise self._is_gone("evaluation", digest)
        return _without_verdicts(job, evaluation)

    def _remember(self, digest: str, evaluation: Evaluation) -> Evaluation:
        """Keep `evaluation` in memory as the latest; those not asked for in the last generations go."""
        self._evaluated.add(digest)
        self._evaluations.pop(digest, None)
        self._evaluations[digest] = evaluation
        while len(self._evaluations) > self._keep:
            del self._evaluations[next(iter(self._evaluations))]
        return evaluation

    def _is_gone(self, kind: str, digest: str) -> StoreError:
        return StoreError(
            f"store {self._store.root}: {kind} {digest[:12]} was published and is gone",
            remedy="Check that the store is still mounted, and that no other program cleans it up.",
        )


def _without_verdicts(job: EvaluationJob, evaluation: Evaluation) -> Evaluation:
    # who repairs which problem is asked of the base model, and at the end, of what is in the final table
    passed = evaluation.passed if job.training is None or job.split == "held_out" else ()
    return evaluation.model_copy(update={"records": (), "passed": passed})
