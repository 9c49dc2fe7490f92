"""Checks that an objective keeps its contract; for authors of plug-ins.

In a test of the plug-in's own:

    from coral_core.scoring.objective_conformance import complaints
    assert complaints(short_patches) == []
"""

from collections.abc import Iterator
from dataclasses import replace

from coral_core.judge.judge import Judge
from coral_core.problems.problem import Case, Problem
from coral_core.scoring.judged import Judged
from coral_core.scoring.plugins import Objective, ObjectiveError, checked

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


def complaints(objective: Objective) -> list[str]:
    """Every way in which an objective breaks its contract; empty when it conforms.

    The contract: a str attribute `version`; a number in [0, 1] for every evaluation, including one without problems, with
    patches that do not parse, and of the bare base model; the same number on each call, and in any order of the problems.

    Args:
        objective: A callable with a `version`.
    """
    version = getattr(objective, "version", None)
    found = []
    if not isinstance(version, str) or not version:
        found.append(f"version is {version!r}: give a text that changes whenever the numbers may")
    with Judge() as judge:
        return found + list(_of_scores(objective, judge))


def _of_scores(objective: Objective, judge: Judge) -> Iterator[str]:
    for name, judged in _examples(judge).items():
        try:
            value, again, turned = (checked("it", objective, seen) for seen in (judged, judged, _reversed(judged)))
        except ObjectiveError as error:
            yield f"{name}: {error.problem}"
            continue
        if again != value:
            yield f"{name}: a second call gave another number: use no clock, no random numbers, and keep no state"
        if abs(turned - value) > 1e-9:
            yield f"{name}: problems in reverse order gave {turned}, not {value}"


def _reversed(judged: Judged) -> Judged:
    return replace(judged, problems=judged.problems[::-1], patches=judged.patches[::-1], verdicts=judged.verdicts[::-1])


def _problem(number: int, retention: bool = False) -> Problem:
    return Problem(
        problem_id=f"conformance/{number}",
        entry_point="size",
        buggy=_RIGHT if retention else _BUGGY,
        reference=_RIGHT,
        cases=_CASES,
    )


def _examples(judge: Judge) -> dict[str, Judged]:
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
        "everything": judged(tuple((text,) for text in _TEXTS)),
        "several samples": judged(tuple((text, _RIGHT, _BUGGY) for text in _TEXTS)),
        "the bare base model": judged(((_RIGHT,), (_BUGGY,)), trainable=0),
    }
