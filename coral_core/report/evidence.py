"""How sure, why, and what went wrong: further frozen records of `Report` (keys: docs/json.md).

What computes them: repeats.py, genes.py, operators.py, failures.py.
"""

from typing import Literal

from pydantic import Field

from coral_core.frozen import Frozen

Word = Literal["better", "worse", "not distinguishable", "default LoRA itself", "unknown"]


class Answer(Frozen):
    """Did the search help? Held against what an engineer tries first, the default LoRA."""

    verdict: Word = Field(description="Champion against the default LoRA on the held-out bugs; unknown before the end.")
    text: str


class GeneSpace(Frozen):
    """What one gene could be."""

    gene: str
    kind: Literal["heavy", "light"]
    values: str = Field(description="Candidates, or low to high.")


class Searched(Frozen):
    """What was searched, and with how much."""

    strategy: str
    generations: int = Field(description="Generations at most.")
    population: int
    genomes: int = Field(description="Genomes evaluated so far, elites counted once.")
    adapters: int = Field(description="Distinct adapters among them: trainings needed.")
    combinations: int = Field(description="Distinct heavy genes that the configuration allows.")
    space: tuple[GeneSpace, ...]


class RepeatLine(Frozen):
    """One repeat of the champion's genes."""

    replicate: int
    fitness: float | None
    pass_at_1: float | None
    infeasible: str | None
    reason: str


class Repeats(Frozen):
    """The champion's genes, trained and evaluated anew with other random numbers, on the fitness split."""

    n: int = Field(description="Repeats with a score; infeasible ones are not counted.")
    lines: tuple[RepeatLine, ...]
    own_fitness: float | None = Field(description="What the champion itself was chosen by.")
    own_pass_at_1: float | None
    mean_fitness: float | None = Field(description="Over the repeats, the champion itself left out: it was chosen.")
    sd_fitness: float | None = Field(description="Sample standard deviation; null below two repeats.")
    mean_pass_at_1: float | None
    sd_pass_at_1: float | None
    above_default: int | None = Field(description="Repeats with a fitness above the default LoRA's.")


class Level(Frozen):
    """Genomes with one value (or one range of values) of a gene."""

    value: str
    genomes: int
    mean: float = Field(description="Mean fitness.")
    error: float | None = Field(description="Standard error of the mean; null for one genome.")
    best: float


class GenePoint(Frozen):
    """One genome in a marginal plot."""

    level: int = Field(description="Position in `levels`.")
    fitness: float


class GeneEffect(Frozen):
    """How much of the spread of fitness goes with one gene, taken alone."""

    gene: str
    kind: Literal["heavy", "light"]
    genomes: int = Field(description="Distinct genomes with a score for which the gene has an effect.")
    share: float = Field(description="Variance explained, adjusted for the number of levels (epsilon squared); [0, 1].")
    interval: tuple[float, float] = Field(description="95 % interval of the share (delete-one jackknife).")
    p_value: float = Field(description="Permutation test.")
    clear: bool = Field(description="p < 0.05 after Holm's correction for the number of genes.")
    levels: tuple[Level, ...]
    points: tuple[GenePoint, ...]


class OperatorLine(Frozen):
    """What one way of making genomes gave."""

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
