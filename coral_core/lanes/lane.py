"""Runs the jobs of one lane: trains adapters, evaluates genomes, tests code, and publishes the results.

The same code serves all executors: `inline` calls it in a thread of this process, `local` in a
thread per lane, `work-pools` in a lane flow. Results are published before they are
returned; a job whose result is in the store is not done again. Not covered: queues, retries
(execution/attempts.py) and jobs that do not return (worker.py).
"""

import logging
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from coral_core.config.scoring_config import JudgeConfig
from coral_core.config.tree import BaseModelConfig
from coral_core.errors import (
    AdapterError,
    EngineDiedError,
    EngineError,
    EngineMemoryError,
    EngineTimeOutError,
    Infeasible,
)
from coral_core.jobs.job_content import (
    find_problem,
    pairs_digest,
    problem_set,
    prompt_template,
    split_digest,
    tool_versions,
)
from coral_core.jobs.jobs import (
    BaseModelIdentity,
    Cost,
    Evaluation,
    EvaluationJob,
    IdentityJob,
    Job,
    ProblemRecord,
    Result,
    Sample,
    TestJob,
    TestResult,
    TrainedAdapter,
    TrainingJob,
    VllmSettings,
)
from coral_core.judge.judge import JUDGE_VERSION, ORACLE_VERSION, Judge
from coral_core.lanes.allowed_paths import Roots
from coral_core.lanes.device_clock import DeviceClock
from coral_core.lanes.judging import Judging
from coral_core.lm.base_model import files_state
from coral_core.lm.engine_client import Engine
from coral_core.lm.requests import AdapterFolder, Entry, GenerationRequest, TrainingRequest, Written
from coral_core.lm.vllm_client import VllmProcess
from coral_core.problems.problem import Problem
from coral_core.scoring.boundary import CompletionScorer, Items
from coral_core.scoring.judged import Judged
from coral_core.scoring.measuring_process import MeasuringProcess
from coral_core.scoring.objectives import score
from coral_core.scoring.text_process import TextProcess
from coral_core.store.store import Store
from coral_core.time_limit import TimeLimit

log = logging.getLogger("coral.lane")

COMPLETION_CHARACTERS = 8_000
"""Characters of each completion and patch that an evaluation keeps."""


class Lane:
    """Runs training, evaluation, test and identity jobs, one at a time. Only `stop` may be called from another thread.

    The time limit of a job starts when problems and base model are in memory. When it is over, the work in progress is
    ended and the job fails with `EngineTimeOutError`; a time limit never changes a verdict or a score.

    Args:
        store: Results are published here; adapters are read from here.
        engine: Trains adapters and generates completions. The lane owns it: `close` ends it. Evaluations by vLLM have an engine
            of their own, which starts with the first of them.
        roots: Folders that jobs may name on this machine; None: any, where nobody else submits jobs.
        clock: Books the lane's seconds; None: one that begins now. Give that of a lane which this one replaces.
    """

    def __init__(
        self, store: Store, engine: Engine, roots: Roots | None = None, clock: DeviceClock | None = None
    ) -> None:
        self.store = store
        self.engine = engine
        self._roots = roots
        self.limit: TimeLimit | None = None
        """Time limit of the job in flight; None if there is none."""
        self.clock = clock or DeviceClock()
        self._measurer = MeasuringProcess()
        self._texts = TextProcess()
        self._judge: Judge | None = None
        self._judge_key = ""
        self._reference_lines: dict[str, list[int]] = {}
        self._lock = threading.Lock()
        self._vllm: VllmProcess | None = None
        self._files: dict[Engine, tuple[BaseModelConfig, tuple[object, ...]]] = {}
        """The base model that an engine was last asked to load, and the state of its files before that."""
        self.stopped = False

    def stop(self) -> None:
        """End the job in flight, from any thread. It fails soon; this lane takes no further job."""
        with self._lock:
            self.stopped = True
            judge = self._judge
            texts = self._texts
            engines = [self.engine, *([self._vllm] if self._vllm else [])]
        for engine in engines:
            engine.kill()
        self._measurer.kill()
        texts.kill()
        if judge is not None:
            judge.kill()

    def close(self) -> None:
        """End the processes of engine, judge and plug-ins."""
        self.engine.close()
        if self._vllm is not None:
            self._vllm.close()
        self._measurer.close()
        self._texts.close()
        if self._judge is not None:
            self._judge.close()
            self._judge = None

    def do(self, job: Job, seconds: float) -> Result:
        """Run a job of any kind. Raises as the method for its kind does.

        Args:
            job: The job.
            seconds: Time limit; identity jobs have none.

        Raises:
            ConfigError: the job names a folder outside the roots; nothing was read or run.
        """
        if self._roots is not None:
            self._roots.check_job(job)
        if isinstance(job, TrainingJob):
            return self.train(job, seconds)
        if isinstance(job, EvaluationJob):
            return self.evaluate(job, seconds)
        return self.test(job, seconds) if isinstance(job, TestJob) else self.identify(job)

    def train(self, job: TrainingJob, seconds: float) -> TrainedAdapter:
        """Train and publish an adapter. An infeasible one is published as such, not raised.

        Args:
            job: The training.
            seconds: Time limit; loading the base model is not counted.

        Returns:
            The record of the adapter, from the store if it was there.

        Raises:
            AdapterError: the adapter that it goes on with is not in the store, or the engine cannot use it; then it is set aside.
            EngineError: the engine failed or the time limit is over; the job may be tried again.
            StoreError: the result cannot be written.
        """
        digest = job.digest()
        if (adapter := self.store.read_adapter(digest)) is not None:
            return adapter
        with self._limited(seconds) as limit:
            return self._train(job, digest, limit)

    def _train(self, job: TrainingJob, digest: str, limit: TimeLimit) -> TrainedAdapter:
        prompt = prompt_template(job)
        if pairs_digest(job.problems, prompt) != job.pairs_digest or prompt.version != job.prompt_version:
            raise EngineError(
                f"training {digest[:12]}: this lane renders other training data than the job names",
                remedy="Deploy one version of the code everywhere.",
            )
        warm_start = self._warm_start(job, digest)
        if isinstance(warm_start, TrainedAdapter):  # an infeasible one
            reason = f"the training that it goes on with has no adapter: {warm_start.reason}"
            record = TrainedAdapter(training_digest=digest, infeasible=warm_start.infeasible, reason=reason)
            self.store.publish_adapter(digest, self.store.scratch(), record)
            return record
        scratch = self.store.scratch()
        request = training_request(job, scratch, warm_start)
        try:
            self._load(self.engine, job)
            limit.begin()
            with self.clock.during("computing"):
                record = self.engine.train(request, limit.seconds)
        except Infeasible as error:
            record = TrainedAdapter(training_digest=digest, infeasible=error.reason, reason=str(error))
        except BaseException as error:
            self.store.discard(scratch)
            if isinstance(error, AdapterError) and (earlier := job.warm_start()) is not None:
                # its checksums are right, so it would be kept otherwise
                self.store.set_aside("adapter", earlier.digest())
            raise
        cost = record.cost.model_copy(update={"device": self.clock.since_last_job()})
        record = record.model_copy(update={"cost": cost})
        self.store.publish_adapter(digest, scratch, record)
        return record

    def _warm_start(self, job: TrainingJob, digest: str) -> AdapterFolder | TrainedAdapter | None:
        """The adapter that a training goes on with; its record where it is infeasible; None for a training from nothing."""
        if (earlier := job.warm_start()) is None:
            return None
        name = earlier.digest()
        if (record := self.store.read_adapter(name)) is None:
            raise AdapterError(
                f"training {digest[:12]}: adapter {name[:12]}, which it goes on with, is not in the store",
                remedy="Train it first.",
            )
        return record if record.infeasible else AdapterFolder(folder=self.store.adapter_path(name), heavy=earlier.heavy)

    def evaluate(self, job: EvaluationJob, seconds: float, written: Written | None = None) -> Evaluation:
        """Generate completions, judge the patches, compute the scores, and publish the evaluation.

        Args:
            job: The evaluation.
            seconds: Time limit; loading problems and base model is not counted.
            written: Its completions, where they were written together with those of other jobs.

        Returns:
            The evaluation, from the store if it was there.

        Raises:
            AdapterError: the adapter is not in the store, or the engine cannot use it; then it is set aside.
            EngineError: the engine failed or the time limit is over; the job may be tried again.
            JudgeError: the judge reached no verdict.
            StoreError: the result cannot be written.
        """
        digest = job.digest()
        if (evaluation := self.store.read_evaluation(digest)) is not None:
            return evaluation
        with self._limited(seconds) as limit:
            return self._evaluate(job, digest, limit, written)

    def evaluate_together(self, jobs: Sequence[EvaluationJob], seconds: float) -> list[Evaluation | Exception]:
        """Evaluate jobs of one `pack_key`: their completions are written in one request, which costs less.

        If that fails, because memory is short, the engine dies or one adapter cannot be used, the halves are tried in the same
        way, and in the end each job as `evaluate` does. So a failure is evidence against the job that fails alone.

        Args:
            jobs: The evaluations.
            seconds: Time limit of each.

        Returns:
            For each job its evaluation, published, or what `evaluate` raised.
        """
        written: dict[str, Written] = {}
        if len(jobs) > 1:
            try:
                written = self._write_together(jobs, seconds)
            except Exception as error:
                if self.stopped:
                    return [error] * len(jobs)
                log.warning("%d evaluations together failed (%s): halves are tried", len(jobs), type(error).__name__)
                half = len(jobs) // 2
                return [*self.evaluate_together(jobs[:half], seconds), *self.evaluate_together(jobs[half:], seconds)]
        found: list[Evaluation | Exception] = []
        for job in jobs:
            try:
                found.append(self.evaluate(job, seconds, written.get(job.digest())))
            except Exception as error:
                found.append(error)
        return found

    def _write_together(self, jobs: Sequence[EvaluationJob], seconds: float) -> dict[str, Written]:
        """Digest -> what was written for it, for the jobs that have no result and whose adapter can be used."""
        waiting = {job.digest(): job for job in jobs if self._needs_engine(job)}
        if not waiting:
            return {}
        first = next(iter(waiting.values()))
        request = generation_request(first, None)
        entries = tuple(entry(job, self._adapter_path(job)) for job in waiting.values())
        with self._limited(seconds * len(waiting)) as limit:
            engine = self._engine_for(first.vllm)
            self._load(engine, first)
            limit.begin()
            with self.clock.during("computing"):
                generated = engine.generate(request.model_copy(update={"entries": entries}), limit.seconds)
        device = self.clock.since_last_job()
        whole = sum(part.cost.seconds for part in generated.entries) or 1.0
        return {
            digest: part.model_copy(
                update={"cost": part.cost.model_copy(update={"device": device.times(part.cost.seconds / whole)})}
            )
            for digest, part in zip(waiting, generated.entries, strict=True)
        }

    def _needs_engine(self, job: EvaluationJob) -> bool:
        if self.store.read_evaluation(job.digest()) is not None:
            return False
        adapter = self.store.read_adapter(job.training_digest) if job.heavy is not None else None
        return job.heavy is None or (adapter is not None and not adapter.infeasible)

    def _adapter_path(self, job: EvaluationJob) -> Path | None:
        return self.store.adapter_path(job.training_digest) if job.heavy else None

    def _evaluate(self, job: EvaluationJob, digest: str, limit: TimeLimit, written: Written | None) -> Evaluation:
        started = time.perf_counter()
        if split_digest(job.problems, job.split) != job.problems_digest:
            raise EngineError(
                f"evaluation {digest[:12]}: this lane holds other problems than the job names",
                remedy="Deploy one version of the code everywhere.",
            )
        _check_versions(job.versions, tool_versions(prompt_template(job)), f"evaluation {digest[:12]}")
        adapter: TrainedAdapter | None = None
        training_digest = job.training_digest
        if job.heavy is not None:
            adapter = self.store.read_adapter(training_digest)
            if adapter is None:
                raise AdapterError(
                    f"evaluation {digest[:12]}: adapter {training_digest[:12]} is not in the store",
                    remedy="Train it first.",
                )
        try:
            if adapter is not None and adapter.infeasible:
                raise Infeasible(adapter.infeasible, adapter.reason)
            evaluation = self._score(job, digest, adapter, limit, written)
        except Infeasible as error:
            evaluation = Evaluation.of_infeasible(job, error.reason, str(error))
        except AdapterError:
            self.store.set_aside("adapter", training_digest)  # its checksums are right, so it would be kept otherwise
            raise
        seconds, device = time.perf_counter() - started, self.clock.since_last_job()
        if written is not None and written.cost.device is not None:  # its part of what was done together
            seconds, device = seconds + written.cost.seconds, device.plus(written.cost.device)
        spent = {"seconds": seconds, "device": device}
        evaluation = evaluation.model_copy(update={"cost": evaluation.cost.model_copy(update=spent)})
        self.store.publish_evaluation(digest, evaluation)
        return evaluation

    def identify(self, job: IdentityJob) -> BaseModelIdentity:
        """Load a base model and identify it; the following jobs find it loaded. Raises `EngineError`."""
        engine = self._engine_for(job.vllm)
        self._close_if_files_changed(engine, job.base_model)
        with self.clock.during("loading"):
            return engine.load(job.base_model)

    def test(self, job: TestJob, seconds: float) -> TestResult:
        """Judge the code of a test job. No engine is started.

        Args:
            job: Names the problem and holds the code.
            seconds: Time limit of the judge.

        Raises:
            EngineError: this lane has another version of the problem or of the judge, or the time limit is over.
            JudgeError: the judge reached no verdict.
            ProblemError: the problem cannot be found.
        """
        started = time.perf_counter()
        problem = find_problem(job.problems, job.problem_id)
        if problem.digest() != job.problem_digest:
            raise EngineError(
                f"test of {job.problem_id}: this lane holds another problem of that name",
                remedy="Deploy one version of the code everywhere.",
            )
        here = {"judge": JUDGE_VERSION, "oracle": ORACLE_VERSION, "interpreter": platform.python_version()}
        _check_versions(job.versions, here, f"test of {job.problem_id}")
        judge = self._judge_for(job.judge)
        with self._limited(seconds) as limit, limit.during("judging"), self.clock.during("judging"):
            limit.begin()
            verdict = judge.judge_batch([(problem, job.patch)], limit.left())[0]
        return TestResult(
            test_digest=job.digest(),
            problem_id=job.problem_id,
            passed=verdict.passed,
            verdict=verdict.model_dump(mode="json"),
            cost=Cost(seconds=time.perf_counter() - started, device=self.clock.since_last_job()),
        )

    def _score(
        self, job: EvaluationJob, digest: str, adapter: TrainedAdapter | None, limit: TimeLimit, written: Written | None
    ) -> Evaluation:
        problems = problem_set(job.problems).split(job.split)
        self._texts.start()
        engine = self._engine_for(job.vllm)
        if written is None:
            self._load(engine, job)
        limit.begin()
        judge = self._judge_for(job.judge)
        judging = Judging(
            CompletionScorer(problems, judge, self._texts, limit.left),
            lambda: self._reference_lines_of(job, judge, problems, limit),
        )
        try:
            if written is None:
                request = generation_request(job, self._adapter_path(job))
                with self.clock.during("computing"):
                    written = engine.generate(
                        request, limit.seconds, lambda _, index, texts: judging.take(index, texts)
                    ).only()
            else:
                for index, texts in enumerate(written.completions):
                    judging.take(index, texts)
            with limit.during("judging"), self.clock.during("judging"):
                items, lines = judging.result()
        except BaseException:
            self._drop(judging, judge)
            raise
        for remark in items.remarks():
            log.warning("evaluation %s (adapter %s), %s", digest[:12], job.training_digest[:12], remark)
        judged = Judged(
            problems=tuple(problems),
            patches=items.patches(),
            verdicts=items.verdicts(),
            base_passes=frozenset(job.base_passes),
            trainable_parameters=adapter.trainable_parameters if adapter else 0,
            base_parameters=engine.identity.parameters,
        )
        remarks: dict[str, str] = {}
        with self.clock.during("judging"):
            scores = score(judged, lines, items.findings())
            more = self._measurer.measure(job.objectives, judged, limit, remarks)
        for name, reason in remarks.items():
            log.warning("evaluation %s (adapter %s): %s is 0: %s", digest[:12], job.training_digest[:12], name, reason)
        return Evaluation(
            evaluation_digest=digest,
            training_digest=job.training_digest,
            split=job.split,
            scores={**scores.objectives(), **more},
            remarks=remarks,
            pass_at_1=scores.pass_at_1,
            pass_at_k=scores.pass_at_k,
            passed=tuple(group[0].problem_id for group in items.groups if group[0].verdict.passed),
            trainable_parameters=adapter.trainable_parameters if adapter else 0,
            records=_records(problems, items),
            cost=written.cost,
        )

    def _drop(self, judging: Judging, judge: Judge) -> None:
        """End judging after an error. Processes that do not end their work soon are replaced."""
        texts = self._texts

        def end_processes() -> None:
            texts.kill()
            judge.kill()  # `_judge_for` replaces a closed judge
            with self._lock:
                if not self.stopped:
                    self._texts = TextProcess()

        judging.drop(end_processes)
        if self._texts is not texts:
            texts.close()

    def _reference_lines_of(
        self, job: EvaluationJob, judge: Judge, problems: Sequence[Problem], limit: TimeLimit
    ) -> list[int]:
        """Executed lines of each reference, counted once per split. Raises if a reference fails its own cases."""
        key = f"{job.problems_digest} {job.judge.model_dump_json()}"
        if key not in self._reference_lines:
            self._reference_lines[key] = judge.reference_lines(problems, limit.left())
        return self._reference_lines[key]

    @contextmanager
    def _limited(self, seconds: float) -> Iterator[TimeLimit]:
        """Set `limit`, by which the lane is watched, for the job that runs within the context."""
        self.limit = limit = TimeLimit(seconds)
        try:
            yield limit
        finally:
            self.limit = None

    def _engine_for(self, vllm: VllmSettings | None) -> Engine:
        """The engine of a job; that of vLLM is replaced when a job asks for another start of it."""
        if vllm is None:
            return self.engine
        with self._lock:
            if self.stopped:
                raise EngineError("the lane was ended")
            if self._vllm is None or self._vllm.settings != vllm:
                if self._vllm is not None:
                    self._vllm.close()
                    self._files.pop(self._vllm, None)
                self._vllm = VllmProcess(vllm)
            return self._vllm

    def _close_if_files_changed(self, engine: Engine, base: BaseModelConfig) -> bool:
        """Close an engine if the files of its base model have changed since it loaded them; True if they have."""
        now, before = (base, files_state(base)), self._files.get(engine)
        old = before is not None and before[0] == base and before != now
        if old:
            engine.close()
        self._files[engine] = now
        return old

    def _load(self, engine: Engine, job: TrainingJob | EvaluationJob) -> None:
        try:
            with self.clock.during("loading"):
                before = self._files.get(engine)
                if before is None or before[0] != job.base_model:
                    self._close_if_files_changed(engine, job.base_model)
                identity = engine.load(job.base_model)
                if identity.content_id != job.base_content_id and self._close_if_files_changed(engine, job.base_model):
                    identity = engine.load(job.base_model)  # from the changed files
        except (EngineDiedError, EngineMemoryError, EngineTimeOutError) as error:
            # the failure is this machine's, not the genome's, so it must not count as evidence against the genome
            raise EngineError(f"base model {job.base_model.name} could not be loaded: {error}") from error
        if (identity.content_id, identity.numerics_class) != (job.base_content_id, job.numerics_class):
            raise EngineError(
                f"base model {job.base_model.name}: this lane has {identity.content_id[:12]} ({identity.numerics_class}), the job names "
                f"{job.base_content_id[:12]} ({job.numerics_class})",
                remedy="Give all lanes of a pool the same weights, torch and device; where "
                "the machines were changed on purpose, start a new edition: coral evolve CONFIG --again",
            )

    def _judge_for(self, config: JudgeConfig) -> Judge:
        """The judge for a configuration; it is kept between jobs of the same configuration."""
        key = config.model_dump_json()
        with self._lock:
            if self.stopped:
                raise EngineError("the lane was ended")
            if self._judge is None or self._judge.closed or key != self._judge_key:
                if self._judge is not None:
                    self._judge.close()
                self._judge = Judge.configured(config)
                self._judge_key = key
            return self._judge


def _check_versions(named: dict[str, str], here: dict[str, str], what: str) -> None:
    """Refuse a job whose digest names other versions of judge, linters or interpreter than this lane has."""
    for name, wanted in named.items():
        if name in here and here[name] != wanted:
            raise EngineError(
                f"{what}: the job names {name} {wanted}, this lane has {here[name]}",
                remedy="Deploy one version of the code everywhere.",
            )


def training_request(job: TrainingJob, out: Path, warm_start: AdapterFolder | None = None) -> TrainingRequest:
    """What an engine is asked for a training.

    Args:
        job: The training.
        out: An empty folder, which becomes a PEFT folder.
        warm_start: The adapter to go on with; None: a new one.
    """
    prompt = prompt_template(job)
    pairs = tuple((prompt.prompt(pair.buggy), prompt.answer(pair.fixed)) for pair in problem_set(job.problems).pairs)
    return TrainingRequest(job=job, warm_start=warm_start, pairs=pairs, out=out, add_bos=prompt.add_bos)


def generation_request(job: EvaluationJob, adapter: Path | None) -> GenerationRequest:
    """What an engine is asked for an evaluation.

    Args:
        job: The evaluation.
        adapter: The PEFT folder of its adapter; None for the bare base model.
    """
    prompt = prompt_template(job)
    return GenerationRequest(
        entries=(entry(job, adapter),),
        prompts=tuple(
            (problem.problem_id, prompt.prompt(problem.buggy)) for problem in problem_set(job.problems).split(job.split)
        ),
        shape=job.generation,
        stop=prompt.stop,
        end=prompt.end,
        add_bos=prompt.add_bos,
        prefix=prompt.before,
    )


def entry(job: EvaluationJob, adapter: Path | None) -> Entry:
    """The part of an evaluation in a request to an engine. Arguments as `generation_request`."""
    folder = None
    if adapter and job.heavy:
        folder = AdapterFolder(folder=adapter, heavy=job.heavy, is_given=job.given is not None)
    samples = job.generation.samples if job.light.sampling else 1
    return Entry(adapter=folder, light=job.light, samples=samples, seed=job.seed())


def _records(problems: Sequence[Problem], items: Items) -> tuple[ProblemRecord, ...]:
    return tuple(
        ProblemRecord(
            problem_id=problem.problem_id,
            bug_class=problem.bug_class,
            difficulty=problem.difficulty,
            retention=problem.retention,
            samples=tuple(
                Sample(
                    completion=item.completion[:COMPLETION_CHARACTERS],
                    patch=item.patch[:COMPLETION_CHARACTERS],
                    extraction=item.extraction,
                    verdict=item.verdict.model_dump(mode="json"),
                    remark=item.remark,
                )
                for item in group
            ),
        )
        for problem, group in zip(problems, items.groups, strict=True)
    )
