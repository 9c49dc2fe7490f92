"""What the files of one run say, kept up to date by reading only what was added to them.

A `RunReading` follows history.jsonl and timings.jsonl and keeps what progress and its pictures need: a
small record per genome and per generation, sums over jobs. A long run therefore costs the same in its last
generation as in its first. It writes nothing and holds nothing that is not in the files: a second reading of the same
files, in another process or after a restart, says the same. Not covered: what follows from it (progress.py).
"""

import logging
import math
import re
from array import array
from dataclasses import dataclass, field
from typing import Any, Literal

from coral_core.config import RunConfig
from coral_core.jobs.jobs import Evaluation
from coral_core.runs.records import parse_record, parse_timing
from coral_core.runs.run_folder import RunFolder
from coral_core.runs.tail import Tail
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
class Line:
    """A genome as history, or before that its evaluation in the store, tells it."""

    genome_id: str
    generation: int
    fitness: float | None
    pass_at_1: float | None
    scores: dict[str, float]
    meets: bool
    infeasible: str | None
    parameters: int
    adapter: str
    """Begin of the training digest."""
    genome: dict[str, Any] = field(default_factory=dict)
    """Genes and lineage; empty until the generation is in the history."""

    @property
    def key(self) -> tuple[bool, float, str]:
        """Sorts the fittest first: genomes that meet the final thresholds before those that do not."""
        return (not self.meets, -(self.fitness or 0.0), self.genome_id)


@dataclass(slots=True)
class Point:
    """A genome as a dot in the picture of the Pareto front."""

    genome_id: str
    bugfix: float
    retention: float
    cost: float
    fitness: float
    parameters: int


@dataclass(slots=True)
class Generation:
    """A finished generation: what history says of it, and how its genes spread."""

    number: int
    best: str | None
    best_fitness: float | None
    mean_fitness: float | None
    hypervolume: float
    front: tuple[str, ...]
    front_size: int
    adapters: int
    infeasible: int
    genomes: int
    monitor: float | None
    genes: dict[str, tuple[float, float, float]]
    """Gene -> least, mean and largest value among the genomes; shares for genes that are words."""


@dataclass(slots=True)
class Jobs:
    """Sums over the jobs of one kind."""

    done: int = 0
    found: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    cpu_seconds: float = 0.0
    tokens: int = 0
    failed: int = 0


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
        self.baselines: dict[str, dict[str, Any]] = {}
        self.generations: list[Generation] = []
        self.points: dict[str, Point] = {}
        self.leaders: list[Line] = []
        self.champion: Line | None = None
        """Of the latest finished generation."""
        self.genomes = 0
        self.infeasible = 0
        self.adapters: set[str] = set()
        self.latest: list[Line] = []
        """Genomes of the latest finished generation."""
        self.unseen: dict[int, list[Line]] = {}
        self.final: dict[str, Any] | None = None
        self._population: list[Line] = []

    def _record(self, row: dict[str, Any]) -> None:
        parse_record(row)  # of another shape it is no record, and nothing of it is taken
        kind = row["type"]
        if kind == "baseline":
            self.baselines[row["name"]] = row
        elif kind == "genome":
            self._genome(row)
        elif kind == "generation":
            self._generation(row)
        elif kind == "final":
            self.final = row

    def _genome(self, row: dict[str, Any]) -> None:
        genome, scores = row["genome"], row["scores"]
        line = Line(
            genome_id=genome["genome_id"],
            generation=genome["generation"],
            fitness=row["fitness"],
            pass_at_1=row["pass_at_1"],
            scores=scores,
            meets=bool(scores) and violation(scores, self.config.scoring, 1.0) == 0,
            infeasible=row["infeasible"],
            parameters=row["trainable_parameters"],
            adapter=row["training_digest"][:16],
            genome={name: genome[name] for name in ("heavy", "light", "lineage")} | {"reason": row["reason"]},
        )
        self.genomes += 1
        self.infeasible += line.infeasible is not None
        self.adapters.add(line.adapter)
        self._population.append(line)
        if line.fitness is None:
            return
        self.points[line.genome_id] = Point(
            line.genome_id,
            scores.get("bugfix", 0.0),
            scores.get("retention", 0.0),
            scores.get("cost", 0.0),
            line.fitness,
            line.parameters,
        )
        if genome["lineage"]["operator"] != "elite":
            self.leaders = sorted([*self.leaders, line], key=lambda item: item.key)[:LEADERS]

    def _generation(self, row: dict[str, Any]) -> None:
        known = [*self._population, *self.leaders, *self.latest, *([self.champion] if self.champion else [])]
        self.champion = next((line for line in known if line.genome_id == row["best"]), self.champion)
        self.generations.append(
            Generation(
                number=row["generation"],
                best=row["best"],
                best_fitness=row["best_fitness"],
                mean_fitness=row["mean_fitness"],
                hypervolume=row["hypervolume"],
                front=tuple(row["front"]),
                front_size=len(row["front"]),
                adapters=row["unique_adapters"],
                infeasible=sum(line.infeasible is not None for line in self._population),
                genomes=len(self._population),
                monitor=row["monitor_pass_at_1"],
                genes=_spread(self._population),
            )
        )
        if len(self.generations) > 1:
            self.generations[-2].front = ()  # only the latest front is of use
        if self._keeps:
            self.unseen[row["generation"]] = self._population
        self.latest, self._population = self._population, []

    # -- timings ---------------------------------------------------------------------------

    def _forget_timings(self) -> None:
        self.jobs: dict[Kind, Jobs] = {"training": Jobs(), "evaluation": Jobs()}
        """Over all sessions."""
        self.session: dict[Kind, Jobs] = {"training": Jobs(), "evaluation": Jobs()}
        """Of the latest session."""
        self.sessions = 0
        self.stages: dict[Stage, float] = {"baselines": 0.0, "searching": 0.0, "held-out": 0.0}
        """Wall-clock seconds, all sessions together."""
        self.seen: dict[int, set[str]] = {}
        """Generation -> jobs that were finished in it; of the latest generations only."""
        self.stage: Stage = "baselines"
        self.done_baselines = 0
        self.done_held_out = 0
        self.last: dict[str, Any] = {}
        self.line: dict[str, Any] | None = None
        """The SessionTiming that ended the latest session, if it is the newest line."""
        self.started = 0.0
        self.busy: dict[Kind, array[float]] = {"training": array("d"), "evaluation": array("d")}
        """Start and end of each job of the latest session that did any, one after the other, Unix time."""
        self._idle = True
        self._known: set[tuple[str, str]] = set()
        self._before = 0.0
        self._fresh: dict[str, tuple[str, int]] = {}
        self.fresh: dict[str, Line] = {}
        """Evaluated genomes that the history does not hold yet, by id."""
        self.spans: dict[int, tuple[float, float]] = {}
        """Generation -> Unix time at which its work began and ended; of what was found in the store nothing is said."""
        self._stage_jobs: set[tuple[str, str]] = set()

    def _timing(self, row: dict[str, Any]) -> None:
        parse_timing(row)
        kind = row["type"]
        if kind == "session":
            self.line = self.last = row
            self._known.clear()
        elif kind == "failure":
            self.jobs[row["kind"]].failed += 1
            self.last = row
        elif kind == "job":
            self._job(row)

    def _job(self, row: dict[str, Any]) -> None:
        kind: Kind = row["kind"]
        name = (kind, row["digest"][:16])
        took = row["cost"]["seconds"]
        if not self._known or name in self._known:  # a session books each digest once
            self._begin(row["finished"] - took - row["waited"])
        self._known.add(name)
        self.line, self.last = None, row
        for sums in (self.jobs[kind], self.session[kind]):
            sums.found += row["cached"]
            sums.done += not row["cached"]
            sums.seconds += took
            sums.waited += row["waited"]
            sums.cpu_seconds += row["cost"]["cpu_seconds"]
            sums.tokens += row["cost"]["tokens"]
        if not row["cached"]:
            if self._idle:
                self.busy, self._idle = {"training": array("d"), "evaluation": array("d")}, False
            self.busy[kind].extend((row["finished"] - took, row["finished"]))
        self._place(row, name)

    def _begin(self, at: float) -> None:
        """A new session."""
        self.sessions += 1
        self.started = self._before = at
        self.session = {"training": Jobs(), "evaluation": Jobs()}
        self._idle = True
        self._known.clear()

    def _place(self, row: dict[str, Any], name: tuple[str, str]) -> None:
        """Which stage and generation the job belongs to."""
        label, finished = row["label"], row["finished"]
        matched = _GENOME.match(label)
        at_the_end = (
            label.endswith("held-out") or " repeat " in label
        )  # seed repeats of the champion run beside the split
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
            if not row["cached"]:
                begun, _ = self.spans.get(number, (self._before, 0.0))
                self.spans[number] = (begun, finished)
            if row["kind"] == "evaluation" and number >= len(self.generations):
                self._fresh.setdefault(label, (row["digest"], 0))
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
    def best(self) -> Line | None:
        """The fittest genome known, that of the generation under way too; at the end the champion."""
        rated = [line for line in self.fresh.values() if line.fitness is not None]
        if self.champion is not None and (self.final or not rated):
            return self.champion
        return min([*rated, *([self.champion] if self.champion else [])], key=lambda line: line.key, default=None)


def _fresh_line(name: str, number: int, found: Evaluation, config: RunConfig) -> Line:
    infeasible = found.infeasible
    return Line(
        genome_id=name,
        generation=number,
        fitness=None if infeasible else fitness(found.scores, config.scoring.weights),
        pass_at_1=None if infeasible else found.pass_at_1,
        scores=found.scores,
        meets=not infeasible and violation(found.scores, config.scoring, 1.0) == 0,
        infeasible=infeasible,
        parameters=found.trainable_parameters,
        adapter=found.training_digest[:16],
    )


def _spread(population: list[Line]) -> dict[str, tuple[float, float, float]]:
    """How the genes of a generation spread."""
    genes = [(line.genome["heavy"], line.genome["light"]) for line in population]
    sampling = [light for _, light in genes if light["sampling"]]
    columns: dict[str, list[float]] = {
        "rank": [heavy["rank"] for heavy, _ in genes],
        "alpha": [heavy["alpha"] for heavy, _ in genes],
        "dropout": [heavy["dropout"] for heavy, _ in genes],
        "learning rate": [heavy["learning_rate"] for heavy, _ in genes],
        "modules": [len(heavy["target_modules"]) for heavy, _ in genes],
        "DoRA": [heavy["adapter"] == "dora" for heavy, _ in genes],
        "sampling": [light["sampling"] for _, light in genes],
        "temperature": [light["temperature"] for light in sampling],
    }
    return {
        name: (min(values), math.fsum(values) / len(values), max(values)) for name, values in columns.items() if values
    }
