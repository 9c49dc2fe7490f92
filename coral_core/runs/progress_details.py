"""What the artifacts show beyond the summary, as data: the further keys of ``coral progress RUN --json`` (docs/json.md).

From the same `RunReading` as tables and pictures of the artifacts (report/living.py), so both say the same.
"""

from pydantic import Field

from coral_core.frozen import Frozen
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.ledger import Ledger
from coral_core.runs.lane_use import BINS, busy_lanes
from coral_core.runs.progress import progress_of
from coral_core.runs.progress_content import Progress
from coral_core.runs.run_reader import Generation, Line, RunReading


class GeneSpread(Frozen):
    """One gene among the genomes of a generation; of genes that are words the share that has the word."""

    least: float
    mean: float
    most: float


class GenerationDetail(Frozen):
    """A finished generation. Down the list: the curves of fitness and hypervolume, and the drift of the genes."""

    generation: int
    best: str | None = Field(description="Champion so far.")
    best_fitness: float | None
    mean_fitness: float | None
    monitor_pass_at_1: float | None = Field(description="Of the champion so far, on the monitor split.")
    hypervolume: float
    front_size: int
    unique_adapters: int
    genomes: int
    infeasible: int
    genes: dict[str, GeneSpread] = Field(
        description="rank, alpha, dropout, learning_rate, modules (how many), dora and sampling (shares), temperature "
        "(of those that sample)."
    )


class Leader(Frozen):
    """One of the fittest genomes of finished generations, each once."""

    place: int
    genome_id: str
    generation: int
    fitness: float | None
    pass_at_1: float | None
    scores: dict[str, float]
    meets_thresholds: bool
    trainable_parameters: int
    heavy: HeavyGenes
    light: LightGenes
    operator: str
    parents: tuple[str, ...]


class ParetoPoint(Frozen):
    """A genome with scores, as a dot in the picture of the Pareto front."""

    genome_id: str
    bugfix: float
    retention: float
    cost: float
    fitness: float
    trainable_parameters: int
    on_front: bool


class LaneUse(Frozen):
    """Busy lanes over the latest session that did work, in columns of equal length."""

    at_most: int | None = Field(description="Lanes of both kinds together; null when that is up to the machine.")
    began: float = Field(description="Unix time.")
    seconds_per_column: float
    training: tuple[float, ...] = Field(description="Mean number of busy training lanes, by column.")
    evaluation: tuple[float, ...] = Field(description="Mean number of busy evaluation lanes, by column.")
    utilisation: float | None = Field(description="Busy over at most, whole session; null without at_most.")


class ProgressInFull(Progress):
    """`Progress`, and what tables and pictures of the artifacts show."""

    baseline_fitness: dict[str, float | None] = Field(description="base_model, default_lora -> fitness.")
    by_generation: tuple[GenerationDetail, ...]
    leaders: tuple[Leader, ...] = Field(description="The 20 fittest, fittest first.")
    points: tuple[ParetoPoint, ...] = Field(description="All genomes of finished generations that have scores.")
    lanes: LaneUse | None = Field(description="Null before the first job is done.")


def in_full(reading: RunReading, ledger: Ledger | None = None) -> ProgressInFull:
    """Everything that an up-to-date `reading` tells."""
    front = set(reading.generations[-1].front) if reading.generations else set()
    found = progress_of(reading, ledger)
    return ProgressInFull(
        **{name: getattr(found, name) for name in Progress.model_fields},
        baseline_fitness={name: row["fitness"] for name, row in reading.baselines.items()},
        by_generation=tuple(map(_generation, reading.generations)),
        leaders=tuple(_leader(place, line) for place, line in enumerate(reading.leaders, 1)),
        points=tuple(
            ParetoPoint(
                genome_id=point.genome_id,
                bugfix=point.bugfix,
                retention=point.retention,
                cost=point.cost,
                fitness=point.fitness,
                trainable_parameters=point.parameters,
                on_front=point.genome_id in front,
            )
            for point in reading.points.values()
        ),
        lanes=_lanes(reading),
    )


def _generation(line: Generation) -> GenerationDetail:
    return GenerationDetail(
        generation=line.number,
        best=line.best,
        best_fitness=line.best_fitness,
        mean_fitness=line.mean_fitness,
        monitor_pass_at_1=line.monitor,
        hypervolume=line.hypervolume,
        front_size=line.front_size,
        unique_adapters=line.adapters,
        genomes=line.genomes,
        infeasible=line.infeasible,
        genes={
            gene.replace(" ", "_").lower(): GeneSpread(least=least, mean=mean, most=most)
            for gene, (least, mean, most) in line.genes.items()
        },
    )


def _leader(place: int, line: Line) -> Leader:
    lineage = line.genome["lineage"]
    return Leader(
        place=place,
        genome_id=line.genome_id,
        generation=line.generation,
        fitness=line.fitness,
        pass_at_1=line.pass_at_1,
        scores=line.scores,
        meets_thresholds=line.meets,
        trainable_parameters=line.parameters,
        heavy=line.genome["heavy"],
        light=line.genome["light"],
        operator=lineage["operator"],
        parents=lineage["parents"],
    )


def _lanes(reading: RunReading) -> LaneUse | None:
    found = busy_lanes(reading)
    if found is None:
        return None
    busy = sum(map(sum, found.columns.values())) / BINS
    return LaneUse(
        at_most=found.at_most or None,
        began=found.began,
        seconds_per_column=found.width,
        training=tuple(round(value, 4) for value in found.columns["training"]),
        evaluation=tuple(round(value, 4) for value in found.columns["evaluation"]),
        utilisation=round(busy / found.at_most, 4) if found.at_most else None,
    )
