"""Upper bound of the number of jobs of a run, for progress, dry run and the terminal's bar.

A run needs fewer jobs when genomes share an adapter, when the monitored champion stays the same, when results are in the
store, and when the search ends before its last generation.
"""

from dataclasses import dataclass

from coral_core.config import RunConfig
from coral_core.lm.baselines import MOST_TUNED

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
        first_generation: Jobs of generation 0.
        later_generation: Jobs of each later generation.
        after_search: Jobs of the final table and of the repeats of the champion.
        generations: Number of generations at most.
    """

    baselines: JobCount
    first_generation: JobCount
    later_generation: JobCount
    after_search: JobCount
    generations: int

    @property
    def total(self) -> JobCount:
        """Jobs of the whole run."""
        return (
            self.baselines + self.first_generation + self.later_generation * (self.generations - 1) + self.after_search
        )

    def generation(self, number: int) -> JobCount:
        """Jobs of one generation, counted from 0."""
        return self.later_generation if number else self.first_generation


def plan_jobs(config: RunConfig, first_adapters: int | None = None) -> JobPlan:
    """The jobs that a run of `config` needs at most.

    Args:
        config: The configuration of the run.
        first_adapters: Number of distinct adapters of the first generation; None counts one per genome.

    Example:
        >>> from coral_core.config import RunConfig
        >>> plan = plan_jobs(RunConfig())
        >>> plan.baselines
        JobCount(trainings=1, evaluations=2)
        >>> plan.generation(0) == plan.first_generation
        True
    """
    search = config.search
    fresh = search.population - (search.elites if search.strategy == "evolution" else 0)
    monitored = 1 if config.problems.monitor else 0
    trainings = search.population if first_adapters is None else first_adapters
    tuned = search.baselines == "tuned"
    return JobPlan(
        baselines=JobCount(1, 2) + JobCount(1, 1) * (MOST_TUNED if tuned else 0),
        first_generation=JobCount(trainings, search.population + monitored),
        later_generation=JobCount(fresh, fresh + monitored),
        after_search=JobCount(search.champion_repeats, FINAL_TABLE + tuned + search.champion_repeats),
        generations=search.generations,
    )
