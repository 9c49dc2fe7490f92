"""The report of a run as frozen records: the stable keys of ``report.json`` and ``--json`` (docs/json.md).

Keys are added, never renamed, within one `schema_version`. Something that is not known
yet (a run under way has no held-out numbers) is null, never left out.
"""

from typing import Any, Literal

from pydantic import Field

from coral_core.frozen import Frozen
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.runs.sessions import Counts, DeviceUse, RunState, StageCost, Totals


class Contender(Frozen):
    """The champion or one of its baselines."""

    genome_id: str | None = Field(None, description="Null for base_model, default_lora and tuned_lora.")
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
    held_out_interval: tuple[float, float] | None = Field(
        None, description="95 % interval of held_out_pass_at_1 (Wilson)."
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
    """Champion against another, paired by held-out bug. A null is unknown: an evaluation is no longer in the store."""

    difference: float = Field(description="Champion's held-out pass@1 less the other's.")
    bugs: int | None = Field(None, description="Bugs compared.")
    only_champion: int | None = Field(None, description="Bugs that only the champion repairs, or more often.")
    only_other: int | None = Field(None, description="Bugs that only the other repairs, or more often.")
    p_value: float | None = Field(None, description="Exact two-sided sign test over these bugs (McNemar).")
    interval: tuple[float, float] | None = Field(None, description="95 % interval of the difference.")
    resolution: int | None = Field(
        None, description="Smallest difference in bugs that the test could tell from noise; null: none could."
    )
    distinguishable: bool | None = Field(None, description="p_value < 0.05.")
    verdict: Literal["better", "worse", "not distinguishable", "unknown"]


class Gaps(Frozen):
    """The champion against each of its baselines; null before the end of the run."""

    champion_minus_base_model: Gap | None = None
    champion_minus_default_lora: Gap | None = None
    champion_minus_tuned_lora: Gap | None = None
    champion_minus_longer_lora: Gap | None = Field(None, exclude_if=lambda gap: gap is None)
    champion_minus_generation_0_median: Gap | None = None


class GenerationLine(Frozen):
    """One generation, after selection was told its scores."""

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
    tuned_lora: int | None
    longer_lora: int | None = Field(None, exclude_if=lambda count: count is None)


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


class Answer(Frozen):
    """Did the search help? The champion against the tuned LoRA, or the default LoRA where none was tuned, on the held-out
    bugs; unknown before the end.
    """

    verdict: Literal["better", "worse", "not distinguishable", "default LoRA itself", "unknown"]
    text: str


class GeneSpace(Frozen):
    """Candidates or range of one gene."""

    gene: str
    kind: Literal["heavy", "light"]
    values: str = Field(description="Candidates, or low to high.")


class Searched(Frozen):
    """The search space, and how much of it was evaluated."""

    strategy: str
    generations: int = Field(description="Generations at most.")
    population: int
    genomes: int = Field(description="Genomes evaluated so far, elites counted once.")
    adapters: int = Field(description="Distinct adapters among them: trainings needed.")
    warm_starts: int = Field(
        0,
        exclude_if=lambda count: count == 0,
        description="Those of the adapters that go on with another one; left out where there are none.",
    )
    combinations: int = Field(
        description="Distinct heavy genes that the configuration allows, warm starts not counted."
    )
    space: tuple[GeneSpace, ...]


class FinalistLine(Frozen):
    """One of the best genomes, and the genome that trained its genes again in the last generation."""

    genome_id: str
    again: str = Field(description="Genome of the repeat.")
    fitness: float | None
    fitness_again: float | None = Field(description="Null when the repeat is infeasible.")
    mean_fitness: float | None


class RepeatLine(Frozen):
    """One repeat of the champion's genes."""

    replicate: int
    fitness: float | None
    pass_at_1: float | None
    infeasible: str | None
    reason: str


class Repeats(Frozen):
    """Repetitions of the champion's training and evaluation with other seeds, on the fitness split."""

    n: int = Field(description="Repeats with a score; infeasible ones are not counted.")
    lines: tuple[RepeatLine, ...]
    own_fitness: float | None = Field(description="What the champion itself was chosen by.")
    own_pass_at_1: float | None
    mean_fitness: float | None = Field(description="Over the repeats, the champion itself left out: it was chosen.")
    sd_fitness: float | None = Field(description="Sample standard deviation; null below two repeats.")
    mean_pass_at_1: float | None
    sd_pass_at_1: float | None
    above_default: int | None = Field(description="Repeats with a fitness above the default LoRA's.")


class TunedLine(Frozen):
    """One candidate for the tuned LoRA, on the fitness split."""

    name: str
    heavy: HeavyGenes
    fitness: float | None
    pass_at_1: float | None
    infeasible: str | None
    chosen: bool = Field(description="Whether it is the tuned LoRA.")


class Level(Frozen):
    """Genomes with one value (or one range of values) of a gene."""

    value: str
    genomes: int
    mean: float = Field(description="Mean fitness; with warm starts less what the number of trainings gives.")
    error: float | None = Field(description="Standard error of the mean; null for one genome.")
    best: float = Field(description="Highest fitness, as measured.")


class GenePoint(Frozen):
    """One genome in a marginal plot."""

    level: int = Field(description="Position in `levels`.")
    fitness: float


class GeneEffect(Frozen):
    """Share of the variance of fitness that one gene explains, taken alone.

    With warm starts the number of trainings is one of them, and all others are compared among adapters trained as often.
    """

    gene: str = Field(description="Name of the gene; trainings: how often the adapter was trained.")
    kind: Literal["heavy", "light"]
    genomes: int = Field(description="Distinct genomes with a score for which the gene has an effect.")
    share: float = Field(description="Variance explained, adjusted for the number of levels (epsilon squared); [0, 1].")
    interval: tuple[float, float] = Field(description="95 % interval of the share (jackknife).")
    p_value: float = Field(description="Permutation test.")
    clear: bool = Field(description="p < 0.05 after Holm's correction for the number of genes.")
    levels: tuple[Level, ...]
    points: tuple[GenePoint, ...]


class OperatorLine(Frozen):
    """Results of one operator."""

    operator: str
    children: int
    infeasible: int
    compared: int = Field(description="Children with a score whose parents have one.")
    improved: int = Field(description="Of these, fitter than their best parent.")
    mean_change: float | None = Field(description="Mean of fitness less the best parent's.")
    error: float | None = Field(description="Standard error of that mean.")
    best: float | None = Field(description="Fitness of the best child.")
    new_champions: int = Field(description="Children that were the fittest of all when they came.")


class FailedJob(Frozen):
    """A job of this run in the store's queue that failed at least once."""

    queue: str
    kind: str
    digest: str
    tries: int = Field(description="Tries that failed, lost lanes left out.")
    lanes_lost: int
    state: Literal["waiting", "failed"]
    error: str = Field(description="Class of the last error, or lane-lost.")
    message: str
    host: str


class FailedTries(Frozen):
    """Tries of jobs that failed for one reason, all sessions and executors; most are made again."""

    kind: Literal["training", "evaluation"]
    error: str = Field(description="Class of the error, or lane-lost.")
    message: str
    count: int
    jobs: int = Field(description="Distinct jobs among them.")
    done_later: int = Field(description="Of these, jobs that have a result now.")
    last: float = Field(description="Unix time of the latest.")


class Spending(Frozen):
    """Lane time and its price, from the store's ledger."""

    currency: str
    gpu_hours: float = Field(description="Lane hours of this evolution: a lane holds one GPU, or one core here.")
    training_hours: float
    evaluation_hours: float
    money: float | None = Field(description="Null when no price is set.")
    limit_gpu_hours: float | None
    limit_money: float | None
    problem: str = Field("", description="Why the ledger could not be read; the numbers are then 0.")


class Report(Frozen):
    """Everything that `coral report RUN --json` prints."""

    schema_version: int = 1
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
    stages: tuple[StageCost, ...] = Field((), description="Cost of baselines, search and held-out split.")
    champion: Contender | None = Field(description="Champion (so far); null before the first generation has ended.")
    base_model: Contender | None
    default_lora: Contender | None = Field(description="The customary LoRA: rank 8, alpha 16, one learning rate.")
    tuned_lora: Contender | None = Field(None, description="The best of `tuned`; null without search.baselines: tuned.")
    longer_lora: Contender | None = Field(
        None,
        exclude_if=lambda line: line is None,
        description="The tuned LoRA, else the default one, trained as often as a champion that was trained further.",
    )
    baselines: Literal["quick", "tuned"] = Field("quick", description="search.baselines.")
    tuned: tuple[TunedLine, ...] = Field((), description="Candidates for the tuned LoRA, fittest first.")
    generation_0_median: Contender | None = Field(description="Genome of median fitness in the first generation.")
    gaps: Gaps
    generations: tuple[GenerationLine, ...]
    pareto_front: tuple[FrontPoint, ...]
    evaluated: tuple[Evaluated, ...] = Field(description="All genomes with scores: the points of the Pareto picture.")
    infeasible: tuple[InfeasibleGenome, ...]
    lineage: tuple[Ancestor, ...] = Field(description="Ancestors of the champion, oldest first, itself last.")
    bug_classes: tuple[BugClassLine, ...] = Field(description="Held-out split by bug class; empty before the end.")
    outcomes: dict[str, dict[str, int]] = Field(
        description="champion, base_model, default_lora, tuned_lora, longer_lora -> outcome of the judge -> held-out problems (first samples)."
    )
    held_out_openings: int | None = Field(description="Times the sealed split was evaluated.")
    base_check: BaseCheck
    previous: PreviousRun | None = Field(None, description="The run before; null where there was none.")
    answer: Answer = Field(description="Did the search help?")
    searched: Searched
    finalists: tuple[FinalistLine, ...] = Field(
        (),
        description="Genomes that were trained again in the last generation, best mean first (search.finalist_share).",
    )
    repeats: Repeats | None = Field(description="Seed repeats of the champion; null when there are none (yet).")
    genes: tuple[GeneEffect, ...] = Field(
        description="Importance of each gene, most important first; empty below 8 genomes."
    )
    operators: tuple[OperatorLine, ...]
    device: DeviceUse = Field(description="What devices did in the jobs of this run, all sessions together.")
    spending: Spending | None = Field(description="By the store's ledger; null when no lane has booked anything.")
    failed_jobs: tuple[FailedJob, ...] = Field(description="Failed jobs of this run in the store's queue.")
    failed_tries: tuple[FailedTries, ...] = Field((), description="Tries that failed, most frequent first.")
