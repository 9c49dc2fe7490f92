"""What the files of one run say, kept up to date by reading only what was added to them.

A `RunReading` follows history.jsonl and timings.jsonl and keeps a small record per genome and per generation and sums
over jobs, so a long run costs the same in its last generation as in its first. It writes nothing and holds nothing that
is not in the files: a second reading, in another process or after a restart, says the same. Not covered: what follows
from it (progress.py).
"""

import logging
import math
import os
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from coral_core.bounded_read import LINES, LONGEST_LINE, open_file
from coral_core.config import RunConfig
from coral_core.frozen import Frozen
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.jobs.jobs import Evaluation
from coral_core.json_object import json_object
from coral_core.runs.records import (
    BaselineRecord,
    FinalRecord,
    GenerationRecord,
    GenomeRecord,
    JobFailure,
    JobTiming,
    SessionTiming,
    parse_record,
    parse_timing,
)
from coral_core.runs.run_folder import RunFolder
from coral_core.search.selection import fitness, violation
from coral_core.store.store import Store
from coral_core.untrusted import in_a_line, visible

log = logging.getLogger("coral.report")

Kind = Literal["training", "evaluation"]
Stage = Literal["baselines", "searching", "held-out"]
LEADERS = 20
_GENOME = re.compile(r"g(\d{3,})-\d{3,}")
_TRIES = 6
"""Times that an evaluation is looked for which timings name and the store has not got."""


@dataclass(slots=True)
class KnownGenome:
    """A genome as history, or before that its evaluation in the store, tells it."""

    genome_id: str
    generation: int
    fitness: float | None
    pass_at_1: float | None
    scores: dict[str, float]
    meets_thresholds: bool
    infeasible: str | None
    trainable_parameters: int
    adapter: str
    """Begin of the training digest."""
    heavy: HeavyGenes | None = None
    """Genes are None until the generation is in the history."""
    light: LightGenes | None = None
    operator: str = ""
    parents: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[bool, float, str]:
        """Sorts the fittest first: genomes that meet the final thresholds before those that do not."""
        return (not self.meets_thresholds, -(self.fitness or 0.0), self.genome_id)


@dataclass(slots=True, frozen=True)
class ParetoPoint:
    """A genome with scores, as a dot in the picture of the Pareto front."""

    genome_id: str
    bugfix: float
    retention: float
    cost: float
    fitness: float
    trainable_parameters: int
    on_front: bool = False
    """Told by `progress.in_full`, for the front of the latest finished generation."""


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


@dataclass(slots=True)
class JobSums:
    """Sums over the jobs of one kind."""

    done: int = 0
    found: int = 0
    failed: int = 0
    seconds: float = 0.0
    waited: float = 0.0


class Tail:
    """Complete lines that were added to a file; starts anew when it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._inode = 0
        self._said = ""

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """(whether the file is another one than before, the new records)."""
        try:
            with open_file(self._path, LINES) as file:
                stat = os.fstat(file.fileno())
                anew = stat.st_ino != self._inode or stat.st_size < self._at
                if anew:
                    self._at, self._inode = 0, stat.st_ino
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return False, []
        except OSError as error:
            if self._said != (said := str(error)):
                self._said = said
                log.warning("%s cannot be read and counts as empty: %s", self._path, error.strerror)
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
                continue  # cut by a kill, or nothing that we wrote


class RunReading:
    """Follows one run. `refresh` before looking; one thread at a time.

    Args:
        folder: The run.
        store: Holds the evaluations of the generation under way.
        keep_generations: Keep the genomes of each generation in `unseen`, until somebody takes them out.
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
        """Read what was added since the last time."""
        for tail, forget, take in (
            (self._history, self._forget_history, self._record),
            (self._timings, self._forget_timings, self._timing),
        ):
            anew, rows = tail.read()
            if anew:
                forget()
            for row in rows:
                try:
                    take(row)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
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
        self.leaders: list[KnownGenome] = []
        self.champion: KnownGenome | None = None
        """Of the latest finished generation."""
        self.genomes = 0
        self.infeasible = 0
        self.adapters: set[str] = set()
        self.unseen: dict[int, list[KnownGenome]] = {}
        self.final: FinalRecord | None = None
        self._latest: list[KnownGenome] = []
        """Genomes of the latest finished generation."""
        self._population: list[KnownGenome] = []

    def _record(self, row: dict[str, Any]) -> None:
        match parse_record(row):  # a row of another shape is no record, and nothing of it is taken
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
        known = KnownGenome(
            genome_id=genome.genome_id,
            generation=genome.generation,
            fitness=record.fitness,
            pass_at_1=record.pass_at_1,
            scores=scores,
            meets_thresholds=bool(scores) and violation(scores, self.config.scoring, 1.0) == 0,
            infeasible=record.infeasible,
            trainable_parameters=record.trainable_parameters,
            adapter=record.training_digest[:16],
            heavy=genome.heavy,
            light=genome.light,
            operator=genome.lineage.operator,
            parents=genome.lineage.parents,
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
            self.leaders = sorted([*self.leaders, known], key=lambda item: item.key)[:LEADERS]

    def _generation(self, record: GenerationRecord) -> None:
        candidates = [*self._population, *self.leaders, *self._latest]
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
        self.jobs: dict[Kind, JobSums] = {"training": JobSums(), "evaluation": JobSums()}
        """Over all sessions."""
        self.session: dict[Kind, JobSums] = {"training": JobSums(), "evaluation": JobSums()}
        """Of the latest session."""
        self.sessions = 0
        self.stages: dict[Stage, float] = {"baselines": 0.0, "searching": 0.0, "held-out": 0.0}
        """Wall-clock seconds, all sessions together."""
        self.seen: dict[int, set[str]] = {}
        """Generation -> jobs that were finished in it; of the latest generations only."""
        self.stage: Stage = "baselines"
        self.done_baselines = 0
        self.done_held_out = 0
        self.last: JobTiming | JobFailure | SessionTiming | None = None
        """The newest line."""
        self.ended: SessionTiming | None = None
        """The line that ended the latest session; None while it goes on, or when it was killed."""
        self.started = 0.0
        self.busy: dict[Kind, array[float]] = {"training": array("d"), "evaluation": array("d")}
        """Start and end of each job of the latest session that did any, one after the other, Unix time."""
        self._idle = True
        self._known: set[tuple[str, str]] = set()
        self._before = 0.0
        self._fresh: dict[str, tuple[str, int]] = {}
        self.fresh: dict[str, KnownGenome] = {}
        """Evaluated genomes that the history does not hold yet, by id."""
        self.spans: dict[int, tuple[float, float]] = {}
        """Generation -> Unix time at which its work began and ended; of what was found in the store nothing is said."""
        self._stage_jobs: set[tuple[str, str]] = set()

    def _timing(self, row: dict[str, Any]) -> None:
        self.last = timing = parse_timing(row)
        match timing:
            case SessionTiming():
                self.ended = timing
                self._known.clear()
            case JobFailure():
                self.jobs[timing.kind].failed += 1
            case JobTiming():
                self._job(timing)

    def _job(self, job: JobTiming) -> None:
        name, took = (job.kind, job.digest[:16]), job.cost.seconds
        if not self._known or name in self._known:  # a session books each digest once
            self._begin(job.finished - took - job.waited)
        self._known.add(name)
        self.ended = None
        for sums in (self.jobs[job.kind], self.session[job.kind]):
            sums.found += job.cached
            sums.done += not job.cached
            sums.seconds += took
            sums.waited += job.waited
        if not job.cached:
            if self._idle:
                self.busy, self._idle = {"training": array("d"), "evaluation": array("d")}, False
            self.busy[job.kind].extend((job.finished - took, job.finished))
        self._place(job, name)

    def _begin(self, at: float) -> None:
        """A new session."""
        self.sessions += 1
        self.started = self._before = at
        self.session = {"training": JobSums(), "evaluation": JobSums()}
        self._idle = True
        self._known.clear()

    def _place(self, job: JobTiming, name: tuple[str, str]) -> None:
        """Which stage and generation the job belongs to."""
        label, finished = job.label, job.finished
        matched = _GENOME.match(label)
        # seed repeats of the champion run beside the split
        at_the_end = label.endswith("held-out") or " repeat " in label
        stage: Stage = "held-out" if at_the_end else "searching" if matched else "baselines"
        if stage != "searching" and name not in self._stage_jobs:
            self._stage_jobs.add(name)
            self.done_held_out += stage == "held-out"
            self.done_baselines += stage == "baselines"
        self.stages[stage] += max(0.0, finished - self._before)
        if stage == "searching" and matched and not label.endswith("monitor"):
            number = int(matched[1])
            if number not in self.seen:
                self.seen = {n: jobs for n, jobs in self.seen.items() if n >= number - 1}
                self.seen[number] = set()
            self.seen[number].add(name[0][0] + name[1])
            if not job.cached:
                begun, _ = self.spans.get(number, (self._before, 0.0))
                self.spans[number] = (begun, finished)
            if job.kind == "evaluation" and number >= len(self.generations):
                self._fresh.setdefault(label, (job.digest, 0))
        self.stage = stage
        self._before = max(self._before, finished)

    def _read_evaluations(self) -> None:
        """Genomes of the generation under way: their scores are in the store before they are in the history."""
        done = len(self.generations)
        self.fresh = {name: line for name, line in self.fresh.items() if line.generation >= done}
        for name, (digest, tries) in list(self._fresh.items()):
            number = int(name[1:].split("-")[0])
            if number < done or name in self.fresh or tries > _TRIES:
                del self._fresh[name]
                continue
            found = self.store.read_evaluation(digest)
            if found is None:
                self._fresh[name] = (digest, tries + 1)
                continue
            self.fresh[name] = _fresh_line(name, number, found, self.config)
            del self._fresh[name]

    # -- what several readers ask ----------------------------------------------------------

    @property
    def best(self) -> KnownGenome | None:
        """The fittest genome known, that of the generation under way too; at the end the champion."""
        rated = [line for line in self.fresh.values() if line.fitness is not None]
        if self.champion is not None and (self.final or not rated):
            return self.champion
        return min([*rated, *([self.champion] if self.champion else [])], key=lambda line: line.key, default=None)


def _fresh_line(name: str, number: int, found: Evaluation, config: RunConfig) -> KnownGenome:
    infeasible = found.infeasible
    return KnownGenome(
        genome_id=name,
        generation=number,
        fitness=None if infeasible else fitness(found.scores, config.scoring.weights),
        pass_at_1=None if infeasible else found.pass_at_1,
        scores=found.scores,
        meets_thresholds=not infeasible and violation(found.scores, config.scoring, 1.0) == 0,
        infeasible=infeasible,
        trainable_parameters=found.trainable_parameters,
        adapter=found.training_digest[:16],
    )


def _spread(population: list[KnownGenome]) -> dict[str, GeneSpread]:
    """How the genes of a generation spread."""
    heavy = [genome.heavy for genome in population if genome.heavy]
    light = [genome.light for genome in population if genome.light]
    columns: dict[str, list[float]] = {
        "rank": [genes.rank for genes in heavy],
        "alpha": [genes.alpha for genes in heavy],
        "dropout": [genes.dropout for genes in heavy],
        "learning_rate": [genes.learning_rate for genes in heavy],
        "modules": [len(genes.target_modules) for genes in heavy],
        "dora": [genes.adapter == "dora" for genes in heavy],
        "sampling": [genes.sampling for genes in light],
        "temperature": [genes.temperature for genes in light if genes.sampling],
    }
    return {
        name: GeneSpread(least=min(values), mean=math.fsum(values) / len(values), most=max(values))
        for name, values in columns.items()
        if values
    }
