"""Checks that an objective keeps its contract; for authors of plug-ins.

In a test of the plug-in's own:

    from coral_core.scoring.objective_conformance import complaints
    assert complaints(short_patches) == []
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from coral_core.judge.judge import Judge
from coral_core.problems.problem import Case, Problem
from coral_core.scoring.judged import Judged
from coral_core.scoring.plugins import Objective

_CASES = tuple(Case(arguments=(n,), value=abs(n)) for n in (-3, -1, 0, 2, 5, 9))
_RIGHT = "def size(n):\n    return -n if n < 0 else n\n"
_BUGGY = "def size(n):\n    return n\n"
_TEXTS = (
    _RIGHT,
    _BUGGY,
    "def size(n:",
    "",
    "def size(n):\n    return -n\n",
    "def size(n):\n    while True:\n        pass\n",
)


def complaints(objective: Objective, judge: Judge | None = None) -> list[str]:
    """Every way in which `objective` breaks its contract; empty when it conforms.

    The contract: a text `version`; a number in [0, 1] for every evaluation, also one without problems, of patches that
    do not parse, and of the bare base model; the same number each time, and in whatever order the problems come.

    Args:
        objective: A callable with a `version`.
        judge: Judges the example patches; None: one with default limits.
    """
    found = []
    version = getattr(objective, "version", None)
    if not isinstance(version, str) or not version:
        found.append(f"version is {version!r}: give a text that changes whenever the numbers may")
    if judge is not None:
        return found + list(_of_scores(objective, judge))
    with Judge() as own:
        return found + list(_of_scores(objective, own))


def _of_scores(objective: Objective, judge: Judge) -> Iterator[str]:
    for name, judged in _scenes(judge).items():
        value = _value(objective, judged)
        if isinstance(value, str):
            yield f"{name}: {value}"
            continue
        if _value(objective, judged) != value:
            yield f"{name}: a second call gave another number: use no clock, no random numbers, and keep no state"
        turned = _value(objective, _turned(judged))
        if isinstance(turned, str) or abs(turned - value) > 1e-9:
            yield f"{name}: problems in reverse order gave {turned}, not {value}"


def _value(objective: Objective, judged: Judged) -> float | str:
    """The score, or what is wrong with it."""
    try:
        value = objective(judged)
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"returned {type(value).__name__}, not a number"
    if not (math.isfinite(value) and 0.0 <= value <= 1.0):
        return f"returned {value}, which is not in [0, 1]"
    return float(value)


def _turned(judged: Judged) -> Judged:
    return replace(judged, problems=judged.problems[::-1], patches=judged.patches[::-1], verdicts=judged.verdicts[::-1])


def _problem(number: int, retention: bool = False) -> Problem:
    return Problem(
        problem_id=f"conformance/{number}",
        entry_point="size",
        buggy=_RIGHT if retention else _BUGGY,
        reference=_RIGHT,
        cases=_CASES,
    )


def _scenes(judge: Judge) -> dict[str, Judged]:
    """Evaluations that a run may hold, from empty to mixed."""

    def judged(samples: tuple[tuple[str, ...], ...], trainable: int = 1_000) -> Judged:
        problems = tuple(_problem(number, retention=number % 3 == 2) for number in range(len(samples)))
        return Judged(
            problems=problems,
            patches=samples,
            verdicts=tuple(
                tuple(judge.judge_batch([(problem, text) for text in texts]))
                for problem, texts in zip(problems, samples, strict=True)
            ),
            base_passes=frozenset(problem.problem_id for problem in problems[:1]),
            trainable_parameters=trainable,
            base_parameters=1_000_000,
        )

    return {
        "no problems": judged(()),
        "all repaired": judged(((_RIGHT,),) * 4),
        "all unchanged": judged(((_BUGGY,),) * 4),
        "nothing parses": judged((("def size(n:",),) * 4),
        "everything": judged(tuple((text,) for text in _TEXTS)),
        "several samples": judged(tuple((text, _RIGHT, _BUGGY) for text in _TEXTS)),
        "the bare base model": judged(((_RIGHT,), (_BUGGY,)), trainable=0),
    }
