"""Objectives of plug-ins: measured beside the seven, when a configuration names them.

A plug-in registers a callable as an entry point of the group ``coral_x.objectives``; the
entry point's name is what ``scoring.roles``, ``weights`` and ``thresholds`` name. The
callable takes a `Judged` and returns a number in [0, 1], larger is better. It has an
attribute ``version``, a text that changes whenever its numbers may: it enters the
evaluation digest, so that old scores are not taken for new ones.

    def short_patches(judged: Judged) -> float:
        texts = [text for samples in judged.patches for text in samples]
        return sum(len(text) < 400 for text in texts) / len(texts) if texts else 1.0

    short_patches.version = "1"

`coral_core.scoring.conformance` checks one. It runs with the lane's rights, in a process beside
the lane (`measuring`) that the job's time limit ends: install only what you trust, and never
run a patch in it.
"""

import math
from collections.abc import Mapping
from typing import Protocol

from coral_core.config.scoring import OBJECTIVES, ScoringConfig, plugin_objectives
from coral_core.errors import ConfigError, EngineError
from coral_core.scoring.judged import Judged


class Objective(Protocol):
    """An objective of a plug-in."""

    version: str

    def __call__(self, judged: Judged) -> float: ...


def find_objective(name: str) -> Objective:
    """The plug-in's objective called `name`. Raises `ConfigError` when there is none or it has no version."""
    found = plugin_objectives()
    if name not in found:
        raise ConfigError(f"scoring: {name}: no such objective. Known: {', '.join([*OBJECTIVES, *sorted(found)])}.")
    try:
        objective: Objective = found[name].load()
    except Exception as error:
        raise ConfigError(
            f"scoring: {name}: its plug-in {found[name].value} cannot be loaded ({type(error).__name__}: {error}). Repair or remove it."
        ) from error
    version = getattr(objective, "version", None)
    if not callable(objective) or not isinstance(version, str) or not version:
        raise ConfigError(
            f"scoring: {name}: {found[name].value} is not an objective: it must be callable and have a text `version`."
        )
    return objective


def objective_versions(scoring: ScoringConfig) -> dict[str, str]:
    """Name -> version of the plug-in objectives that `scoring` names. Raises `ConfigError` as `find_objective`."""
    names = {*scoring.roles, *scoring.weights, *scoring.thresholds} - set(OBJECTIVES)
    return {name: find_objective(name).version for name in sorted(names)}


def measure(versions: Mapping[str, str], judged: Judged) -> dict[str, float]:
    """Score of each plug-in objective in `versions`, in [0, 1].

    Raises:
        ConfigError: one is not installed here.
        EngineError: one has another version here, fails, or returns no number in [0, 1].
    """
    scores = {}
    for name, version in versions.items():
        objective = find_objective(name)
        if objective.version != version:
            raise EngineError(
                f"objective {name}: this lane has version {objective.version}, the job names {version}. Install one version everywhere."
            )
        try:
            value = float(objective(judged))
        except Exception as error:
            raise EngineError(
                f"objective {name} failed: {type(error).__name__}: {error}. Repair the plug-in."
            ) from error
        if not (math.isfinite(value) and 0.0 <= value <= 1.0):
            raise EngineError(f"objective {name} returned {value}, which is not in [0, 1]. Repair the plug-in.")
        scores[name] = value
    return scores
