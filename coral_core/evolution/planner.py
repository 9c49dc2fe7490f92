"""Turns genomes into jobs; a job holds every part of the configuration that changes its outcome.

The evolution and the lanes derive the same contents from the same configuration. A lane whose code renders other data
refuses the job (`Lane`), so that one digest never stands for two contents.
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
    """Builds the jobs of one run.

    Args:
        config: The whole configuration.
        identity: Identity of the run; its seed goes into the jobs.
        lanes: The base model on the lanes of both queues; None while unknown, and to be set before the first job is built.

    Attributes:
        base_passes: Ids of the fitness problems that the bare base model repairs; set after its evaluation.
    """

    def __init__(self, config: RunConfig, identity: RunIdentity, lanes: Identities | None = None) -> None:
        self.config = config
        self.identity = identity
        self.lanes = lanes
        self.prompt = prompt_template(config)
        self.base_passes: tuple[str, ...] = ()
        self._scope = identity.run_id if config.store.reuse == "run" else ""

    @classmethod
    def of_config(cls, config: RunConfig, lanes: Identities | None = None) -> Self:
        """The planner for the first edition of a configuration.

        Args:
            config: The whole configuration.
            lanes: The base model on the lanes of both queues; None stands for lanes of this machine.
        """
        return cls(config, identify_run(config), lanes or Identities.alike(identify(config.base_model)))

    def base(self, queue: QueueName) -> BaseModelIdentity:
        """Identity of the base model on the lanes of `queue`. Raises `LookupError` while it is unknown."""
        if self.lanes is None:
            raise LookupError("no lane has said yet what the base model is: ask them first: Executor.identities")
        return self.lanes.training if queue == "training" else self.lanes.evaluation

    def problems(self, split: Split) -> tuple[Problem, ...]:
        """The problems of `split`."""
        return problem_set(self.config.problems).split(split)

    def training(self, heavy: HeavyGenes, replicate: int = 0) -> TrainingJob:
        """The training of an adapter.

        Args:
            heavy: Its genes.
            replicate: Number of the repeat with other seeds; 0 for the original.
        """
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
        """The evaluation of an adapter on one split.

        Args:
            heavy: Genes of the adapter; None for the bare base model.
            light: Genes of decoding; None for greedy decoding with the largest token limit, as the baselines use.
            split: The problems to evaluate on.
            replicate: Number of the repeat with other seeds; 0 for the original.
        """
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
        """The evaluation of a genome.

        Args:
            genome: Gives heavy and light genes.
            split: The problems to evaluate on.
        """
        return self.evaluation(genome.heavy, genome.light, split)
