"""Restricts the paths in untrusted parameters of flow runs and in jobs of a shared queue to allowed folders.

Anybody who can start flow runs chooses the paths in their parameters; anybody who can write in the store chooses the
paths in the tickets of its queue. Both must lie below the folders that the environment of the worker names::

    CORAL_ROOTS                   folders, separated as in PATH, for all kinds below that have no own variable
    CORAL_ROOTS_RUNS              folders of runs (`runs`)
    CORAL_ROOTS_STORE             stores (`store.path`, a lane's `store`)
    CORAL_ROOTS_PROBLEMS          data (`problems.path`, `problems.training.path`, a file in `base_model.prompt`) that is read and never run
    CORAL_ROOTS_MODELS            folders of base models (`base_model.name` where it is a folder)
    CORAL_ROOTS_CODE              data whose source runs what is found there (package, quixbugs, plug-ins), interpreters for vLLM; only this one
    CORAL_ALLOW_MISSING_LAYERS    sandbox layers that `scoring.judge.allow_missing_layers` may name

Without any of them the only root is the folder in which the worker starts flow runs, and no code below it is run.
Commands at a terminal are not restricted, since they have the rights of their user. Only names and links are checked,
never content. Not covered: a user who can write below a root can create a link there after the check, so grant write
access below roots only to users who may access everything that the worker can.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from coral_core.config import BaseModelConfig, ProblemsConfig, RunConfig
from coral_core.config.text_fields import BUILT_IN_PROMPTS
from coral_core.config.tree import JudgeConfig
from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from coral_core.jobs.jobs import EvaluationJob, IdentityJob, TestJob, TrainingJob
from coral_core.lm.base_model import SMOLLM2_NAME, TINY_NAME, is_rehearsal
from coral_core.problem_sources import runs_code_of_its_path
from coral_core.untrusted import visible

Kind = Literal["runs", "store", "problems", "models", "code"]
ALL = "CORAL_ROOTS"
LAYERS = "CORAL_ALLOW_MISSING_LAYERS"
WORDS: dict[Kind, str] = {
    "runs": "runs",
    "store": "stores",
    "problems": "problems",
    "models": "base models",
    "code": "code that is run",
}
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
LONGEST = 4096
"""Most characters of a path."""


def variable(kind: Kind) -> str:
    """The variable that names the roots of `kind`."""
    return f"{ALL}_{kind.upper()}"


class Roots(Frozen):
    """The folders below which paths of each kind must lie. Empty: no path of this kind is allowed."""

    runs: tuple[str, ...] = ()
    store: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    code: tuple[str, ...] = Field((), description="Never by default: what lies there runs with the worker's rights.")
    missing_layers: tuple[str, ...] = Field((), description="Sandbox layers whose absence may be accepted.")

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None, here: Path | None = None) -> Self:
        """The roots that an environment names.

        Args:
            environment: Variables; None: those of this process.
            here: Root of all kinds but code if no variable names one; None: the current folder. The root folder of
                the file system is never used.

        Raises:
            ConfigError: a variable names a relative path.
        """
        given = os.environ if environment is None else environment
        here = here or Path.cwd()
        default = _listed(ALL, given[ALL]) if ALL in given else (str(here),) if here != Path(here.anchor) else ()
        roots: dict[str, tuple[str, ...]] = {}
        for kind in WORDS:
            name = variable(kind)
            roots[kind] = _listed(name, given[name]) if name in given else () if kind == "code" else default
        layers = tuple(word.strip() for word in given.get(LAYERS, "").split(",") if word.strip())
        return cls(**roots, missing_layers=layers)

    def place(self, kind: Kind, key: str, value: str) -> Path:
        """Resolve a path and check that it lies below a root.

        Args:
            kind: Which roots apply.
            key: Name of the value in errors, such as a configuration key.
            value: The path, absolute or relative to the current folder.

        Returns:
            The absolute path with all links resolved.

        Raises:
            ConfigError: it lies elsewhere, or is no path.
        """
        shown = " ".join(visible(value)[:200].split())
        real = _real_path(value.removeprefix("file://") if kind == "store" else value)
        if real is None:
            raise ConfigError(
                f"{key}: {shown}: is no path on this machine", remedy=f"Give one below {self._named(kind)}."
            )
        for root in getattr(self, kind):
            if real.is_relative_to(os.path.realpath(root)):
                return real
        allows = f"{variable(kind)}=FOLDER in their environment"
        if kind == "code":  # the template of a pool sets it over that of an image
            allows += ", in containers coral setup --code-root FOLDER"
        raise ConfigError(
            f"{key}: {shown}: is not below {self._named(kind)}, which is where flow runs and jobs of others may use "
            f"{WORDS[kind]} on this machine",
            remedy=f"Name a place there; or whoever runs the workers allows it: {allows} (docs/security.md)",
        )

    def check_config(self, config: RunConfig) -> None:
        """Check all paths and the sandbox layers of a configuration. Raises `ConfigError` if one is not allowed."""
        self.place("runs", "runs", config.runs)
        if config.base_model.prompt not in BUILT_IN_PROMPTS:  # read by the evolution; jobs carry the text
            self.place("problems", "base_model.prompt", config.base_model.prompt)
        self.check_lanes(config, config.store.path)

    def check_lanes(self, config: RunConfig, store: str) -> None:
        """Make the checks that lanes would make of the jobs of a configuration.

        Args:
            config: Configuration of the evolution.
            store: Path of the store whose lanes do the jobs.

        Raises:
            ConfigError: a path or a missing sandbox layer is not allowed.
        """
        self.place("store", "store.path", store)
        self._problems(config.problems)
        self._base_model(config.base_model)
        if config.infra.evaluation.python is not None:
            self._interpreter(config.infra.evaluation.python)
        self._judge(config.scoring.judge)

    def check_job(self, job: IdentityJob | TrainingJob | EvaluationJob | TestJob) -> None:
        """Check paths and sandbox layers of a job from a shared queue. Raises `ConfigError` if one is not allowed."""
        if not isinstance(job, TestJob):
            self._base_model(job.base_model)
        if isinstance(job, IdentityJob | EvaluationJob) and job.vllm is not None:
            self._interpreter(job.vllm.python)
        if not isinstance(job, IdentityJob):
            self._problems(job.problems)
        if isinstance(job, EvaluationJob | TestJob):
            self._judge(job.judge)
        if isinstance(job, EvaluationJob) and job.training is not None:
            self.check_job(job.training)

    def _problems(self, config: ProblemsConfig) -> None:
        self._source(config.source, "problems.path", config.path)
        self._source(config.training.source, "problems.training.path", config.training.path)
        if config.python is not None:
            self.place("code", "problems.python", config.python)

    def _source(self, source: str, key: str, path: str | None) -> None:
        if path is not None:
            self.place("code" if runs_code_of_its_path(source) else "problems", key, path)

    def _base_model(self, config: BaseModelConfig) -> None:
        name = config.name
        if name in (TINY_NAME, SMOLLM2_NAME) or is_rehearsal(config):
            return
        if not HUB_NAME.fullmatch(name) or os.path.lexists(name):
            self.place("models", "base_model.name", name)

    def _interpreter(self, python: str) -> None:
        """Check where the interpreter for vLLM lies; that of a virtual environment is a link to somewhere else."""
        self.place("code", "infra.evaluation.python", str(Path(python).parent))

    def _judge(self, config: JudgeConfig) -> None:
        if wanted := sorted(set(config.allow_missing_layers) - set(self.missing_layers)):
            raise ConfigError(
                f"scoring.judge.allow_missing_layers: {', '.join(wanted)}: whether patches run here without that is for whoever runs "
                f"the workers to say: {LAYERS}={','.join(wanted)} in their environment",
                remedy="Leave it out",
            )

    def _named(self, kind: Kind) -> str:
        roots = getattr(self, kind)
        return (
            f"{', '.join(roots)} ({variable(kind)} or {ALL})"
            if roots
            else f"a folder that {variable(kind)} names (none)"
        )


def _real_path(text: str) -> Path | None:
    """The absolute path with all links resolved; None if `text` cannot be a path."""
    if not text or len(text) > LONGEST or "\0" in text or "://" in text:
        return None
    try:
        return Path(os.path.realpath(Path(text).expanduser()))
    except (ValueError, OSError, RuntimeError):  # no valid file name; ~ of an unknown user
        return None


def _listed(name: str, value: str) -> tuple[str, ...]:
    """The folders in the value of a variable; none if it is empty."""
    folders = tuple(part for part in value.split(os.pathsep) if part)
    for folder in folders:
        if not Path(folder).is_absolute():
            raise ConfigError(
                f"{name}: {folder}: is not absolute", remedy=f"Name whole folders, separated by {os.pathsep}"
            )
    return folders
