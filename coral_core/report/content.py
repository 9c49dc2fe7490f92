"""The report of a run as frozen records: the stable keys of ``report.json`` and ``--json`` (docs/json.md).

Keys are added, never renamed, within one `schema_version`. Something that is not known
yet (a run under way has no held-out numbers) is null, never left out.
"""

from typing import Any, Literal

from pydantic import Field

from coral_core.frozen import Frozen
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.report.evidence import (
    Answer,
    FailedJob,
    FailedTries,
    GeneEffect,
    OperatorLine,
    Repeats,
    Searched,
    Spending,
)
from coral_core.runs.sessions import Counts as Counts
from coral_core.runs.sessions import RunState as RunState
from coral_core.runs.sessions import Totals as Totals

REPORT_SCHEMA_VERSION = 1


class Contender(Frozen):
    """The champion, or something that it must beat."""

    genome_id: str | None = Field(None, description="Null for base_model and default_lora.")
    heavy: HeavyGenes | None = Field(None, description="Heavy genes, where history holds them.")
    light: LightGenes | None = Field(None, description="Light genes, where history holds them.")
    fitness: float | None = Field(None, description="Weighted sum of the scores on the fitness split.")
    scores: dict[str, float] = Field(default_factory=dict, description="Objective -> [0, 1] on the fitness split.")
    fitness_pass_at_1: float | None = Field(None, description="Share of the fitness bugs repaired.")
    held_out_pass_at_1: float | None = Field(
        None, description="Share of the held-out bugs repaired; null before the end."
    )
    held_out_scores: dict[str, float] = Field(
        default_factory=dict, description="Objective -> [0, 1] on the held-out split."
    )
    held_out_repaired: int | None = Field(None, description="Held-out bugs repaired by the first sample.")
    held_out_bugs: int | None = Field(
        None, description="Held-out bugs there are (problems that are already right not counted)."
    )
    trainable_parameters: int | None = Field(None, description="Parameters of the adapter; 0 for the base model.")
    training_digest: str | None = Field(None, description="Digest of the adapter; `none` for the base model.")
    fitness_evaluation_digest: str | None = Field(None, description="Digest of the evaluation on the fitness split.")
    held_out_evaluation_digest: str | None = Field(None, description="Digest of the evaluation on the held-out split.")
    adapter_path: str | None = Field(
        None, description="Folder of the adapter in the store (PEFT layout); null for the base model."
    )


class Gap(Frozen):
    """Champion against another, paired by held-out bug."""

    difference: float = Field(description="Champion's held-out pass@1 less the other's.")
    bugs: int | None = Field(description="Bugs compared; null when an evaluation has left the store.")
    only_champion: int | None = Field(description="Bugs that only the champion repairs, or more often than the other.")
    only_other: int | None = Field(description="Bugs that only the other repairs, or more often.")
    p_value: float | None = Field(
        description="Exact two-sided sign test (McNemar) over the bugs that one of the two repairs, or more often."
    )
    interval: tuple[float, float] | None = Field(
        description="95 % interval of the difference (paired, Agresti and Min 2005)."
    )
    resolution: int | None = Field(
        description="Smallest difference in bugs that the test could tell from noise, given how many bugs differ; null: none could."
    )
    distinguishable: bool | None = Field(description="p_value < 0.05.")
    verdict: str = Field(description="better, worse, not distinguishable, or unknown.")


class Gaps(Frozen):
    """Champion against what it must beat; null before the end of the run."""

    champion_minus_base_model: Gap | None = None
    champion_minus_default_lora: Gap | None = None
    champion_minus_generation_0_median: Gap | None = None


class GenerationLine(Frozen):
    """One generation, after selection heard of it."""

    generation: int
    best: str | None = Field(description="Champion so far.")
    best_fitness: float | None
    mean_fitness: float | None
    best_pass_at_1: float | None = Field(description="Share of the fitness bugs that the champion so far repairs.")
    monitor_pass_at_1: float | None = Field(description="The same on the monitor split, which never selects.")
    hypervolume: float
    front_size: int
    unique_adapters: int
    infeasible: int = Field(description="Genomes of this generation without scores.")


class FrontPoint(Frozen):
    """A genome that no other one dominates."""

    genome_id: str
    heavy: HeavyGenes
    light: LightGenes
    fitness: float | None
    scores: dict[str, float]
    pass_at_1: float | None
    trainable_parameters: int
    training_digest: str


class Evaluated(Frozen):
    """One point of the Pareto picture."""

    genome_id: str
    scores: dict[str, float]
    fitness: float | None
    trainable_parameters: int
    on_front: bool


class InfeasibleGenome(Frozen):
    """A genome without scores, and why."""

    genome_id: str
    reason: str = Field(
        description="Stable word: diverged, out-of-memory, module-missing, prompt-too-long, time-out, poison."
    )
    detail: str = Field(description="The reason in words.")


class Ancestor(Frozen):
    """One step of the champion's lineage."""

    genome_id: str
    operator: str = Field(description="How it was made: seed, elite, crossover, mutate-genes, ...")
    parents: tuple[str, ...]
    fitness: float | None
    pass_at_1: float | None


class BugClassLine(Frozen):
    """Held-out bugs of one class repaired by each."""

    bug_class: str
    bugs: int
    champion: int | None
    base_model: int | None
    default_lora: int | None


class BaseCheck(Frozen):
    """Can these problems tell adapters of this base model apart?"""

    verdict: Literal["usable", "too good", "too bad", "unknown"]
    text: str


class PreviousRun(Frozen):
    """The last run of the same name that had finished when this one was made (frozen in start.json)."""

    run_id: str
    path: str = Field(description="Folder of that run; it may be gone.")
    champion: str = Field(description="Genome id there.")
    fitness: float | None = Field(description="Of that champion, in that run's numbers.")
    held_out_pass_at_1: float = Field(description="Of that champion.")
    started_from: bool = Field(description="Whether genomes of it came along (search.start_from).")
    same_problems: bool | None = Field(description="Equal fitness problems; null when not known.")
    same_base_model: bool | None = Field(description="Null when not known.")


class RunLine(Frozen):
    """One line of `coral runs`."""

    run_id: str
    status: RunState
    error: str = Field("", description="The error that ended the latest session; empty unless failed.")
    generation: int | None = Field(description="Latest finished generation (from 0); null before the first.")
    generations: int = Field(description="Generations at most.")
    best_fitness: float | None
    champion: str | None = Field(description="Genome id of the champion so far.")
    champion_held_out_pass_at_1: float | None = Field(description="Null before the end.")
    started: float = Field(description="Unix time of the latest start.")
    seconds: float = Field(description="Wall-clock seconds of all sessions.")
    cpu_seconds: float
    trainings: int
    evaluations: int
    path: str


class Report(Frozen):
    """Everything that `coral report RUN --json` prints."""

    schema_version: int = REPORT_SCHEMA_VERSION
    run_id: str
    path: str = Field(description="Folder of the run.")
    name: str
    seed: int
    edition: int
    strategy: str
    overrides: tuple[str, ...] = Field(description="--set differences that the run was started with.")
    versions: dict[str, str] = Field(description="Versions and machine of the latest start.")
    problems: dict[str, Any] = Field(description="Source, counts and digests per split.")
    base_model_name: str
    numerics_class: str | None
    status: RunState
    error: str = Field("", description="The error that ended the latest session; empty unless failed.")
    reason: str | None = Field(description="Why the search ended; null before.")
    seconds: float = Field(description="Wall clock of the latest session.")
    counts: Counts
    totals: Totals
    champion: Contender | None = Field(description="Champion (so far); null before the first generation has ended.")
    base_model: Contender | None
    default_lora: Contender | None
    generation_0_median: Contender | None = Field(description="Genome of median fitness in the first generation.")
    gaps: Gaps
    generations: tuple[GenerationLine, ...]
    pareto_front: tuple[FrontPoint, ...]
    evaluated: tuple[Evaluated, ...] = Field(description="All genomes with scores: the points of the Pareto picture.")
    infeasible: tuple[InfeasibleGenome, ...]
    lineage: tuple[Ancestor, ...] = Field(description="Ancestors of the champion, oldest first, itself last.")
    bug_classes: tuple[BugClassLine, ...] = Field(description="Held-out split by bug class; empty before the end.")
    outcomes: dict[str, dict[str, int]] = Field(
        description="champion, base_model, default_lora -> outcome of the judge -> held-out problems (first samples)."
    )
    held_out_openings: int | None = Field(description="Times the sealed split was evaluated.")
    base_check: BaseCheck
    previous: PreviousRun | None = Field(None, description="The run before; null where there was none.")
    answer: Answer = Field(description="Did the search help?")
    searched: Searched
    repeats: Repeats | None = Field(description="Seed repeats of the champion; null when there are none (yet).")
    genes: tuple[GeneEffect, ...] = Field(
        description="Importance of each gene, most important first; empty below 8 genomes."
    )
    operators: tuple[OperatorLine, ...]
    spending: Spending | None = Field(description="By the store's ledger; null when no lane has booked anything.")
    failed_jobs: tuple[FailedJob, ...] = Field(description="Failed jobs of this run in the store's queue.")
    failed_tries: tuple[FailedTries, ...] = Field((), description="Tries that failed, most frequent first.")
