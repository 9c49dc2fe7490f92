"""Objectives of plug-ins: measured beside the seven, when a configuration names them.

A plug-in registers a callable as an entry point of the group ``coral_x.objectives``; the
entry point's name is what ``scoring.roles``, ``weights`` and ``thresholds`` name. The
callable takes a `Judged` and returns a number in [0, 1], larger is better. It has an
attribute ``version``, a text that changes whenever its numbers may: it is part of the
evaluation digest, so that old scores are not reused.

    def short_patches(judged: Judged) -> float:
        texts = [text for samples in judged.patches for text in samples]
        return sum(len(text) < 400 for text in texts) / len(texts) if texts else 1.0

    short_patches.version = "1"

When an objective fails on an evaluation (raises, ends its process, returns no number in [0, 1]), it is tried again with
the buggy code in place of every patch. If it works there, the evaluation scores 0 and the reason is recorded. If it fails
there too, the plug-in is broken and the job fails.

`coral_core.scoring.objective_conformance` checks an objective. It runs with the rights of the lane, in a process beside
it (`measuring_process`) that the job's time limit ends. Install only objectives that you trust, and never run a patch in
one.
"""

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Protocol

from coral_core.config.scoring_config import OBJECTIVES, ScoringConfig, plugin_objectives
from coral_core.errors import ConfigError, EngineError
from coral_core.judge.answers import printable
from coral_core.scoring.judged import Judged


class ObjectiveError(EngineError):
    """An objective failed over one evaluation."""


class Objective(Protocol):
    """An objective of a plug-in."""

    version: str

    def __call__(self, judged: Judged) -> float: ...


def find_objective(name: str) -> Objective:
    """The plug-in objective called `name`.

    Raises:
        ConfigError: there is none, it cannot be loaded, or it has no version.
    """
    available = plugin_objectives()
    if name not in available:
        raise ConfigError(
            f"scoring: {name}: no such objective", remedy=f"Known: {', '.join([*OBJECTIVES, *sorted(available)])}."
        )
    try:
        objective: Objective = available[name].load()
        version = getattr(objective, "version", None)
    except (Exception, SystemExit) as error:  # importing a script may raise SystemExit
        raise ConfigError(
            f"scoring: {name}: its plug-in {available[name].value} cannot be loaded ({type(error).__name__}: {error})",
            remedy="Repair or remove it.",
        ) from error
    if not callable(objective) or not isinstance(version, str) or not version:
        raise ConfigError(
            f"scoring: {name}: {available[name].value} is not an objective",
            remedy="Register a callable with an attribute `version`, a text.",
        )
    return objective


def objective_versions(scoring: ScoringConfig) -> dict[str, str]:
    """Name -> version of the plug-in objectives that `scoring` names. Raises `ConfigError` as `find_objective`."""
    names = {*scoring.roles, *scoring.weights, *scoring.thresholds} - set(OBJECTIVES)
    return {name: find_objective(name).version for name in sorted(names)}


def measure_one(name: str, version: str, judged: Judged) -> float:
    """Score of one objective, in this process.

    Args:
        name: Name of the entry point.
        version: The version that the job expects.
        judged: One evaluation.

    Raises:
        ConfigError: it is not installed here.
        EngineError: it has another version here.
        ObjectiveError: it failed.
    """
    objective = find_objective(name)
    if objective.version != version:
        raise EngineError(
            f"objective {name}: this lane has version {objective.version}, the job names {version}",
            remedy="Install one version everywhere.",
        )
    return checked(f"objective {name}", objective, judged)


def checked(name: str, objective: Objective, judged: Judged) -> float:
    """Call an objective and check its result.

    Args:
        name: Name of the objective in errors.
        objective: The callable.
        judged: One evaluation.

    Returns:
        Its score, in [0, 1].

    Raises:
        ObjectiveError: it raised, or returned anything but a number in [0, 1].
    """
    try:
        returned = objective(judged)
        if isinstance(returned, (bool, str, bytes, bytearray)):  # `float` would accept them
            raise TypeError(f"it returned {reprlib.repr(returned)}, which is no number")
        value = float(returned)
    except Exception as error:
        raise ObjectiveError(f"{name} failed: {_named(error)}", remedy="Repair the plug-in.") from error
    if not (math.isfinite(value) and 0.0 <= value <= 1.0):
        raise ObjectiveError(f"{name} returned {value}, which is not in [0, 1]", remedy="Repair the plug-in.")
    return value


def measure(
    versions: Mapping[str, str],
    judged: Judged,
    remarks: dict[str, str] | None = None,
    ask: Callable[[str, str, Judged], float] = measure_one,
) -> dict[str, float]:
    """Score of each plug-in objective, in [0, 1]; 0 for one that fails on these patches only.

    Args:
        versions: Name -> version of the objectives to measure.
        judged: One evaluation.
        remarks: Receives name -> reason for each score that is 0 because the objective failed; None: reasons are dropped.
        ask: Measures one objective; raises `ObjectiveError` where it fails.

    Raises:
        ConfigError: one is not installed here.
        EngineError: one has another version here, or also fails with the buggy code in place of every patch.
    """
    scores = {}
    for name, version in versions.items():
        try:
            scores[name] = ask(name, version, judged)
        except ObjectiveError as error:
            try:
                ask(name, version, judged.unchanged())
            except ObjectiveError:
                raise error from None
            scores[name] = 0.0
            if remarks is not None:
                remarks[name] = printable(str(error).split("\n")[0], 400)
    return scores


def _named(error: Exception) -> str:
    """Class and message of an error whose text may raise itself."""
    try:
        return printable(f"{type(error).__name__}: {error}", 300)
    except Exception:
        return type(error).__name__
