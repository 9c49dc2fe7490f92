"""Jobs and their results: the records that the search exchanges with lanes, as plain JSON.

A job holds everything that changes its outcome; its digest names its result in the store. Costs and times are in `Cost`,
which is not part of any digest.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from coral_core.config.tree import BaseModelConfig, GenerationConfig, JudgeConfig, ProblemsConfig, TrainingConfig
from coral_core.digest import digest, seed_from
from coral_core.errors import EngineError
from coral_core.frozen import Frozen
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.problems.problem import Difficulty, Split
from coral_core.prompting.chat import ChatTurn
from coral_core.prompting.templates import PromptTemplate

SCHEMA_VERSION = 1
QueueName = Literal["training", "evaluation"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""Name of an entry of the store: 64 hexadecimal digits."""
AdapterDigest = Annotated[str, Field(pattern=r"^([0-9a-f]{64}|none)$")]
"""Name of an adapter, or `none` for the bare base model."""
InfeasibleReason = Literal["diverged", "out-of-memory", "module-missing", "prompt-too-long", "time-out", "poison"]


Spent = Annotated[float, Field(ge=0, le=1e11)]
"""Seconds, not negative and bounded."""


class DeviceTime(Frozen):
    """Seconds of lanes by what their device did: computed, loaded a base model, or waited."""

    computing: Spent = Field(0.0, description="The engine trained or generated.")
    loading: Spent = Field(0.0, description="The engine started and loaded the base model.")
    judging: Spent = Field(0.0, description="The device waited for judge, linters and objectives.")
    idle: Spent = Field(0.0, description="It waited for anything else: a job, the store.")

    @property
    def seconds(self) -> float:
        """All seconds."""
        return self.computing + self.loading + self.judging + self.idle

    def plus(self, other: "DeviceTime") -> "DeviceTime":
        """The sum, state by state."""
        return DeviceTime(**{name: getattr(self, name) + getattr(other, name) for name in DeviceTime.model_fields})

    def minus(self, earlier: "DeviceTime") -> "DeviceTime":
        """What was added since `earlier`, state by state; rounding never makes it negative."""
        spans = {name: getattr(self, name) - getattr(earlier, name) for name in DeviceTime.model_fields}
        return DeviceTime(**{name: max(0.0, span) for name, span in spans.items()})

    def times(self, part: float) -> "DeviceTime":
        """A part of the seconds of each state."""
        return DeviceTime(**{name: getattr(self, name) * part for name in DeviceTime.model_fields})

    def shares(self) -> dict[str, float]:
        """Share of each state, and of waiting (judging and idle together), in [0, 1]; empty when there are no seconds.

        >>> DeviceTime(computing=6, loading=1, judging=2, idle=1).shares()["waiting"]
        0.3
        """
        if not self.seconds:
            return {}
        found = {name: getattr(self, name) / self.seconds for name in DeviceTime.model_fields}
        return found | {"waiting": (self.judging + self.idle) / self.seconds}


class Cost(Frozen):
    """Time, memory and tokens that a job used. Never part of a digest or of history.jsonl."""

    seconds: float = Field(0.0, ge=0, le=1e11, description="Wall-clock seconds of work (waiting not counted).")
    cpu_seconds: float = Field(0.0, ge=0, le=1e11, description="CPU seconds of engine and judge.")
    peak_memory_mb: float = Field(0.0, ge=0, le=1e12, description="Peak resident (CPU) or allocated (GPU) memory.")
    tokens: int = Field(0, ge=0, le=10**15, description="Tokens trained on or generated.")
    device: DeviceTime | None = Field(
        None,
        description="Seconds of the lane from the end of its previous job to the end of this one, by what its device did. "
        "Those of failed tries count with the lane's next job. Null for results of earlier versions.",
        exclude_if=lambda device: device is None,
    )


class BaseModelIdentity(Frozen):
    """Identity of a base model by content, not by name."""

    name: str
    content_id: str = Field(description="Hub commit, or digest of the files' hashes.")
    parameters: int = Field(ge=0)
    modules: tuple[str, ...] = Field(description="Names of linear modules that adapters may target.")
    sets: dict[str, tuple[str, ...]] = Field(
        {},
        description="Named sets of modules where they are not those of Llama: default, attention, mlp, head (the output head).",
        exclude_if=lambda sets: not sets,
    )
    chat: ChatTurn | None = Field(
        None,
        description="What its chat template writes around question and answer, where base_model.prompt may use it.",
        exclude_if=lambda chat: chat is None,
    )
    numerics_class: str = Field(
        description="Device model, dtype, torch, threads, engine: within one class results repeat bit for bit."
    )


class VllmSettings(Frozen):
    """How a lane starts vLLM. Changes no result, with one exception: what `EvaluationJob.digest` says of unmerged adapters."""

    python: str = Field(description="Interpreter of its environment, on the lane's machine.")
    rows: int = Field(ge=1, description="Rows that are generated together.")
    tokens: int = Field(ge=1, description="Tokens of the longest prompt with the longest answer.")
    rank: int = Field(
        0, ge=0, description="Highest rank of adapters that are computed beside the weights; 0: all are merged."
    )


Vllm = Annotated[
    VllmSettings | None,
    Field(description="Set when vLLM evaluates; else left out.", exclude_if=lambda vllm: vllm is None),
]

Prompt = Annotated[
    PromptTemplate | None,
    Field(
        description="The prompt template; left out where base_model.prompt names a built-in one.",
        exclude_if=lambda prompt: prompt is None,
    ),
]


class IdentityJob(Frozen):
    """Asks a lane of `queue` for the identity of the base model there. Nothing is stored."""

    schema_version: int = SCHEMA_VERSION
    queue: QueueName
    base_model: BaseModelConfig
    vllm: Vllm = None

    def digest(self) -> str:
        """Digest of the question, without a run id: two evolutions may share an answer."""
        content = {
            "kind": "identity",
            "schema": self.schema_version,
            "queue": self.queue,
            "base": self.base_model.model_dump(mode="json"),
        }
        return digest(content | ({"vllm": self.vllm.model_dump(mode="json")} if self.vllm else {}))


def recipe_content(recipe: TrainingConfig) -> dict[str, Any]:
    """The recipe as digests hold it: defaults of keys that were added later are left out, so that old adapters keep their names.

    >>> "micro_batch" in recipe_content(TrainingConfig())
    False
    """
    content = recipe.model_dump(mode="json")
    for key in ("micro_batch", "checkpointing"):
        if not content[key]:
            del content[key]
    return content


class TrainingJob(Frozen):
    """Trains one adapter."""

    schema_version: int = SCHEMA_VERSION
    heavy: HeavyGenes
    base_model: BaseModelConfig
    base_content_id: str
    numerics_class: str
    recipe: TrainingConfig
    recipe_version: str
    problems: ProblemsConfig = Field(description="Selects the pairs; a lane rebuilds them from it.")
    pairs_digest: str = Field(description="Digest of the rendered training pairs.")
    prompt_version: str
    prompt: Prompt = None
    run_seed: int
    replicate: int = 0
    scope: str = Field("", description="Run id when store.reuse is `run`, else empty.")

    def digest(self) -> str:
        """Digest of everything that changes the weights of the adapter, and of nothing else."""
        return digest(
            {
                "kind": "training",
                "schema": self.schema_version,
                "heavy": self.heavy.model_dump(mode="json"),
                "base": self.base_content_id,
                "dtype": self.base_model.dtype,
                "numerics": self.numerics_class,
                "recipe": recipe_content(self.recipe),
                "recipe_version": self.recipe_version,
                "pairs": self.pairs_digest,
                "prompt": self.prompt_version,
                "run_seed": self.run_seed,
                "replicate": self.replicate,
                "scope": self.scope,
            }
        )

    def warm_start(self) -> "TrainingJob | None":
        """The training whose adapter this one goes on with; None when it begins with a new one."""
        earlier = self.heavy.warm_start
        return None if earlier is None else self.model_copy(update={"heavy": earlier})

    def chain(self) -> "tuple[TrainingJob, ...]":
        """The trainings that make the adapter, in their order; this one is the last."""
        return tuple(self.model_copy(update={"heavy": heavy}) for heavy in self.heavy.chain())

    def seed(self) -> int:
        """Seed of the training, derived from the digest."""
        return seed_from("training", self.digest())


class LossPoint(Frozen):
    step: int = Field(ge=0)
    loss: float


class TrainedAdapter(Frozen):
    """Record of a training in the store, beside the weights."""

    schema_version: int = SCHEMA_VERSION
    training_digest: Digest
    infeasible: InfeasibleReason | None = None
    reason: str = Field("", description="Why the genome is infeasible, in words.")
    trainable_parameters: int = Field(0, ge=0)
    base_parameters: int = Field(0, ge=0)
    examples: int = Field(0, ge=0)
    losses: tuple[LossPoint, ...] = ()
    warnings: tuple[str, ...] = ()
    cost: Cost = Cost()


class GivenAdapter(Frozen):
    """An adapter that lies in the store under its digest, by whatever training it came there."""

    digest: Digest
    heavy: HeavyGenes = Field(
        description="Shape of the adapter. Dropout and learning rate have no effect: an adapter does not tell how it was trained."
    )


class EvaluationJob(Frozen):
    """Scores one adapter on one split: that of `training`, or `given`; without either the bare base model."""

    schema_version: int = SCHEMA_VERSION
    training: TrainingJob | None
    given: GivenAdapter | None = Field(None, exclude_if=lambda given: given is None)
    base_model: BaseModelConfig
    base_content_id: str
    numerics_class: str
    light: LightGenes
    problems: ProblemsConfig
    split: Split
    problems_digest: str
    generation: GenerationConfig
    vllm: Vllm = None
    judge: JudgeConfig
    versions: dict[str, str] = Field(
        description="judge, oracle, extractor, scoring, prompt, ruff, bandit, interpreter, engine."
    )
    prompt: Prompt = None
    objectives: dict[str, str] = Field({}, description="Objectives of plug-ins to measure, and their versions.")
    base_passes: tuple[str, ...] = Field((), description="Problem ids that the bare base repairs (retention, runtime).")
    run_seed: int
    replicate: int = 0
    scope: str = ""

    @property
    def training_digest(self) -> str:
        """Name of the adapter, or `none` for the bare base model."""
        if self.training is not None:
            return self.training.digest()
        return self.given.digest if self.given is not None else "none"

    @property
    def heavy(self) -> HeavyGenes | None:
        """Shape of the adapter; None for the bare base model."""
        adapter = self.training or self.given
        return adapter.heavy if adapter is not None else None

    @model_validator(mode="after")
    def _one_adapter(self) -> Self:
        if self.training is not None and self.given is not None:
            raise ValueError("an evaluation is of one adapter: training and given")
        return self

    def digest(self) -> str:
        """Digest of everything that changes the scores, and of nothing else."""
        judge = self.judge.model_dump(mode="json")
        del judge["workers"]
        samples = self.generation.samples if self.light.sampling else 1
        # merged adapters have the digests from before the choice
        unmerged = [] if self.generation.merge or self.heavy is None else ["unmerged"]
        if self.vllm is not None and self.vllm.rank:
            # vLLM fills up ranks to this one, and computes the bare base model through the same layers
            unmerged = ["unmerged", f"rank {self.vllm.rank}"]
        return digest(
            {
                "kind": "evaluation",
                "schema": self.schema_version,
                "training": self.training_digest,
                "base": self.base_content_id,
                "dtype": self.base_model.dtype,
                "numerics": self.numerics_class,
                "light": self.light.effective(),
                "split": self.split,
                "problems": self.problems_digest,
                "shape": [self.generation.batch_size, self.generation.prompt_length, *unmerged],
                "samples": samples,
                "judge": judge,
                "versions": self.versions,
                "objectives": self.objectives,
                "base_passes": list(self.base_passes),
                "run_seed": self.run_seed if self.light.sampling else 0,
                "replicate": self.replicate,
                "scope": self.scope,
            }
        )

    def pack_key(self) -> str:
        """What evaluations have in common whose completions are written in one request: all but light genes and replicate."""
        content = self.model_dump(mode="json", exclude={"training", "given", "light", "replicate"})
        return digest([content, self.training_digest])

    def seed(self) -> int:
        """Seed of sampling, derived from the digest."""
        return seed_from("sampling", self.digest())


class Sample(Frozen):
    """One completion for one problem, with its patch and verdict."""

    completion: str = Field(description="Text that the model generated, truncated to 8,000 characters.")
    patch: str = Field(description="Code that was extracted from the completion.")
    extraction: str = Field(description="Name of the way in which it was extracted.")
    verdict: dict[str, Any] = Field(description="scoring.judge.Verdict as JSON.")
    remark: str = Field(
        "", description="Why a part of the sample could not be read and scores 0; empty when all was read."
    )

    @property
    def passes(self) -> bool:
        """True when the patch passes every case."""
        cases = self.verdict.get("cases")
        return isinstance(cases, (list, tuple)) and bool(cases) and all(case == "pass" for case in cases)


class ProblemRecord(Frozen):
    """All samples of one problem in one evaluation, for audit and re-scoring."""

    problem_id: str
    bug_class: str
    difficulty: Difficulty = "medium"
    retention: bool
    samples: tuple[Sample, ...]


class Evaluation(Frozen):
    """The scores of a genome on a split, with every verdict in it."""

    schema_version: int = SCHEMA_VERSION
    evaluation_digest: Digest
    training_digest: AdapterDigest
    split: Split
    infeasible: InfeasibleReason | None = None
    reason: str = ""
    scores: dict[str, float] = Field(default_factory=dict, description="Objective name -> score in [0, 1].")
    remarks: dict[str, str] = Field(
        {}, description="Objective of a plug-in -> why it failed for this genome, so that its score is 0."
    )
    pass_at_1: float = Field(0.0, ge=0, le=1, description="Share of bugs repaired (retention problems not counted).")
    pass_at_k: dict[str, float] = Field(
        default_factory=dict,
        description="k (2, 4, ... and the number of samples) -> unbiased estimate; {} for one sample.",
    )
    passed: tuple[str, ...] = Field((), description="Problem ids whose first sample passes every case.")
    trainable_parameters: int = Field(0, ge=0)
    records: tuple[ProblemRecord, ...] = ()
    cost: Cost = Cost()

    @classmethod
    def of_infeasible(cls, job: EvaluationJob, infeasible: str, reason: str) -> Self:
        """The result of a job whose genome cannot be evaluated.

        Args:
            job: The evaluation.
            infeasible: One of `InfeasibleReason`.
            reason: Why it is infeasible, in words.
        """
        return cls(
            evaluation_digest=job.digest(),
            training_digest=job.training_digest,
            split=job.split,
            infeasible=infeasible,
            reason=reason,
        )

    def repaired(self) -> dict[str, float]:
        """Problem id of each bug -> share in [0, 1] of its samples that repair it. The mean is `pass_at_1`."""
        return {
            record.problem_id: sum(sample.passes for sample in record.samples) / max(1, len(record.samples))
            for record in self.records
            if not record.retention
        }


class TestJob(Frozen):
    """Judges given code against one problem. No model takes part, and nothing is stored."""

    __test__: ClassVar[bool] = False  # not a test class of pytest

    schema_version: int = SCHEMA_VERSION
    problems: ProblemsConfig = Field(description="Where the problem is looked up; a lane rebuilds it from this.")
    problem_id: str
    problem_digest: str
    patch: str = Field(description="The code: a whole module that defines the problem's function.")
    judge: JudgeConfig
    versions: dict[str, str] = Field(description="judge, oracle, interpreter, ...")

    def digest(self) -> str:
        """Digest of everything that changes the verdict, and of nothing else."""
        judge = self.judge.model_dump(mode="json", exclude={"workers"})
        patch = self.patch.encode("utf-8", "backslashreplace").decode()
        return digest(
            {
                "kind": "test",
                "schema": self.schema_version,
                "problem": self.problem_digest,
                "patch": patch,
                "judge": judge,
                "versions": self.versions,
            }
        )


class TestResult(Frozen):
    """Verdict of the judge on the code of a test job."""

    __test__: ClassVar[bool] = False

    schema_version: int = SCHEMA_VERSION
    test_digest: str
    problem_id: str
    passed: bool = Field(description="Every case passes.")
    verdict: dict[str, Any] = Field(description="scoring.judge.Verdict as JSON.")
    cost: Cost = Cost()


JobKind = Literal["identity", "training", "evaluation", "test"]
Job = IdentityJob | TrainingJob | EvaluationJob | TestJob
Result = BaseModelIdentity | TrainedAdapter | Evaluation | TestResult
_JOBS: dict[JobKind, type[Job]] = {
    "identity": IdentityJob,
    "training": TrainingJob,
    "evaluation": EvaluationJob,
    "test": TestJob,
}
RANKS: dict[JobKind, int] = {"identity": 0, "test": 0, "evaluation": 1, "training": 2}
"""Kind -> rank; lanes take lower ranks first. Evaluations precede trainings, so that results appear early."""


def kind_of(job: Job) -> JobKind:
    """The kind of a job."""
    return next(kind for kind, type_ in _JOBS.items() if isinstance(job, type_))


def queue_of(job: Job) -> QueueName:
    """The queue that serves a job. Tests need no model and share the lanes of evaluations."""
    if isinstance(job, IdentityJob):
        return job.queue
    return "training" if isinstance(job, TrainingJob) else "evaluation"


def size_of(job: Job) -> int:
    """Relative duration of a training; 0 for other jobs. Longer jobs start first, so that none runs alone at the end."""
    return job.heavy.rank * len(job.heavy.target_modules) if isinstance(job, TrainingJob) else 0


def parse_job(kind: JobKind, data: dict[str, Any], digest: str) -> Job:
    """Parse a job that came from another process.

    Args:
        kind: Its kind.
        data: The job as JSON.
        digest: The digest under which its result is expected.

    Raises:
        EngineError: the job has another digest.
        ValidationError: it is no job of its kind.
    """
    job = _JOBS[kind].model_validate(data)
    if job.digest() != digest:
        raise EngineError(
            f"{kind} {digest[:12]}: this lane computes another digest ({job.digest()[:12]}) for the job",
            remedy="Deploy one version of the code everywhere.",
        )
    return job
