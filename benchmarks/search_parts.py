"""Parts of a search that are not built, replayed on gene tables at equal cost: races of light settings, early ends, species.

    python -m benchmarks.search_parts [TABLE ...] [--seeds 100] [--trainings 32]

Each arm is evolution with its defaults, but for what the arm does with a genome:

- evolution: as it is. A genome is one adapter at one light setting.
- best light setting: every adapter is evaluated at all light settings of the table, and the best as observed is told.
- raced light settings: the same by halving: all on a quarter of the problems, half of them on half, the best on all.
- ended by loss: a training ends at a third of its steps when its loss there is above that of the worst third so far.
- ended by problems: an evaluation ends after a quarter of the problems when the genome passes fewer of them than the
  fittest so far by more than two standard errors of the paired difference.
- species: parents share fitness with those of the same kind of adapter and target modules (Goldberg and Richardson 1987).
- steady state: child n is bred as soon as the first n - lanes + 1 results are there, in the order of asking, so that no lane
  waits for the end of a generation; beside it generations on the same lanes, in the same time.

An arm may spend what `trainings` adapters of the table cost on average: CPU seconds of trainings and evaluations, as the
table has them. The champion is valued by the mean of its replicates. `free` is the same with evaluations that cost nothing:
the most that the races could bring.
"""

import argparse
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, write
from benchmarks.search import TABLES, _table
from coral_core.comparison.seed_statistics import a12, a12_interval, wilcoxon
from coral_core.config.tree import EarlyStopping, SearchConfig
from coral_core.genome import Genome
from coral_core.search.archive import Entry, Scored
from coral_core.search.evolution import EvolutionSearch
from coral_core.search.play import replicate_of
from coral_core.search.screening import Measured, Screen, point
from coral_core.search.selection import fitness
from coral_core.search.tables import Table
from coral_core.search.variation import split

NAME = "search_parts"
GENERATIONS = 10_000
DIGITS = 6
LOSS_STAGE, LOSS_WORST = 1 / 3, 1 / 3
"""Share of the steps after which a loss is looked at, and share of the trainings that end there."""
FIRST_PROBLEMS = 0.25
"""Share of the problems after which an evaluation may end."""
HOPELESS = 2.0
"""Standard errors of the paired difference."""
LANES = (2, 5)
LEAST_SEEN = 6
"""Trainings before one may end early."""


@dataclass
class Play:
    """What an arm has spent and seen.

    Attributes:
        table: Where results are from.
        seed: Chooses the replicates.
        spent: CPU seconds.
        best: The fittest result so far, as observed.
        losses: Losses at `LOSS_STAGE` of the trainings so far.
        ended: Trainings and evaluations that ended early.
    """

    table: Table
    seed: int
    spent: float = 0.0
    best: Scored | None = None
    losses: list[float] = field(default_factory=list)
    ended: int = 0

    def __post_init__(self) -> None:
        count = len(self.table.facts.problems)
        self.order = np.random.default_rng(0).permutation(count).tolist()
        """The order in which problems are tried; the first ones are a sample of all."""

    def trained(self, genome: Genome, share: float = 1.0) -> None:
        self.spent += share * self.table.cost(genome).training

    def evaluated(self, genome: Genome, share: float = 1.0) -> None:
        self.spent += share * self.table.cost(genome).evaluation

    def first(self, share: float) -> list[int]:
        """The problems that are tried first."""
        return sorted(self.order[: max(1, round(share * len(self.order)))])

    def fitness_on(self, genome: Genome, problems: Sequence[int] | None = None) -> float:
        """Observed fitness on some problems, or on all; 0 for an infeasible genome."""
        found = self.table.observed(genome, replicate_of(self.table, self.seed, genome.heavy), problems)
        return fitness(found or {}, self.table.facts.scoring.weights)

    def scored(self, genome: Genome) -> Scored:
        """The whole result of a genome."""
        replicate = replicate_of(self.table, self.seed, genome.heavy)
        found = self.table.observed(genome, replicate)
        if found is None:
            return Scored(genome=genome, scores=None, fitness=None, infeasible=self.table.infeasible(genome, replicate))
        made = Scored(genome=genome, scores=found, fitness=fitness(found, self.table.facts.scoring.weights))
        if self.best is None or (made.fitness or 0.0) > (self.best.fitness or 0.0):
            self.best = made
        return made

    def lights(self, genome: Genome) -> list[Genome]:
        """The genome's adapter at every light setting."""
        return [genome.model_copy(update={"light": light}) for light in self.table.lights]


Arm = Callable[[Play, Genome], Scored]


def as_it_is(play: Play, genome: Genome) -> Scored:
    play.trained(genome)
    play.evaluated(genome)
    return play.scored(genome)


def best_light(play: Play, genome: Genome) -> Scored:
    play.trained(genome)
    each = play.lights(genome)
    for one in each:
        play.evaluated(one)
    return play.scored(max(each, key=play.fitness_on))


def raced_light(play: Play, genome: Genome) -> Scored:
    play.trained(genome)
    left, share, before = play.lights(genome), FIRST_PROBLEMS, 0.0
    while len(left) > 1:
        problems = play.first(share)
        for one in left:
            play.evaluated(one, share - before)
        left.sort(key=lambda one: -play.fitness_on(one, problems))
        left, before, share = left[: max(1, len(left) // 2)], share, min(1.0, 2 * share)
    play.evaluated(left[0], 1.0 - before)
    return play.scored(left[0])


def ended_by_loss(play: Play, genome: Genome) -> Scored:
    curve = play.table.losses(genome, replicate_of(play.table, play.seed, genome.heavy))
    if len(curve) < 3:  # an infeasible training
        return as_it_is(play, genome)
    loss = float(curve[max(0, round(LOSS_STAGE * len(curve)) - 1)])
    seen = sorted(play.losses)
    play.losses.append(loss)
    if len(seen) >= LEAST_SEEN and loss > seen[int((1 - LOSS_WORST) * len(seen))]:
        play.trained(genome, LOSS_STAGE)
        play.ended += 1
        return Scored(genome=genome, scores=None, fitness=None, infeasible="ended by its loss")
    return as_it_is(play, genome)


def ended_by_problems(play: Play, genome: Genome) -> Scored:
    replicate = replicate_of(play.table, play.seed, genome.heavy)
    found, best = play.table.outcomes(genome, replicate), play.best
    if found is None or best is None:
        return as_it_is(play, genome)
    theirs = play.table.outcomes(best.genome, replicate_of(play.table, play.seed, best.genome.heavy))
    assert theirs is not None, "the fittest is feasible"
    problems = play.first(FIRST_PROBLEMS)
    difference = theirs.bugfix[problems] - found.bugfix[problems]
    error = float(difference.std(ddof=1)) / len(problems) ** 0.5 if len(problems) > 1 else 0.0
    if float(difference.mean()) > HOPELESS * error > 0:
        play.trained(genome)
        play.evaluated(genome, FIRST_PROBLEMS)
        play.ended += 1
        scores = play.table.observed(genome, replicate, problems)
        return Scored(genome=genome, scores=scores, fitness=fitness(scores or {}, play.table.facts.scoring.weights))
    return as_it_is(play, genome)


class Species(EvolutionSearch):
    """Evolution whose parents are ordered by shared fitness: divided by the number of survivors of the same kind."""

    def _ordered(self) -> list[Entry]:
        ordered = super()._ordered()
        kinds = Counter((entry.genome.heavy.adapter, entry.genome.heavy.target_modules) for entry in ordered)
        shared = [
            (entry.fitness or 0.0) / kinds[entry.genome.heavy.adapter, entry.genome.heavy.target_modules]
            for entry in ordered
        ]
        return [ordered[n] for n in sorted(range(len(ordered)), key=lambda n: (-shared[n], n))]


ARMS: dict[str, tuple[type[EvolutionSearch], Arm]] = {
    "evolution": (EvolutionSearch, as_it_is),
    "best light setting": (EvolutionSearch, best_light),
    "raced light settings": (EvolutionSearch, raced_light),
    "ended by loss": (EvolutionSearch, ended_by_loss),
    "ended by problems": (EvolutionSearch, ended_by_problems),
    "species": (Species, as_it_is),
}


def played(folder: Path, name: str, seed: int, trainings: int, free: bool) -> dict[str, Any]:
    """One play of an arm to the end of its CPU seconds, or with free evaluations to its trainings.

    Args:
        folder: The table.
        name: The arm.
        seed: Of the search and of the replicates.
        trainings: Those that the seconds would pay on average.
        free: Whether evaluations cost nothing.
    """
    table = _table(folder)
    made, arm = ARMS[name]
    search = made(
        table.config(seed, SearchConfig(generations=GENERATIONS, early_stopping=EarlyStopping(enabled=False)))
    )
    columns = table.columns
    evaluation = 0.0 if free else float(columns.evaluation_seconds.mean())
    limit = trainings * (float(columns.training_seconds.mean()) + evaluation)
    play, known = Play(table, seed), dict[str, Scored]()
    results: list[Scored] = []
    while play.spent < limit:
        told = []
        for asked in search.ask():
            genome = table.placed(asked)
            key = genome.heavy.digest() if arm in (best_light, raced_light) else genome.genes_digest()
            if key not in known:
                if play.spent >= limit:
                    break
                before = play.spent
                known[key] = arm(play, genome)
                if free:
                    play.spent = before + table.cost(genome).training
            found = known[key]
            told.append(found.model_copy(update={"genome": asked.model_copy(update={"light": found.genome.light})}))
        results += told
        if play.spent < limit:
            search.tell(told)
    best = search.champion_of(results)
    value = table.expected(best.genome) if best else None
    return {
        "champion": round(fitness(value or {}, table.facts.scoring.weights), DIGITS),
        "adapters": len({one.genome.heavy for one in results}),
        "ended": play.ended,
    }


class Steady(EvolutionSearch):
    """Evolution that breeds one child at a time, from the results that it has been given."""

    def add(self, results: Sequence[Scored]) -> None:
        """Results in the order of asking; it learns from as many at a time as a generation has."""
        for scored in results:
            entry = Entry.of(scored)
            self._adapters.add(scored.genome.heavy.digest())
            self._entries.append(entry)
            self._distinct.setdefault(entry.genes, entry)
            search = self.config.search
            if len(self._entries) % (search.population - search.elites) == 0:
                self.learn([entry.scored() for entry in self._entries[-search.population + search.elites :]])

    def child(self, number: int, pending: Sequence[Genome]) -> Genome:
        """Child `number` of the search, counted from its first genome; none of the adapters that are on lanes, if there are others."""
        self.generation, slot = divmod(number, self.config.search.population)
        bred = self._bred(self._ordered(), range(slot, slot + 1))
        busy = {genome.heavy for genome in pending}
        bred = [material for material in bred if split(material.genes)[0] not in busy] or bred
        measured = Measured.of(self._informative(), self.config)
        points = np.array([point(*split(material.genes), self.config) for material in bred])
        (index,) = Screen(measured, points).choose(1, number % 2)
        return self._placed(bred[index], slot)

    def children(self, generation: int) -> list[Genome]:
        """The new genomes of a generation: no elites, which cost nothing."""
        self.generation = generation
        return [genome for genome in self._next() if genome.lineage.operator != "elite"]


def on_lanes(folder: Path, steady: bool, seed: int, trainings: int, lanes: int) -> dict[str, Any]:
    """One play on lanes that each train and evaluate a genome at a time, to the time that `trainings` take without idling.

    Args:
        folder: The table.
        steady: Whether children are bred one at a time; else by generations.
        seed: Of the search and of the replicates.
        trainings: Those that the time would pay on average.
        lanes: Genomes at a time.
    """
    table = _table(folder)
    search = Steady(
        table.config(seed, SearchConfig(generations=GENERATIONS, early_stopping=EarlyStopping(enabled=False)))
    )
    limit = trainings * float(table.columns.training_seconds.mean() + table.columns.evaluation_seconds.mean()) / lanes
    play, free = Play(table, seed), [0.0] * lanes
    asked, results, ends = list(search.ask()), list[Scored](), list[float]()
    told, ready, generation, done = 0, 0.0, 0, set[str]()
    while True:
        number = len(results)
        if number == len(asked):
            known = number - lanes + 1 if steady else number
            ready = max(ends[:known])
            search.add(results[told:known])
            told, generation = known, generation + 1
            asked += [search.child(number, asked[known:])] if steady else search.children(generation)
        genome = table.placed(asked[number])
        lane = free.index(min(free))
        begun = max(free[lane], ready)
        seconds = table.cost(genome).training * (genome.heavy.digest() not in done) + table.cost(genome).evaluation
        done.add(genome.heavy.digest())
        if begun + seconds > limit:
            break
        free[lane] = begun + seconds
        play.spent += seconds
        ends.append(free[lane])
        results.append(play.scored(genome))
    best = search.champion_of(results)
    value = table.expected(best.genome) if best else None
    return {
        "champion": round(fitness(value or {}, table.facts.scoring.weights), DIGITS),
        "adapters": len(done),
        "ended": 0,
        "idle": round(1 - play.spent / (lanes * limit), DIGITS),
    }


def measured(folder: Path, seeds: int, trainings: int, processes: int) -> dict[str, Any]:
    """Raw values and comparisons of all arms on one table."""
    raw: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(processes) as pool:
        for name in ARMS:
            for free in (False, True) if name in ("evolution", "best light setting") else (False,):
                jobs = [(folder, name, seed, trainings, free) for seed in range(seeds)]
                plays = list(pool.map(played, *zip(*jobs, strict=True), chunksize=4))
                key = f"{name}, free" if free else name
                raw[key] = {part: [play[part] for play in plays] for part in ("champion", "adapters", "ended")}
                print(f"{key}: champion {statistics.median(raw[key]['champion']):.4f}", flush=True)
        for lanes in LANES:
            for steady, name in ((False, "generations"), (True, "steady state")):
                jobs_ = [(folder, steady, seed, trainings, lanes) for seed in range(seeds)]
                plays = list(pool.map(on_lanes, *zip(*jobs_, strict=True), chunksize=4))
                key = f"{name}, {lanes} lanes"
                raw[key] = {part: [play[part] for play in plays] for part in plays[0]}
                print(f"{key}: champion {statistics.median(raw[key]['champion']):.4f}", flush=True)
    return {"raw": raw, "arms": {name: figures(raw, name) for name in raw}}


def figures(raw: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """An arm against evolution at the same cost, paired by seed.

    >>> raw = {"evolution": {"champion": [0.5, 0.6]}, "x": {"champion": [0.6, 0.6], "adapters": [9, 9], "ended": [1, 0]}}
    >>> figures(raw, "x")["a12"]
    0.75
    """
    ending = name.partition(", ")[2]
    other = f"generations, {ending}" if ending.endswith("lanes") else f"evolution, {ending}" if ending else "evolution"
    theirs = raw[other]["champion"]
    ours = raw[name]["champion"]
    interval = a12_interval(ours, theirs)
    return {
        "champion": statistics.median(ours),
        "evolution": statistics.median(theirs),
        "a12": a12(ours, theirs),
        "a12_interval": [interval.low, interval.high],
        "p": wilcoxon(ours, theirs),
        "adapters": statistics.fmean(raw[name]["adapters"]),
        "ended": statistics.fmean(raw[name]["ended"]),
        **({"idle": statistics.fmean(raw[name]["idle"])} if "idle" in raw[name] else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", type=Path, help=f"folders of complete tables; default: all in {TABLES}")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--trainings", type=int, default=32, help="of average cost, that an arm may spend")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--into", type=Path, default=RESULTS, help=f"folder of {NAME}.json")
    options = parser.parse_args()
    tables: dict[str, Any] = {}
    for folder in options.tables or sorted(path for path in TABLES.iterdir() if path.is_dir()):
        found = tables[folder.name] = measured(folder, options.seeds, options.trainings, options.processes)
        write(NAME, {"seeds": options.seeds, "trainings": options.trainings, "tables": tables}, options.into)
        for name, each in found["arms"].items():
            print(
                f"{folder.name} {name:28s} A12 {each['a12']:.3f}  p {each['p']:.2g}  {each['champion']:.4f} against {each['evolution']:.4f}, {each['adapters']:.0f} adapters"
            )


if __name__ == "__main__":
    main()
