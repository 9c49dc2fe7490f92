"""Upper bound of the number of jobs of a run, for progress, dry run and the terminal's bar.

A run needs fewer jobs when genomes share an adapter, when the monitored champion stays the same, when results are in the
store, and when the search ends before its last generation. The number of generations of a plug-in is `search.generations`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from coral_core.config import RunConfig
from coral_core.genome import MOST_TRAININGS
from coral_core.lm.baselines import MOST_TUNED
from coral_core.runs.records import has_warm_starts
from coral_core.search.expression import SearchSpace

FINAL_TABLE = 4
"""Evaluations of the held-out split: champion, base model, default LoRA, median of generation 0; the tuned LoRA is a fifth."""


@dataclass(frozen=True)
class JobCount:
    """Numbers of jobs of the two kinds; counts can be added, and multiplied by an integer.

    >>> JobCount(1, 2) + JobCount(2, 2) * 3
    JobCount(trainings=7, evaluations=8)
    """

    trainings: int = 0
    evaluations: int = 0

    @property
    def total(self) -> int:
        return self.trainings + self.evaluations

    def __add__(self, other: "JobCount") -> "JobCount":
        return JobCount(self.trainings + other.trainings, self.evaluations + other.evaluations)

    def __mul__(self, times: int) -> "JobCount":
        return JobCount(self.trainings * times, self.evaluations * times)


@dataclass(frozen=True)
class JobPlan:
    """Jobs that a run needs at most, by stage.

    Attributes:
        baselines: Jobs of the bare base model, of the default LoRA, and of the candidates for the tuned LoRA.
        search: Jobs of each generation.
        after_search: Jobs of the final table and of the repeats of the champion.
    """

    baselines: JobCount
    search: tuple[JobCount, ...]
    after_search: JobCount

    @property
    def total(self) -> JobCount:
        """Jobs of the whole run."""
        return sum(self.search, self.baselines) + self.after_search

    @property
    def generations(self) -> int:
        """Number of generations at most."""
        return len(self.search)

    def generation(self, number: int) -> JobCount:
        """Jobs of one generation, counted from 0; of the last one for those after it."""
        return self.search[min(number, len(self.search) - 1)]


def plan_jobs(config: RunConfig, first_adapters: int | None = None, champion_trainings: int | None = None) -> JobPlan:
    """The jobs that a run of `config` needs at most.

    Args:
        config: The configuration of the run.
        first_adapters: Number of distinct adapters of the first generation, with those that carried genomes go on with; None
            counts one per genome.
        champion_trainings: Number of trainings that made the champion's adapter, all of which a repeat does again; None counts as
            many as warm starts allow.

    Example:
        >>> from coral_core.config import RunConfig
        >>> plan = plan_jobs(RunConfig())
        >>> plan.baselines
        JobCount(trainings=1, evaluations=2)
        >>> plan.generations, plan.generation(0)
        (4, JobCount(trainings=8, evaluations=9))
    """
    search = config.search
    monitored = 1 if config.problems.monitor else 0
    tuned = search.baselines == "tuned"
    chain = champion_trainings or _longest_chain(config)
    adapters = SearchSpace(config.genes).adapters
    new: float = math.inf if has_warm_starts(search) else adapters
    left: float = search.trainings or math.inf
    repeats: float = min(search.finalists, adapters)
    generations = []
    for number, genomes in enumerate(_new_genomes(config)):
        wanted = genomes if number or first_adapters is None else first_adapters
        trained = min(wanted, new)
        again = min(wanted - trained, repeats) if number else 0  # finalists, where the search space is used up
        new, repeats = new - trained, repeats - again
        trainings = int(min(trained + again, left))
        left -= trainings
        generations.append(JobCount(trainings, genomes + monitored))
    return JobPlan(
        baselines=JobCount(1, 2) + JobCount(1, 1) * (MOST_TUNED if tuned else 0),
        search=tuple(generations),
        after_search=JobCount(
            search.champion_repeats * chain + chain - 1,  # and those of `longer_lora`
            FINAL_TABLE + tuned + has_warm_starts(search) + search.champion_repeats,
        ),
    )


def _longest_chain(config: RunConfig) -> int:
    """Trainings at most behind one adapter, one after the other: a generation adds one; carried genomes may bring some."""
    search = config.search
    if not has_warm_starts(search):
        return 1
    longest = MOST_TRAININGS if search.start_from != "nothing" else min(MOST_TRAININGS, search.generations)
    return min(longest, search.trainings or longest)


def most_genomes(config: RunConfig) -> int:
    """Genomes that a search proposes at most, elites included.

    Example:
        >>> from coral_core.config import RunConfig
        >>> most_genomes(RunConfig()), most_genomes(RunConfig(search={"strategy": "fixed"}))
        (27, 1)
    """
    search = config.search
    budget = search.generations * search.population
    if search.finalists:
        return budget - search.population + search.finalists
    if search.strategy == "fixed":
        return 1
    if search.strategy == "grid":  # carried genomes need not decode as the grid does
        carried = max(2, int(search.survival_rate * search.population)) if search.start_from != "nothing" else 0
        return min(budget, SearchSpace(config.genes).adapters + carried)
    return budget


def _new_genomes(config: RunConfig) -> Iterator[int]:
    """Genomes that each generation evaluates anew, at most."""
    search, left = config.search, most_genomes(config)
    elites = search.elites if search.strategy == "evolution" else 0
    for number in range(-(-left // search.population)):
        bred = number and not (search.finalists and number == search.generations - 1)
        yield min(search.population, left - number * search.population) - (elites if bred else 0)
