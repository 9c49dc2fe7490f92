"""Incremental reading of the files of one run.

A `RunReading` follows history.jsonl and timings.jsonl and reads added lines only, so that an update costs the same in the
last generation as in the first. It keeps a small record per genome and per generation, and sums over jobs. It writes
nothing, and its content depends on the files alone. Not covered: figures derived from it (progress.py).
"""

import bisect
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from coral_core.bounded_read import LINES, LONGEST_LINE, open_file
from coral_core.config import RunConfig
from coral_core.errors import StoreError
from coral_core.frozen import Frozen
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.jobs.jobs import Evaluation
from coral_core.json_object import json_object
from coral_core.runs.records import (
    RECORD_LINE,
    TIMING_LINE,
    BaselineRecord,
    FinalRecord,
    GenerationRecord,
    GenomeRecord,
    JobTiming,
)
from coral_core.runs.run_folder import RunFolder
from coral_core.runs.sessions import WorkDone
from coral_core.search.selection import fitness, violation
from coral_core.search.surrogate import MOST_POINTS
from coral_core.store.store import Store
from coral_core.untrusted import in_a_line, visible

log = logging.getLogger("coral.report")

LEADERS = 20


class KnownGenome(Frozen):
    """A genome with its results, from the history or, before its generation is finished, from its stored evaluation."""

    genome_id: str
    generation: int
    fitness: float | None
    pass_at_1: float | None = Field(description="Share of the fitness bugs it repairs.")
    scores: dict[str, float] = Field(description="Objective -> score in [0, 1].")
    meets_thresholds: bool = Field(description="Whether it meets the final thresholds of the constraints.")
    infeasible: str | None
    trainable_parameters: int
    adapter: str = Field(description="First 16 digits of the training digest.")
    heavy: HeavyGenes | None = Field(None, description="Null until its generation is finished.")
    light: LightGenes | None = Field(None, description="Null until its generation is finished.")
    operator: str = ""
    parents: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[bool, float, str]:
        """Sorts the fittest first: genomes that meet the final thresholds before those that do not."""
        return (not self.meets_thresholds, -(self.fitness or 0.0), self.genome_id)


@dataclass(slots=True, frozen=True)
class ParetoPoint:
    """A genome with scores, as a point in the plot of the Pareto front."""

    genome_id: str
    bugfix: float
    retention: float
    cost: float
    fitness: float
    trainable_parameters: int
    on_front: bool = False
    """Whether it is on the front of the latest finished generation; set by `progress.in_full`."""


class GeneSpread(Frozen):
    """Spread of one gene over the genomes of a generation; a gene with two values counts as 0 or 1, so its mean is a share."""

    least: float
    mean: float
    most: float


class GenerationDetail(Frozen):
    """A finished generation: its figures for the curves of fitness and hypervolume, and the spread of its genes."""

    generation: int
    best: str | None = Field(description="Champion so far.")
    best_fitness: float | None
    mean_fitness: float | None
    monitor_pass_at_1: float | None = Field(description="pass@1 of the champion so far on the monitor split.")
    hypervolume: float
    front_size: int
    unique_adapters: int
    genomes: int
    infeasible: int
    genes: dict[str, GeneSpread] = Field(
        description="rank, alpha, dropout, learning_rate, modules (how many), dora and sampling (shares), temperature "
        "(of those that sample)."
    )


class Tail:
    """Reads the complete lines that were added to a file of JSON lines since the last call.

    Args:
        path: The file; it need not exist yet. When it was replaced or truncated, it is read from the beginning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = 0
        self._inode = 0

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """Read what was added.

        Returns:
            Whether the file was read from the beginning (earlier records no longer count), and the new records. Lines that
            are no JSON objects are skipped.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            with open_file(self.path, LINES) as file:
                stat = os.fstat(file.fileno())
                anew = stat.st_ino != self._inode or stat.st_size < self._at
                if anew:
                    self._at, self._inode = 0, stat.st_ino
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return False, []
        end = data.rfind(b"\n") + 1
        self._at += end
        return anew, list(_records(data[:end]))


def _records(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):
        if line and len(line) <= LONGEST_LINE:
            try:
                yield json_object(line)
            except ValueError:
                continue  # cut by a kill, or written by another program


class RunReading:
    """Follows the files of one run. Call `refresh` before using its attributes; not thread-safe.

    Args:
        folder: Folder of the run.
        store: Store of the run; it holds the evaluations of the generation under way.
        keep_generations: Keep the genomes of each finished generation in `unseen`; the caller removes them.

    Raises:
        ConfigError: the configuration of the run cannot be read.
    """

    def __init__(self, folder: RunFolder, store: Store, keep_generations: bool = False) -> None:
        self.folder = folder
        self.store = store
        self.config = folder.config()
        self._keeps = keep_generations
        self._history = Tail(folder.path / "history.jsonl")
        self._timings = Tail(folder.path / "timings.jsonl")
        self._forget_history()
        self._forget_timings()

    def refresh(self) -> "RunReading":
        """Read what was added since the last call, and return this reading. Broken lines are logged and skipped."""
        for tail, forget, take in (
            (self._history, self._forget_history, self._record),
            (self._timings, self._forget_timings, self._timing),
        ):
            try:
                anew, rows = tail.read()
            except OSError as error:
                raise StoreError(
                    f"{tail.path}: cannot be read ({error.strerror})", remedy="Repair or move it away, and look again."
                ) from None
            if anew:
                forget()
            for row in rows:
                try:
                    take(row)
                except ValueError as error:
                    log.warning(
                        "%s: a line is not what it should be and is passed over: %s",
                        visible(self.folder.run_id),
                        in_a_line(error),
                    )
        self._read_evaluations()
        return self

    # -- history ---------------------------------------------------------------------------

    def _forget_history(self) -> None:
        self.baselines: dict[str, BaselineRecord] = {}
        self.generations: list[GenerationDetail] = []
        self.front: tuple[str, ...] = ()
        """Pareto front after the latest finished generation."""
        self.points: dict[str, ParetoPoint] = {}
        self._fittest: list[KnownGenome] = []
        """As many as a search names its champion among, the fittest first."""
        self.champion: KnownGenome | None = None
        """Champion after the latest finished generation."""
        self.genomes = 0
        self.infeasible = 0
        self.adapters: set[str] = set()
        self.unseen: dict[int, list[KnownGenome]] = {}
        self.final: FinalRecord | None = None
        self._latest: list[KnownGenome] = []
        """Genomes of the latest finished generation."""
        self._population: list[KnownGenome] = []

    @property
    def leaders(self) -> list[KnownGenome]:
        """The fittest genomes, elites counted once."""
        return self._fittest[:LEADERS]

    def _record(self, row: dict[str, Any]) -> None:
        match RECORD_LINE.validate_python(row):  # raises ValueError for a row that is no record
            case BaselineRecord() as baseline:
                self.baselines[baseline.name] = baseline
            case GenomeRecord() as genome:
                self._genome(genome)
            case GenerationRecord() as generation:
                self._generation(generation)
            case FinalRecord() as final:
                self.final = final

    def _genome(self, record: GenomeRecord) -> None:
        genome, scores = record.genome, record.scores
        known = _known(genome.genome_id, genome.generation, record, record.fitness, self.config).model_copy(
            update={
                "heavy": genome.heavy,
                "light": genome.light,
                "operator": genome.lineage.operator,
                "parents": genome.lineage.parents,
            }
        )
        self.genomes += 1
        self.infeasible += known.infeasible is not None
        self.adapters.add(known.adapter)
        self._population.append(known)
        if known.fitness is None:
            return
        bugfix, retention, cost = (scores.get(name, 0.0) for name in ("bugfix", "retention", "cost"))
        self.points[known.genome_id] = ParetoPoint(
            known.genome_id, bugfix, retention, cost, known.fitness, known.trainable_parameters
        )
        if known.operator != "elite":
            bisect.insort(self._fittest, known, key=lambda item: item.key)
            del self._fittest[MOST_POINTS:]

    def _generation(self, record: GenerationRecord) -> None:
        candidates = [*self._population, *self._fittest, *self._latest]
        self.champion = next((one for one in candidates if one.genome_id == record.best), self.champion)
        self.front = record.front
        self.generations.append(
            GenerationDetail(
                **record.model_dump(exclude={"type", "schema_version", "front"}),
                front_size=len(record.front),
                infeasible=sum(genome.infeasible is not None for genome in self._population),
                genomes=len(self._population),
                genes=_spread(self._population),
            )
        )
        if self._keeps:
            self.unseen[record.generation] = self._population
        self._latest, self._population = self._population, []

    # -- timings ---------------------------------------------------------------------------

    def _forget_timings(self) -> None:
        self.work = WorkDone()
        self._unread: dict[str, tuple[int, str]] = {}
        """Genome id -> generation, and digest of an evaluation that the history does not hold yet."""
        self.fresh: dict[str, KnownGenome] = {}
        """Evaluated genomes that the history does not hold yet, by id."""

    def _timing(self, row: dict[str, Any]) -> None:
        timing = TIMING_LINE.validate_python(row)
        self.work.take(timing)
        if isinstance(timing, JobTiming) and timing.split == "fitness" and timing.generation is not None:
            self._unread[timing.label] = (timing.generation, timing.digest)

    def _read_evaluations(self) -> None:
        """Read the evaluated genomes of the generation under way from the store, before the history holds them."""
        done = len(self.generations)
        self.fresh = {name: known for name, known in self.fresh.items() if known.generation >= done}
        for name, (generation, digest) in list(self._unread.items()):
            evaluation = self.store.read_evaluation(digest) if generation >= done else None
            if evaluation is not None:
                value = None if evaluation.infeasible else fitness(evaluation.scores, self.config.scoring.weights)
                self.fresh[name] = _known(name, generation, evaluation, value, self.config)
            if evaluation is not None or generation < done:
                del self._unread[name]

    # -- what several readers ask ----------------------------------------------------------

    @property
    def best(self) -> KnownGenome | None:
        """The fittest known genome, the generation under way included; the champion when the run is finished."""
        rated = [line for line in self.fresh.values() if line.fitness is not None]
        if self.champion is not None and (self.final or not rated):
            return self.champion
        return min([*rated, *([self.champion] if self.champion else [])], key=lambda line: line.key, default=None)


def _known(
    genome_id: str, generation: int, result: GenomeRecord | Evaluation, value: float | None, config: RunConfig
) -> KnownGenome:
    feasible = not result.infeasible
    return KnownGenome(
        genome_id=genome_id,
        generation=generation,
        fitness=value,
        pass_at_1=result.pass_at_1 if feasible else None,
        scores=result.scores,
        meets_thresholds=feasible and bool(result.scores) and violation(result.scores, config.scoring, 1.0) == 0,
        infeasible=result.infeasible,
        trainable_parameters=result.trainable_parameters,
        adapter=result.training_digest[:16],
    )


def _spread(population: list[KnownGenome]) -> dict[str, GeneSpread]:
    """Gene name -> spread over the genomes of a generation."""
    heavy = [genome.heavy for genome in population if genome.heavy]
    light = [genome.light for genome in population if genome.light]
    columns: dict[str, list[float]] = {
        "rank": [genes.rank for genes in heavy],
        "alpha": [genes.alpha for genes in heavy],
        "dropout": [genes.dropout for genes in heavy],
        "learning_rate": [genes.learning_rate for genes in heavy],
        "modules": [len(genes.target_modules) for genes in heavy],
        "dora": [genes.adapter == "dora" for genes in heavy],
        "rslora": [genes.scaling == "rslora" for genes in heavy],
        "sampling": [genes.sampling for genes in light],
        "temperature": [genes.temperature for genes in light if genes.sampling],
    }
    return {
        name: GeneSpread(least=min(values), mean=math.fsum(values) / len(values), most=max(values))
        for name, values in columns.items()
        if values
    }
