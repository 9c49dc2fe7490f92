"""The progress of a run as frozen records: the stable keys of ``coral progress --json`` (docs/json.md).

Keys are added, never renamed, within one `schema_version`. What is not known (yet) is null, never left out.
"""

from typing import Literal

from pydantic import Field

from coral_core.frozen import Frozen
from coral_core.genome import HeavyGenes, LightGenes

PROGRESS_SCHEMA_VERSION = 1


class Best(Frozen):
    """One genome and what it scored: never figures of different genomes."""

    genome_id: str
    generation: int
    fitness: float
    pass_at_1: float | None = Field(description="Share of the fitness bugs it repairs.")
    scores: dict[str, float] = Field(description="Objective -> [0, 1], all of this genome.")
    meets_thresholds: bool = Field(description="Whether it meets the final thresholds of the constraints.")
    trainable_parameters: int
    heavy: HeavyGenes | None = Field(description="Null until its generation is finished.")
    light: LightGenes | None = Field(description="Null until its generation is finished.")


class Tally(Frozen):
    """Jobs of one kind, all sessions of the run together."""

    done: int = Field(description="Done by this run; what was found in the store is not counted.")
    found: int = Field(description="Found in the store, by the latest session.")
    running: int = Field(description="In lanes now.")
    waiting: int | None = Field(
        description="Submitted, no lane yet; null for executors that keep their queue to themselves."
    )
    failed: int = Field(description="Tries that did not end in a result; most are tried again.")


class Times(Frozen):
    """Seconds, all sessions together."""

    elapsed: float = Field(description="Wall clock, from each session's first job to its last.")
    baselines: float = Field(description="Wall clock of the baselines.")
    searching: float = Field(description="Wall clock of the generations.")
    held_out: float = Field(description="Wall clock of the sealed split.")
    training: float = Field(description="Work of training lanes.")
    evaluation: float = Field(description="Work of evaluation lanes.")
    waiting: float = Field(description="Sum over jobs of the time between submission and work.")


class Money(Frozen):
    """What the run cost, and will."""

    source: Literal["ledger", "jobs"] = Field(
        description="ledger: whole lives of lanes; jobs: work alone, no ledger is there."
    )
    currency: str
    gpu_hours: float = Field(description="Lane hours so far.")
    money: float = Field(description="Their price so far.")
    in_flight_gpu_hours: float = Field(description="What jobs in lanes still need.")
    forecast_gpu_hours: float | None = Field(
        description="At the end of the run; null before the first finished generation."
    )
    forecast_money: float | None
    used: float = Field(description="Largest share of a limit that is spent; 0 without limits.")


class Cache(Frozen):
    """Work that was not done again."""

    hits: int = Field(description="Jobs of the latest session that the store had done already.")
    asked: int = Field(description="Jobs of the latest session that have ended.")
    rate: float | None = Field(description="hits over asked.")
    genomes_sharing_an_adapter: int = Field(
        description="Genomes of finished generations that needed no adapter of their own."
    )


class Population(Frozen):
    """Genomes of finished generations, and of the one under way as far as they are evaluated."""

    size: int = Field(description="Genomes per generation.")
    evaluated: int
    infeasible: int
    unique_adapters: int = Field(description="Distinct trainings among them.")
    unique_share: float | None = Field(description="Distinct trainings over genomes in the latest finished generation.")


class Event(Frozen):
    """The newest thing on record."""

    text: str
    when: float = Field(description="Unix time.")


class Progress(Frozen):
    """Where one evolution stands; keys are added within a `schema_version`, never renamed."""

    schema_version: int = PROGRESS_SCHEMA_VERSION
    run_id: str
    path: str
    name: str
    strategy: str
    base_model: str
    executor: str
    status: Literal["running", "paused", "finished", "stopped", "failed"]
    error: str = Field(description="The error that ended the latest session; empty unless the status is failed.")
    paused: str = Field(
        description="Why no new job starts; empty when jobs may. The status is paused once those in lanes have ended."
    )
    reason: str | None = Field(description="Why the search ended; null before.")
    phase: Literal["starting", "baselines", "searching", "held-out", "finished"]
    percent: float = Field(ge=0, le=100, description="Share of the jobs that the run needs at most.")
    generation: int | None = Field(
        description="The one under way, from 0; the last one when none is. Null before the first."
    )
    generations_done: int
    generations: int = Field(description="Generations at most.")
    best: Best | None = Field(description="Fittest genome so far; at the end the champion.")
    baselines: dict[str, float | None] = Field(
        description="base_model, default_lora -> share of the fitness bugs repaired."
    )
    population: Population
    trainings: Tally
    evaluations: Tally
    cache: Cache
    hypervolume: float | None
    front: int = Field(description="Genomes on the Pareto front.")
    time: Times
    seconds_left: float | None = Field(
        description="By the pace of the latest ten generations; null when it cannot be told."
    )
    cost: Money
    sessions: int = Field(description="Times the run was started.")
    started: float | None = Field(description="Unix time of the latest session's first job.")
    updated: float | None = Field(description="Unix time of the newest record.")
    last_event: Event | None
