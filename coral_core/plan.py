"""Turns genomes into jobs: everything of a configuration that decides an outcome goes into them.

Control process and lanes build the same jobs from the same configuration; a lane whose
code renders other data refuses (`Lane`), so that a digest never covers two contents.
"""

import difflib
import platform
from functools import lru_cache
from importlib.metadata import version
from typing import Self

from coral_core.config import ProblemsConfig, RunConfig
from coral_core.digest import digest
from coral_core.errors import ProblemError
from coral_core.genome import Genome, HeavyGenes, LightGenes, neutral
from coral_core.identities import Identities
from coral_core.jobs import BaseModelIdentity, EvaluationJob, QueueName, TestJob, TrainingJob
from coral_core.lm.base import identify
from coral_core.lm.versions import RECIPE_VERSION
from coral_core.records import RunIdentity
from coral_core.repair.extract import EXTRACTOR_VERSION
from coral_core.repair.problem import Problem, ProblemSet, Split
from coral_core.repair.prompt import PromptTemplate, template_for
from coral_core.repair.sources import load_problems
from coral_core.run import identify_run
from coral_core.scoring.judge import JUDGE_VERSION, ORACLE_VERSION
from coral_core.scoring.objectives import SCORING_VERSION
from coral_core.scoring.plugins import objective_versions


@lru_cache(maxsize=4)
def problem_set(config: ProblemsConfig) -> ProblemSet:
    """The problems that `config` names, four ways split; the same on every machine."""
    return load_problems(config)


def prompt_template(config: RunConfig | EvaluationJob | TrainingJob) -> PromptTemplate:
    """The one prompt of training and generation."""
    return template_for(config.base_model.name, config.base_model.prompt)


@lru_cache(maxsize=8)
def pairs_digest(config: ProblemsConfig, prompt: PromptTemplate) -> str:
    """Digest of the rendered training pairs."""
    pairs = problem_set(config).pairs
    return digest([[prompt.prompt(pair.buggy), prompt.answer(pair.fixed)] for pair in pairs])


@lru_cache(maxsize=32)
def split_digest(config: ProblemsConfig, split: Split) -> str:
    """Digest of the contents of one split."""
    return digest([problem.digest() for problem in problem_set(config).split(split)])


def find_problem(config: ProblemsConfig, problem_id: str) -> Problem:
    """The problem called `problem_id`, of whatever split. Raises `ProblemError` for a name that is not there."""
    found = problem_set(config)
    known = {problem.problem_id: problem for problem in (*found.fitness, *found.monitor, *found.held_out)}
    if problem_id not in known:
        near = difflib.get_close_matches(problem_id, list(known), 3, 0.4) or list(known)[:3]
        raise ProblemError(
            f"{problem_id}: no such problem in the source {config.source} ({len(known)} there). Near: {', '.join(near)}."
        )
    return known[problem_id]


def job_for_patch(config: RunConfig, problem_id: str, patch: str) -> TestJob:
    """The job that judges `patch` against one problem of `config`. Raises `ProblemError` as `find_problem`."""
    problem = find_problem(config.problems, problem_id)
    versions = tool_versions(prompt_template(config))
    return TestJob(
        problems=config.problems,
        problem_id=problem_id,
        problem_digest=problem.digest(),
        patch=patch,
        judge=config.scoring.judge,
        versions={name: versions[name] for name in ("judge", "oracle", "interpreter")},
    )


def tool_versions(prompt: PromptTemplate) -> dict[str, str]:
    """Versions of everything that stands between a completion and its scores."""
    return {
        "judge": JUDGE_VERSION,
        "oracle": ORACLE_VERSION,
        "extractor": EXTRACTOR_VERSION,
        "scoring": SCORING_VERSION,
        "prompt": prompt.version,
        "ruff": version("ruff"),
        "bandit": version("bandit"),
        "interpreter": platform.python_version(),
    }


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
