"""Contents that the fields of a job stand for: problems, rendered training pairs, tool versions.

The evolution and the lanes compute them with the same functions.
"""

import difflib
import platform
from functools import lru_cache
from importlib.metadata import version

from coral_core.config import ProblemsConfig, RunConfig
from coral_core.config.yaml_document import shown
from coral_core.digest import digest
from coral_core.errors import EngineError, ProblemError
from coral_core.jobs.jobs import EvaluationJob, TestJob, TrainingJob
from coral_core.judge.judge import JUDGE_VERSION, ORACLE_VERSION
from coral_core.problem_sources import load_problems
from coral_core.problems.problem import Problem, ProblemSet, Split
from coral_core.prompting.choice import named_template
from coral_core.prompting.extraction import EXTRACTOR_VERSION
from coral_core.prompting.templates import PromptTemplate
from coral_core.scoring.objectives import SCORING_VERSION


@lru_cache(maxsize=4)
def problem_set(config: ProblemsConfig) -> ProblemSet:
    """The problems that `config` names, in four splits; equal on every machine. The latest four sets are kept in memory."""
    return load_problems(config)


def prompt_template(job: EvaluationJob | TrainingJob) -> PromptTemplate:
    """The prompt template of a job: the one that it carries, or the built-in one that it names. No file is read.

    Raises:
        EngineError: it carries none, and its configuration asks for a chat template or a file.
    """
    found = job.prompt or named_template(job.base_model)
    if found is None:
        raise EngineError(
            f"base_model.prompt: {shown(job.base_model.prompt)}: the job does not carry its prompt template",
            remedy="Deploy one version of the code everywhere.",
        )
    return found


@lru_cache(maxsize=8)
def pairs_digest(config: ProblemsConfig, prompt: PromptTemplate) -> str:
    """Digest of the rendered training pairs.

    Args:
        config: Selects the problems, and with them the pairs.
        prompt: Template of prompt and answer.
    """
    pairs = problem_set(config).pairs
    return digest([[prompt.prompt(pair.buggy), prompt.answer(pair.fixed)] for pair in pairs])


@lru_cache(maxsize=32)
def split_digest(config: ProblemsConfig, split: Split) -> str:
    """Digest of the contents of one split.

    Args:
        config: Selects the problems.
        split: The split.
    """
    return digest([problem.digest() for problem in problem_set(config).split(split)])


def find_problem(config: ProblemsConfig, problem_id: str) -> Problem:
    """Look up a problem in all splits that hold problems (fitness, monitor, held-out).

    Args:
        config: Selects the problems.
        problem_id: Id of the problem.

    Raises:
        ProblemError: there is no such problem; the error lists similar ids.
    """
    problems = problem_set(config)
    known = {problem.problem_id: problem for problem in (*problems.fitness, *problems.monitor, *problems.held_out)}
    if problem_id not in known:
        near = difflib.get_close_matches(problem_id, list(known), 3, 0.4) or list(known)[:3]
        raise ProblemError(
            f"{problem_id}: no such problem in the source {config.source} ({len(known)} there)",
            remedy=f"Near: {', '.join(near)}.",
        )
    return known[problem_id]


def job_for_patch(config: RunConfig, problem_id: str, patch: str) -> TestJob:
    """The job that judges a patch against one problem.

    Args:
        config: Selects the problems, and holds the limits of the judge.
        problem_id: Id of the problem.
        patch: Source of a whole module that defines the problem's function.

    Raises:
        ProblemError: there is no such problem.
    """
    problem = find_problem(config.problems, problem_id)
    return TestJob(
        problems=config.problems,
        problem_id=problem_id,
        problem_digest=problem.digest(),
        patch=patch,
        judge=config.scoring.judge,
        versions=judge_versions(),
    )


def judge_versions() -> dict[str, str]:
    """Name -> version of each tool that takes part in a verdict."""
    return {"judge": JUDGE_VERSION, "oracle": ORACLE_VERSION, "interpreter": platform.python_version()}


def tool_versions(prompt: PromptTemplate) -> dict[str, str]:
    """Name -> version of each tool that takes part in turning a completion into scores."""
    return judge_versions() | {
        "extractor": EXTRACTOR_VERSION,
        "scoring": SCORING_VERSION,
        "prompt": prompt.version,
        "ruff": version("ruff"),
        "bandit": version("bandit"),
    }
