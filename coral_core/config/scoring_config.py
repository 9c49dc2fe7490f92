"""Configuration of scoring and ranking: weights, roles, thresholds, limits of the judge."""

from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from coral_core.config.section import ConfigSection, conflict

OBJECTIVES = ("bugfix", "style", "security", "runtime", "syntax", "retention", "cost")
"""The objectives that every evaluation measures (`coral_core.scoring.objectives`)."""
OBJECTIVE_GROUP = "coral_x.objectives"
"""Entry points of this group are objectives of plug-ins (`coral_core.scoring.plugins`)."""


def plugin_objectives() -> dict[str, EntryPoint]:
    """Objectives of installed plug-ins by name, none of them imported yet."""
    return {entry.name: entry for entry in entry_points(group=OBJECTIVE_GROUP) if entry.name not in OBJECTIVES}


def _known(name: str) -> str:
    if name not in OBJECTIVES and name not in plugin_objectives():
        known = ", ".join([*OBJECTIVES, *sorted(plugin_objectives())])
        raise ValueError(f"no such objective. Known: {known}. A plug-in registers in the group {OBJECTIVE_GROUP}")
    return name


ObjectiveName = Annotated[str, AfterValidator(_known)]
Role = Literal["objective", "constraint", "report"]
AfterTimeOut = Literal["stop", "go-on"]


class Threshold(ConfigSection):
    """A constraint's threshold: from `base` in the first generation to `limit` in the last."""

    base: float = Field(0.0, ge=0, le=1, description="Threshold in the first generation.")
    limit: float = Field(0.5, ge=0, le=1, description="Threshold in the last generation.")


DEFAULT_WEIGHTS: dict[ObjectiveName, float] = {
    "bugfix": 0.7,
    "retention": 0.15,
    "cost": 0.05,
    "syntax": 0.05,
    "style": 0.025,
    "security": 0.025,
    "runtime": 0.0,
}
DEFAULT_ROLES: dict[ObjectiveName, Role] = {
    "bugfix": "objective",
    "retention": "objective",
    "cost": "objective",
    "syntax": "constraint",
    "security": "constraint",
    "style": "constraint",
    "runtime": "report",
}
DEFAULT_THRESHOLDS: dict[ObjectiveName, Threshold] = {
    "syntax": Threshold(base=0.2, limit=0.7),
    "security": Threshold(base=0.5, limit=0.9),
    "style": Threshold(base=0.2, limit=0.5),
}


class SlowLimits(ConfigSection):
    """Limits on the cases that a problem marks as slow, in place of the ordinary ones."""

    work_lines: int = Field(5_000_000, ge=100, le=10_000_000_000, description="Executed lines per slow case.")
    cpu_seconds: float = Field(30.0, ge=0.001, le=3600, description="CPU time per slow case: the backstop.")
    wall_seconds: float = Field(60.0, ge=0.001, le=36_000, description="Wall clock that slow cases add to a patch's.")


class PatchLimits(ConfigSection):
    """Limits on a patch while it is judged.

    >>> PatchLimits(work_lines=2_000).cpu_seconds
    1.0
    """

    work_lines: int = Field(
        50_000, ge=100, le=1_000_000_000, description="Executed lines per case: the limit that decides."
    )
    cpu_seconds: float = Field(1.0, ge=0.001, le=600, description="CPU time per case: the backstop for code in C.")
    wall_seconds: float = Field(10.0, ge=0.001, le=3600, description="Wall clock per patch: the backstop for sleeping.")
    memory_mb: int = Field(256, ge=64, le=65_536, description="Address space per patch.")
    slow: SlowLimits = Field(SlowLimits(), description="Limits of cases that are marked slow.")
    after_time_out: AfterTimeOut = Field(
        "stop",
        description="stop: the cases after a patch's first time-out are not run; go-on: each is run, in a new child.",
    )


class JudgeConfig(PatchLimits):
    """The judge of a lane: limits on a patch, patches at a time, and its sandbox."""

    workers: int = Field(2, ge=1, le=256, description="Patches judged at a time per lane; changes no verdict.")
    allow_missing_layers: tuple[Literal["landlock", "seccomp"], ...] = Field(
        (), description="Sandbox layers that may be missing on this machine: a risk accepted by name."
    )


class ScoringConfig(ConfigSection):
    """Scores of patches, and the ranking of genomes by them."""

    weights: dict[ObjectiveName, Annotated[float, Field(ge=0)]] = Field(
        DEFAULT_WEIGHTS, description="Weights of the scalar fitness; sum 1."
    )
    roles: dict[ObjectiveName, Role] = Field(
        DEFAULT_ROLES,
        description="objective: is traded off; constraint: must pass its threshold; report: recorded only. Those left out keep their default.",
    )
    thresholds: dict[ObjectiveName, Threshold] = Field(
        DEFAULT_THRESHOLDS, description="Thresholds of the constraints. Those left out keep their default."
    )
    schedule: Literal["sigmoid", "sqrt", "linear"] = Field(
        "sigmoid", description="How thresholds rise over the generations."
    )
    judge: JudgeConfig = Field(default_factory=JudgeConfig, description="Limits on a patch while it is judged.")

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, given: Any) -> Any:
        """Roles and thresholds that are left out keep their defaults, as far as these fit the roles that are given."""
        if not isinstance(given, dict) or not isinstance(given.get("roles", {}), dict):
            return given
        roles = {**DEFAULT_ROLES, **given.get("roles", {})}
        thresholds = given.get("thresholds", {})
        if not isinstance(thresholds, dict):
            return given
        fitting = {name: value for name, value in DEFAULT_THRESHOLDS.items() if roles.get(name) == "constraint"}
        return {**given, "roles": roles, "thresholds": {**fitting, **thresholds}}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        total = sum(self.weights.values())
        if abs(total - 1) > 1e-6:
            raise conflict(f"weights sum to {total:g}, not 1: {dict(self.weights)}", "weights")
        if "objective" not in self.roles.values():
            raise conflict(
                f"roles {dict(self.roles)} name no objective: give at least one the role `objective`", "roles"
            )
        for name in {**self.roles, **self.thresholds}:
            key, is_constraint = f"thresholds.{name}", self.role(name) == "constraint"
            if is_constraint and name not in self.thresholds:
                raise conflict(f"{name} is a constraint without a threshold: add scoring.{key}", f"roles.{name}")
            if name in self.thresholds and not is_constraint:
                problem = f"{key} has no effect because {name} is not a constraint: remove it or change the role"
                raise conflict(problem, key)
        return self

    def role(self, name: ObjectiveName) -> Role:
        """The role of an objective; report for one without a role."""
        return self.roles.get(name, "report")
