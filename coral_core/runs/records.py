"""The records of a run: the lines of history.jsonl and timings.jsonl, and run.json."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from coral_core.config.tree import SearchConfig
from coral_core.frozen import Frozen
from coral_core.genome import Genome, HeavyGenes
from coral_core.jobs.jobs import AdapterDigest, BaseModelIdentity, Cost, Digest
from coral_core.problems.problem import Split
from coral_core.prompting.templates import PromptTemplate

SCHEMA_VERSION = 1
JobKind = Literal["training", "evaluation"]
Outcome = Literal["finished", "stopped", "failed"]
"""How a session ends."""
Share = Annotated[float, Field(ge=-1e-9, le=1 + 1e-9)]
"""A score in [0, 1], up to rounding."""
Number = Annotated[float, Field(ge=-1e9, le=1e9)]
"""A bounded number: a sum over a whole history does not overflow."""
UnixTime = Annotated[float, Field(ge=0, le=1e11)]
Seconds = Annotated[float, Field(ge=0, le=1e11)]
Count = Annotated[int, Field(ge=0, le=10**9)]


class RunIdentity(Frozen):
    """Which run this is. A repeat has the same identity (a replay); a new edition is a new run."""

    run_id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$",
        description="<name>-<10 hex digits of the configuration digest>-e<edition>",
    )
    config_digest: str
    edition: int = Field(ge=1)
    run_seed: int = Field(description="Derived from (config.seed, edition); feeds search, trainings and sampling.")


class RunFacts(Frozen):
    """Content of run.json: the identity of a run, and where its latest session runs."""

    schema_version: int = SCHEMA_VERSION
    identity: RunIdentity
    set: tuple[str, ...] = Field((), description="Differences from the configuration file (--set).")
    versions: dict[str, str] = Field({}, description="Versions of Python, platform and packages.")
    pid: int = Field(0, description="Process of the latest session.")
    host: str = Field("", description="Machine of the latest session.")
    flow_run_id: str = Field("", description="Prefect's flow run of the latest session; empty without Prefect.")
    flow_run_ids: tuple[str, ...] = Field((), description="Flow runs of all sessions, oldest first.")
    api: str = Field("", description="Address of the Prefect server.")
    scheduled: str = Field("", description="Scheduled start of the run, ISO 8601 in UTC; empty for a run by hand.")


class StartRecord(Frozen):
    """Origin of the first population of a run with `search.start_from` (coral_core/evolution/start_from.py)."""

    start_from: Literal["last-champion"]
    previous: str | None = Field(description="The run that genomes came from; null when none had finished.")
    sha256: str = Field(description="Digest of start.json, which holds the genomes.")


class RunRecord(Frozen):
    """First line of a history."""

    type: Literal["run"] = "run"
    schema_version: int = SCHEMA_VERSION
    identity: RunIdentity
    name: str
    strategy: str
    strategy_version: str = Field(
        "",
        exclude_if=lambda version: version == "",
        description="Version of the plug-in or library that the strategy's genomes depend on; left out where there is none.",
    )
    base_model: BaseModelIdentity = Field(description="The base model on evaluation lanes.")
    training_numerics_class: str = Field(description="Numerics class of training lanes.")
    prompt: PromptTemplate | None = Field(
        None,
        exclude_if=lambda prompt: prompt is None,
        description="The prompt template; left out where base_model.prompt names a built-in one.",
    )
    problems: dict[str, Any] = Field(description="source, counts per split, digests per split.")
    start: StartRecord | None = Field(
        None, exclude_if=lambda start: start is None, description="Left out for a run that started from nothing."
    )

    @property
    def numerics(self) -> str:
        """Numerics class of the run; both classes, if those of training and evaluation lanes differ."""
        training, evaluation = self.training_numerics_class, self.base_model.numerics_class
        return evaluation if training == evaluation else f"training: {training}; evaluation: {evaluation}"


BaselineName = Literal["base_model", "default_lora", "tuned_lora"]
LineName = Literal["champion", "base_model", "default_lora", "tuned_lora", "longer_lora", "generation_0_median"]
"""Name of a line of the final table; `longer_lora`: the tuned LoRA, else the default one, trained as often as the champion."""


def baseline_names(search: SearchConfig) -> tuple[BaselineName, ...]:
    """The baselines of a run, in the order of their records.

    Example:
        >>> baseline_names(SearchConfig(baselines="tuned"))
        ('base_model', 'default_lora', 'tuned_lora')
    """
    return (
        ("base_model", "default_lora", "tuned_lora") if search.baselines == "tuned" else ("base_model", "default_lora")
    )


def line_names(search: SearchConfig) -> tuple[LineName, ...]:
    """The lines of a run's final table, in their order; `longer_lora` stands in runs with warm starts.

    >>> line_names(SearchConfig())
    ('champion', 'base_model', 'default_lora', 'generation_0_median')
    """
    longer: tuple[LineName, ...] = ("longer_lora",) if has_warm_starts(search) else ()
    return ("champion", *baseline_names(search), *longer, "generation_0_median")


def has_warm_starts(search: SearchConfig) -> bool:
    """Whether a search may train adapters further."""
    return search.strategy == "evolution" and search.variation.warm_start_rate > 0


class TunedCandidate(Frozen):
    """One candidate for the tuned LoRA, on the fitness split."""

    name: str = Field(description="Unique in its grid: `r8 attention lr 0.0002`.")
    heavy: HeavyGenes
    training_digest: AdapterDigest
    evaluation_digest: Digest
    scores: dict[str, Share] = Field(description="Empty when infeasible.")
    fitness: Number | None
    pass_at_1: Share | None
    infeasible: str | None = None
    reason: str = ""
    trainable_parameters: int = Field(0, ge=0)

    @property
    def genome_id(self) -> str:
        """The name under which the champion rule breaks ties."""
        return self.name


class BaselineRecord(Frozen):
    """Scores of a baseline on the fitness split."""

    type: Literal["baseline"] = "baseline"
    schema_version: int = SCHEMA_VERSION
    name: BaselineName
    training_digest: AdapterDigest
    evaluation_digest: Digest
    scores: dict[str, Share]
    fitness: Number | None
    pass_at_1: Share
    infeasible: str | None = None
    heavy: HeavyGenes | None = Field(
        None, exclude_if=lambda heavy: heavy is None, description="Genes of the tuned LoRA; left out for the others."
    )
    candidates: tuple[TunedCandidate, ...] = Field(
        (), exclude_if=lambda found: not found, description="Candidates for the tuned LoRA; left out for the others."
    )


class GenomeRecord(Frozen):
    """One genome of one generation."""

    type: Literal["genome"] = "genome"
    schema_version: int = SCHEMA_VERSION
    genome: Genome
    training_digest: AdapterDigest
    evaluation_digest: Digest
    scores: dict[str, Share] = Field(description="Empty when infeasible.")
    fitness: Number | None
    pass_at_1: Share | None
    infeasible: str | None = None
    reason: str = ""
    trainable_parameters: int = Field(0, ge=0)


class GenerationRecord(Frozen):
    """Summary of one generation, after its results were told to the search."""

    type: Literal["generation"] = "generation"
    schema_version: int = SCHEMA_VERSION
    generation: Count
    best: str | None = Field(description="Genome id of the champion so far.")
    best_fitness: Number | None
    mean_fitness: Number | None
    front: tuple[str, ...] = Field(description="Pareto front of everything evaluated so far.")
    hypervolume: Number = Field(description="Hypervolume of the front over the objectives, reference point 0.")
    unique_adapters: Count
    monitor_pass_at_1: Share | None = Field(description="pass@1 of the champion so far on the monitor split.")


class HeldOut(Frozen):
    """One line of the final table."""

    name: LineName
    genome_id: str | None = None
    training_digest: AdapterDigest
    evaluation_digest: Digest
    pass_at_1: Share
    scores: dict[str, Share]
    passed: Count = Field(description="Bugs repaired.")
    bugs: Count = Field(description="Bugs in the split (retention problems not counted).")


class Repeat(Frozen):
    """The champion's genes, trained and evaluated again on the fitness split with other seeds."""

    replicate: Count = Field(ge=1, description="Number of the repeat; 0 is the champion itself.")
    training_digest: AdapterDigest
    evaluation_digest: Digest
    scores: dict[str, Share] = Field(description="Empty when infeasible.")
    fitness: Number | None
    pass_at_1: Share | None
    infeasible: str | None = None
    reason: str = ""


class FinalRecord(Frozen):
    """Last line of a finished history."""

    type: Literal["final"] = "final"
    schema_version: int = SCHEMA_VERSION
    reason: str = Field(description="Why the search ended.")
    champion: str
    held_out_openings: Count = Field(
        description="Number of times this run opened the held-out split: once, at the end."
    )
    held_out: tuple[HeldOut, ...]
    repeats: tuple[Repeat, ...] = Field((), description="Seed repeats of the champion (search.champion_repeats).")


Record = RunRecord | BaselineRecord | GenomeRecord | GenerationRecord | FinalRecord
RECORD_LINE: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="type")])
"""A line of history.jsonl."""


class Phase(StrEnum):
    """Part of a run that is under way."""

    STARTING = "starting"
    BASELINES = "baselines"
    SEARCHING = "searching"
    HELD_OUT = "held-out"
    FINISHED = "finished"


class JobTiming(Frozen):
    """A job that a session finished, or found in the store."""

    type: Literal["job"] = "job"
    schema_version: int = SCHEMA_VERSION
    session: UnixTime = Field(description="Unix time at which the session began.")
    phase: Literal[Phase.BASELINES, Phase.SEARCHING, Phase.HELD_OUT] = Field(
        description="Phase that requested the job."
    )
    generation: Count | None = Field(None, description="Generation that requested the job; null outside the search.")
    kind: JobKind
    split: Split | None = Field(None, description="Split that was evaluated; null for trainings.")
    digest: str
    label: str = Field(description="For people: genome id or baseline, and split.")
    cached: bool = Field(description="Whether the result was found in the store, so that nothing was done.")
    finished: UnixTime = Field(description="Unix time.")
    waited: Seconds = Field(description="Seconds from submission to result, without the seconds of work.")
    cost: Cost


class JobFailure(Frozen):
    """One failed attempt of a job; it may have been tried again."""

    type: Literal["failure"] = "failure"
    schema_version: int = SCHEMA_VERSION
    kind: JobKind
    digest: str
    when: UnixTime = Field(description="Unix time.")
    error: str = Field(description="Class of the error, or `lane-lost`.")
    message: str = Field(description="First line of the error's message.")


class SessionTiming(Frozen):
    """One session of a run, written at its end. A session that was killed leaves no such line."""

    type: Literal["session"] = "session"
    schema_version: int = SCHEMA_VERSION
    started: UnixTime
    seconds: Seconds
    trainings: Count = Field(description="Trainings done by this session (cache hits not counted).")
    evaluations: Count = Field(description="Evaluations done by this session (cache hits not counted).")
    outcome: Outcome
    error: str = Field("", description="Class and first line of the error that ended it; empty unless failed.")


Timing = JobTiming | JobFailure | SessionTiming
TIMING_LINE: TypeAdapter[Timing] = TypeAdapter(Annotated[Timing, Field(discriminator="type")])
"""A line of timings.jsonl."""
