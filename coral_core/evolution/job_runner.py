"""From genomes to results: builds the jobs of an evolution, looks in the store, submits missing ones, records the results.

A job holds every part of the configuration that changes its outcome. Lanes derive the same contents from the same
configuration; one whose code renders other data refuses the job (`Lane`), so that one digest never stands for two contents.
The store decides whether a job is done. Only the executor retries a job. `Steps` defines how a job and a generation are
run: by plain calls here, by Prefect flows and tasks in flows/tasks.py.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Self

from coral_core.config import RunConfig
from coral_core.errors import AdapterError, StoreError
from coral_core.execution.executor import Executor
from coral_core.genome import Genome, HeavyGenes, LightGenes, neutral
from coral_core.jobs.job_content import pairs_digest, problem_set, split_digest, tool_versions
from coral_core.jobs.jobs import (
    BaseModelIdentity,
    Cost,
    Evaluation,
    EvaluationJob,
    QueueName,
    TrainedAdapter,
    TrainingJob,
)
from coral_core.lm.versions import RECIPE_VERSION
from coral_core.lm.vllm_interpreter import vllm_settings
from coral_core.problems.problem import Problem, Split
from coral_core.prompting.choice import named_template, resolve_prompt
from coral_core.prompting.templates import PromptTemplate
from coral_core.queue.queue import Failure
from coral_core.runs.identities import Identities
from coral_core.runs.records import JobFailure, JobKind, JobTiming, Phase, RunIdentity, RunRecord
from coral_core.runs.run_folder import RunFolder, identify_run
from coral_core.scoring.plugins import objective_versions
from coral_core.search.archive import Scored
from coral_core.store.store import Store
from coral_core.untrusted import in_a_line, visible

log = logging.getLogger("coral.evolve")

KEPT = 64
"""Smallest number of evaluations kept in memory; each generation asks for those of its elites again."""


class Planner:
    """Builds the jobs of one run.

    Args:
        config: The whole configuration.
        identity: Identity of the run; its seed goes into the jobs.
        lanes: The base model on the lanes of both queues; None while unknown, and to be set before the first job is built.
        prompt: The prompt template of an earlier session; None: that of the configuration and the base model.

    Attributes:
        base_passes: Ids of the fitness problems that the bare base model repairs; set after its evaluation.
    """

    def __init__(
        self,
        config: RunConfig,
        identity: RunIdentity,
        lanes: Identities | None = None,
        prompt: PromptTemplate | None = None,
    ) -> None:
        self.config = config
        self.identity = identity
        self.lanes = lanes
        self._prompt = prompt
        self.base_passes: tuple[str, ...] = ()
        self._scope = identity.run_id if config.store.reuse == "run" else ""

    @classmethod
    def of_config(cls, config: RunConfig, lanes: Identities | None = None) -> Self:
        """The planner for the first edition of a configuration.

        Args:
            config: The whole configuration.
            lanes: The base model on the lanes of both queues; None stands for lanes of this machine.
        """
        return cls(config, identify_run(config), lanes or Identities.here(config))

    @classmethod
    def of_run(cls, config: RunConfig, record: RunRecord, identity: RunIdentity | None = None) -> Self:
        """The planner of a run that has begun.

        Args:
            config: Its configuration.
            record: The first record of its history.
            identity: Its identity, if it comes from somewhere else than `record`.
        """
        base: BaseModelIdentity = record.base_model
        trained_on = base.model_copy(update={"numerics_class": record.training_numerics_class})
        return cls(config, identity or record.identity, Identities(training=trained_on, evaluation=base), record.prompt)

    @property
    def prompt(self) -> PromptTemplate:
        """The prompt template. Raises `LookupError` while the base model is unknown, and as `resolve_prompt`."""
        if self._prompt is None:
            base = self.config.base_model
            self._prompt = named_template(base) or resolve_prompt(base, self.base("training").chat)
        return self._prompt

    @property
    def carried_prompt(self) -> PromptTemplate | None:
        """The prompt template as jobs and the history carry it: None where the configuration names a built-in one."""
        return None if named_template(self.config.base_model) else self.prompt

    def base(self, queue: QueueName) -> BaseModelIdentity:
        """Identity of the base model on the lanes of `queue`. Raises `LookupError` while it is unknown."""
        if self.lanes is None:
            raise LookupError("no lane has said yet what the base model is: ask them first: Executor.identities")
        return self.lanes.training if queue == "training" else self.lanes.evaluation

    def problems(self, split: Split) -> tuple[Problem, ...]:
        """The problems of `split`."""
        return problem_set(self.config.problems).split(split)

    def training(self, heavy: HeavyGenes, replicate: int = 0) -> TrainingJob:
        """The training of an adapter.

        Args:
            heavy: Its genes.
            replicate: Number of the repeat with other seeds; 0 for the original.
        """
        base = self.base("training")
        return TrainingJob(
            heavy=heavy,
            base_model=self.config.base_model,
            base_content_id=base.content_id,
            numerics_class=base.numerics_class,
            recipe=self.config.training,
            recipe_version=RECIPE_VERSION,
            problems=self.config.problems,
            pairs_digest=pairs_digest(self.config.problems, self.prompt),
            prompt_version=self.prompt.version,
            prompt=self.carried_prompt,
            run_seed=self.identity.run_seed,
            replicate=replicate,
            scope=self._scope,
        )

    def evaluation(
        self, heavy: HeavyGenes | None, light: LightGenes | None = None, split: Split = "fitness", replicate: int = 0
    ) -> EvaluationJob:
        """The evaluation of an adapter on one split.

        Args:
            heavy: Genes of the adapter; None for the bare base model.
            light: Genes of decoding; None for greedy decoding with the largest token limit, as the baselines use.
            split: The problems to evaluate on.
            replicate: Number of the repeat with other seeds; 0 for the original.
        """
        base = self.base("evaluation")
        return EvaluationJob(
            training=self.training(heavy, replicate) if heavy else None,
            base_model=self.config.base_model,
            base_content_id=base.content_id,
            numerics_class=base.numerics_class,
            light=light or neutral(self.config.genes.light.token_limit.high),
            problems=self.config.problems,
            split=split,
            problems_digest=split_digest(self.config.problems, split),
            generation=self.config.generation,
            vllm=vllm_settings(self.config),
            judge=self.config.scoring.judge,
            versions=tool_versions(self.prompt),
            prompt=self.carried_prompt,
            objectives=objective_versions(self.config.scoring),
            base_passes=self.base_passes if split == "fitness" and heavy else (),
            run_seed=self.identity.run_seed,
            replicate=replicate,
            scope=self._scope,
        )

    def of(self, genome: Genome, split: Split = "fitness") -> EvaluationJob:
        """The evaluation of a genome.

        Args:
            genome: Gives heavy and light genes.
            split: The problems to evaluate on.
        """
        return self.evaluation(genome.heavy, genome.light, split)


@dataclass(frozen=True)
class JobStep:
    """One training or evaluation as a step of an evolution.

    Attributes:
        job: The job.
        digest: Digest of the job.
        label: Genome id or name of a baseline, and the split where it is not fitness; for people.
        found: Whether the result is in the store already.
        submit: Submits the job to the executor, waits for its result and keeps it.
    """

    job: TrainingJob | EvaluationJob
    digest: str
    label: str
    found: bool
    submit: Callable[[], Awaitable[None]]

    async def run(self) -> None:
        """Run the job unless its result is in the store."""
        if not self.found:
            await self.submit()


class Steps:
    """Runs the steps of an evolution. Override to run them in an orchestrator."""

    async def job(self, step: JobStep) -> None:
        """Run one training or evaluation by `step.run`, or show that it was found."""
        await step.run()

    async def generation(
        self, number: int, genomes: Sequence[Genome], evaluate: Callable[[], Awaitable[list[Scored]]]
    ) -> list[Scored]:
        """Run one generation.

        Args:
            number: Number of the generation, from 0.
            genomes: Its genomes.
            evaluate: Trains and evaluates `genomes`; must be called once.

        Returns:
            The result of `evaluate`: one per genome, in their order.
        """
        return await evaluate()


class Recorder:
    """Adds the jobs of one session to timings.jsonl.

    Args:
        folder: Folder of the run.
        booked: Called without arguments after each recorded job.

    Attributes:
        started: Unix time at which the session began.
        phase: Phase that requests jobs now; the evolution sets it.
        generation: Generation that requests jobs now, from 0; None outside the search. The evolution sets it.
        done: Number of jobs by kind that this session did itself, without those found in the store.
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
        """Record a finished job.

        Args:
            job: The job.
            digest: Digest of the job.
            label: Genome id or name of a baseline, and split; for people.
            cost: Cost of the job; None when its result was found in the store.
            seconds: Seconds from submission to result, waiting included.

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
        """Record a failed attempt of a job in timings.jsonl. Executors call this from their own threads.

        Args:
            kind: Kind of the job; ``identity`` is ignored, since such a job is not part of the run.
            digest: Digest of the job.
            failure: Error of the attempt.
        """
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
        except StoreError as error:  # an attempt without a record must not disturb the executor
            log.warning("a failed try could not be noted: %s", in_a_line(error))


class JobRunner:
    """Trains adapters and evaluates genomes for one evolution.

    Args:
        store: Where results are looked up; the executor publishes into it.
        executor: Runs the jobs.
        recorder: Records finished jobs.
        steps: How a job is run; None for plain calls.
        keep: Number of evaluations to keep in memory; at least `KEPT` are kept.
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
        """The latest evaluations without verdicts, which would take gigabytes in a long run; the store has them."""
        self._under_way: dict[str, asyncio.Task[None]] = {}
        """Digest -> running task. A task is removed when it is done, since it holds the context of its flow."""
        self._submitting = ThreadPoolExecutor(max_workers=1, thread_name_prefix="submit")
        """One thread for submissions, which may wait for a slow store; it keeps their order."""

    def close(self) -> None:
        """Cancel submissions that have not begun; does not wait for running jobs."""
        self._submitting.shutdown(wait=False, cancel_futures=True)

    async def trained(self, job: TrainingJob, label: str) -> None:
        """Wait until the adapter of `job` is in the store; train it if it is missing.

        Genomes with the same heavy genes share one training.

        Args:
            job: The training.
            label: Genome id or name of a baseline; for people.

        Raises:
            CoralError: the executor gave up.
        """
        digest = job.digest()
        if digest not in self._trained:
            await self._once(digest, lambda: self._train(job, digest, label))

    async def evaluated(self, job: EvaluationJob, label: str) -> Evaluation:
        """Train the adapter of `job` if it is missing, then evaluate.

        Args:
            job: The evaluation; without `training` the bare base model is evaluated.
            label: Genome id or name of a baseline, and split; for people.

        Returns:
            The evaluation without its verdicts. `passed` is kept for the bare base model and for the held-out split only.

        Raises:
            CoralError: the executor gave up.
        """
        digest = job.digest()
        if digest not in self._evaluated:
            await self._once(digest, lambda: self._evaluate(job, digest, label))
        return self._remember(digest, self._evaluations.get(digest) or await self._stored(job, digest))

    async def _once(self, digest: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work`, or wait for the task that already runs it for the same digest."""
        if digest not in self._under_way:
            task = self._under_way[digest] = asyncio.create_task(work())
            task.add_done_callback(lambda _: self._under_way.pop(digest, None))
        await asyncio.shield(self._under_way[digest])

    async def _train(self, job: TrainingJob, digest: str, label: str) -> None:
        adapter = await asyncio.to_thread(self._store.read_adapter, digest)
        earlier = job.warm_start() if adapter is None else None
        if earlier is not None:
            await self.trained(earlier, f"{label} warm start")
        try:
            await self._step(job, digest, label, adapter is not None)
        except AdapterError as error:
            if earlier is None:
                raise
            await self._again(earlier, label, error)
            await self._step(job, digest, label, False)
        self._trained.add(digest)

    async def _again(self, job: TrainingJob, label: str, error: AdapterError) -> None:
        """Train an adapter anew that is damaged or not what was trained, and that the lane removed."""
        digest = job.digest()
        log.warning("adapter %s of %s is trained anew: %s", digest[:12], label, in_a_line(error))
        self._trained.discard(digest)
        await self.trained(job, label)

    async def _evaluate(self, job: EvaluationJob, digest: str, label: str) -> None:
        if job.training is not None:
            await self.trained(job.training, label)
        stored = await asyncio.to_thread(self._store.read_evaluation, digest)
        try:
            await self._step(job, digest, label, stored is not None)
        except AdapterError as error:
            if job.training is None:
                raise
            await self._again(job.training, label, error)
            await self._step(job, digest, label, False)
        if stored is not None:
            self._remember(digest, _without_verdicts(job, stored))

    async def _step(self, job: TrainingJob | EvaluationJob, digest: str, label: str, found: bool) -> None:
        step = JobStep(job, digest, label, found, lambda: self._submit(job, digest, label))
        await self._steps.job(step)
        if found:
            self._recorder.job_finished(job, digest, label)

    async def _submit(self, job: TrainingJob | EvaluationJob, digest: str, label: str) -> None:
        """Submit the job and wait for its result without blocking the event loop."""
        started, loop = time.perf_counter(), asyncio.get_running_loop()
        kind: JobKind = "training" if isinstance(job, TrainingJob) else "evaluation"
        submit: Any = self._executor.submit_training if kind == "training" else self._executor.submit_evaluation
        log.info("%s %s of %s submitted", kind, digest[:12], label)
        future: Future[TrainedAdapter | Evaluation] = await loop.run_in_executor(self._submitting, submit, job)
        result = await asyncio.wrap_future(future)
        if isinstance(job, EvaluationJob) and isinstance(result, Evaluation):
            self._remember(digest, _without_verdicts(job, result))
        self._recorder.job_finished(job, digest, label, result.cost, time.perf_counter() - started)

    async def _stored(self, job: EvaluationJob, digest: str) -> Evaluation:
        evaluation = await asyncio.to_thread(self._store.read_evaluation, digest)
        if evaluation is None:
            raise StoreError(
                f"store {self._store.root}: evaluation {digest[:12]} was published and is gone",
                remedy="Check that the store is still mounted, and that no other program cleans it up.",
            )
        return _without_verdicts(job, evaluation)

    def _remember(self, digest: str, evaluation: Evaluation) -> Evaluation:
        """Keep `evaluation` in memory as the latest; the least recently used ones are dropped."""
        self._evaluated.add(digest)
        self._evaluations.pop(digest, None)
        self._evaluations[digest] = evaluation
        while len(self._evaluations) > self._keep:
            del self._evaluations[next(iter(self._evaluations))]
        return evaluation


def _without_verdicts(job: EvaluationJob, evaluation: Evaluation) -> Evaluation:
    # ids of repaired problems are needed for the base model, and for the final table
    passed = evaluation.passed if job.training is None or job.split == "held_out" else ()
    return evaluation.model_copy(update={"records": (), "passed": passed})
