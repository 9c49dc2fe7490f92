"""Turns genomes into jobs: everything of a configuration that decides an outcome goes into them.

The evolution and the lanes build the same jobs from the same configuration; a lane whose
code renders other data refuses (`Lane`), so that a digest never covers two contents.
"""

from typing import Self

from coral_core.config import RunConfig
from coral_core.genome import Genome, HeavyGenes, LightGenes, neutral
from coral_core.jobs.job_content import pairs_digest, problem_set, prompt_template, split_digest, tool_versions
from coral_core.jobs.jobs import BaseModelIdentity, EvaluationJob, QueueName, TrainingJob
from coral_core.lm.base_model import identify
from coral_core.lm.versions import RECIPE_VERSION
from coral_core.problems.problem import Problem, Split
from coral_core.runs.identities import Identities
from coral_core.runs.records import RunIdentity
from coral_core.runs.run_folder import identify_run
from coral_core.scoring.plugins import objective_versions


class Planner:
    """Builds the jobs of one run; `lanes` may be filled in when they have been asked."""

    def __init__(self, config: RunConfig, identity: RunIdentity, lanes: Identities | None = None) -> None:
        self.config = config
        self.identity = identity
        self.lanes = lanes
        self.prompt = prompt_template(config)
        self.base_passes: tuple[str, ...] = ()
        self._scope = identity.run_id if config.store.reuse == "run" else ""

    @classmethod
    def of_config(cls, config: RunConfig, lanes: Identities | None = None) -> Self:
        """For the first edition of `config`, and lanes of this machine where `lanes` is left out."""
        return cls(config, identify_run(config), lanes or Identities.alike(identify(config.base_model)))

    def base(self, queue: QueueName) -> BaseModelIdentity:
        """The base model as lanes of `queue` have it."""
        if self.lanes is None:
            raise LookupError("no lane has said yet what the base model is: ask them first: Executor.identities")
        return self.lanes.training if queue == "training" else self.lanes.evaluation

    def problems(self, split: Split) -> tuple[Problem, ...]:
        return problem_set(self.config.problems).split(split)

    def training(self, heavy: HeavyGenes, replicate: int = 0) -> TrainingJob:
        base = self.base("training")
        return TrainingJob(
            heavy=heavy,
            base_model=self.config.base_model,
            base_content_id=base.content_id,
            numerics_class=base.numerics_class,
            recipe=self.config.training,
            recipe_version=RECIPE_VERSION,
            problems=self.config.problems,
            pairs_digest=pairs_digest(self.config.problems, self.prompt),
            prompt_version=self.prompt.version,
            run_seed=self.identity.run_seed,
            replicate=replicate,
            scope=self._scope,
        )

    def evaluation(
        self, heavy: HeavyGenes | None, light: LightGenes | None = None, split: Split = "fitness", replicate: int = 0
    ) -> EvaluationJob:
        """Evaluation of an adapter (None: the bare base) on `split`; without `light`, decoded as the baselines are."""
        base = self.base("evaluation")
        return EvaluationJob(
            training=self.training(heavy, replicate) if heavy else None,
            base_model=self.config.base_model,
            base_content_id=base.content_id,
            numerics_class=base.numerics_class,
            light=light or neutral(self.config.genes.light.token_limit.high),
            problems=self.config.problems,
            split=split,
            problems_digest=split_digest(self.config.problems, split),
            generation=self.config.generation,
            judge=self.config.scoring.judge,
            versions=tool_versions(self.prompt),
            objectives=objective_versions(self.config.scoring),
            base_passes=self.base_passes if split == "fitness" and heavy else (),
            run_seed=self.identity.run_seed,
            replicate=replicate,
            scope=self._scope,
        )

    def of(self, genome: Genome, split: Split = "fitness") -> EvaluationJob:
        return self.evaluation(genome.heavy, genome.light, split)
