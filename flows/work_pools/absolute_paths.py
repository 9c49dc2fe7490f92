"""Paths of a configuration mean the folder where it was given; lanes start in another. Jobs for them name the whole path.

No digest covers a path, only what was found there, so that a job is the same whichever way it is named.
"""

from pathlib import Path
from typing import Any, TypeVar, cast

from coral_core.config import BaseModelConfig, ProblemsConfig
from coral_core.jobs.jobs import EvaluationJob, IdentityJob, TestJob, TrainingJob
from coral_core.lm.base_model import TINY_NAME, is_rehearsal
from coral_core.problem_sources import PATHS
from coral_core.prompting.templates import chosen
from coral_core.queue import Job

J = TypeVar("J", bound=Job)


def anchored(job: J) -> J:
    """`job` with the whole paths of a base model, problems and pairs that lie in this process's folder."""
    update: dict[str, Any] = {}
    if isinstance(job, IdentityJob | TrainingJob | EvaluationJob):
        update["base_model"] = _base_model(job.base_model)
    if isinstance(job, TrainingJob | EvaluationJob | TestJob):
        update["problems"] = _problems(job.problems)
    if isinstance(job, EvaluationJob) and job.training is not None:
        update["training"] = anchored(job.training)
    return cast("J", job.model_copy(update=update))


def _base_model(config: BaseModelConfig) -> BaseModelConfig:
    if config.name == TINY_NAME or is_rehearsal(config) or _is_anchored(config.name) or not Path(config.name).is_dir():
        return config
    # the prompt may be chosen by the name as it was given
    prompt = chosen(config.name, config.prompt)
    return config.model_copy(update={"name": _whole(config.name), "prompt": prompt})


def _problems(config: ProblemsConfig) -> ProblemsConfig:
    training = config.training
    if training.path and training.source in PATHS and _is_here(training.path):
        training = training.model_copy(update={"path": _whole(training.path)})
    path = config.path
    if path and config.source in PATHS and _is_here(path):
        path = _whole(path)
    return config.model_copy(update={"path": path, "training": training})


def _is_here(path: str) -> bool:
    return not _is_anchored(path) and Path(path).exists()


def _is_anchored(path: str) -> bool:
    """Does it mean the same in every folder?"""
    return path.startswith(("/", "~"))


def _whole(path: str) -> str:
    return str(Path(path).absolute())
