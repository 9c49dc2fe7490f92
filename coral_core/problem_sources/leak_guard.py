"""Refuses a run that would train on what it measures, or that lacks problems in a split, before anything is spent.

There are three kinds of leak: training on the answers of a public benchmark; a function in two splits in equal normal
form (always an error); for a public benchmark also near-duplicates across splits (`normal_form.NEAR_DUPLICATE`). The
built-in problems are split by family, variant and bug class and resemble each other by design, so near-duplicates among
them are not reported; those of a user's own source are listed by `coral problems leak-check` only. A leak is accepted by
name: ``problems.accept_leaks``.
"""

import logging
from itertools import combinations
from typing import Literal

from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError, ProblemError
from coral_core.frozen import Frozen
from coral_core.problem_sources import BENCHMARKS
from coral_core.problems.normal_form import check_split, near_duplicates, texts_of
from coral_core.problems.problem import ProblemSet, Split

log = logging.getLogger("coral.guard")

SHOWN = 20


class Leak(Frozen):
    """One finding."""

    kind: Literal["trained-on-answers", "equal", "near-duplicate"]
    first: str
    second: str
    similarity: float = 1.0

    def __str__(self) -> str:
        if self.kind == "trained-on-answers":
            return f"trained on answers: {self.first} among {self.second}"
        return f"{self.kind} ({self.similarity:.2f}): {self.first} | {self.second}"


class LeakError(ConfigError):
    """The run would measure what it was trained on; the problem lists the leaks."""


def guard(problems: ProblemSet, config: ProblemsConfig) -> list[Leak]:
    """Refuse leaks that the configuration does not accept, and splits without problems.

    Args:
        problems: The problems, split.
        config: Names the sources whose leaks are accepted.

    Returns:
        The accepted leaks; usually none.

    Raises:
        ProblemError: a split that the run evaluates holds no problem.
        LeakError: there are leaks that it does not accept.
    """
    _refuse_empty_splits(problems, config)
    found = leaks(problems, near=problems.benchmark)
    if not found:
        return []
    sources = {config.source, problems.answers_of} - {""}
    shown = [f"  {leak}" for leak in found[:SHOWN]]
    if len(found) > SHOWN:
        shown.append(f"  and {len(found) - SHOWN} more: coral problems leak-check lists them all")
    if sources <= set(config.accept_leaks):
        log.warning("problems: %d leaks accepted by problems.accept_leaks; scores are not comparable", len(found))
        return found
    names = ", ".join(sorted(sources))
    problem = f"problems: {len(found)} leaks between the training data of {names} and the measured problems, so scores would be memory"
    raise LeakError("\n".join([problem, *shown]), remedy=_remedy(sources))


def _refuse_empty_splits(problems: ProblemSet, config: ProblemsConfig) -> None:
    needed: tuple[Split, ...] = ("fitness", "held_out", "monitor") if config.monitor else ("fitness", "held_out")
    for split in needed:
        if not problems.split(split):
            remedy = " or set problems.monitor to 0" if split == "monitor" else ""
            raise ProblemError(
                f"problems.source: {config.source}: no problem in the split {split}",
                remedy=f"Add problems of the split {split}{remedy}.",
            )


def _remedy(sources: set[str]) -> str:
    return (
        "Use other training pairs (problems.training), or accept it by name: "
        f"problems.accept_leaks: [{', '.join(sorted(sources))}]"
    )


def refuse_answers(config: ProblemsConfig) -> None:
    """Refuse a configuration that names a public benchmark as what adapters train on; reads no problems.

    Raises:
        LeakError: it does, and does not accept that by name.
    """
    answers = config.training.source
    names = {config.source, answers}
    if answers in BENCHMARKS and not names <= set(config.accept_leaks):
        raise LeakError(
            f"problems.training.source: {answers}: adapters would be trained on the answers of a public benchmark, so scores would be memory",
            ("problems", "training", "source"),
            remedy=_remedy(names),
        )


def leaks(problems: ProblemSet, near: bool) -> list[Leak]:
    """All leaks of a problem set.

    Args:
        problems: The problems and training pairs, split.
        near: Look for near-duplicates too, which takes quadratic time.
    """
    found: list[Leak] = []
    if problems.answers_of:
        found.append(
            Leak(kind="trained-on-answers", first=problems.answers_of, second=f"{len(problems.pairs)} training pairs")
        )
    equal = dict.fromkeys(check_split(problems))
    found += [Leak(kind="equal", first=first, second=second) for first, second in equal]
    if near:
        found += [
            leak for leak in _near(problems) if not {(leak.first, leak.second), (leak.second, leak.first)} & set(equal)
        ]
    return found


def _near(problems: ProblemSet) -> list[Leak]:
    """Near-duplicates between any two splits, once per pair of names."""
    splits: dict[str, list[tuple[str, str]]] = {}
    for split, name, text in texts_of(problems):
        splits.setdefault(split, []).append((name, text))
    best: dict[tuple[str, str], float] = {}
    for one, two in combinations(splits.values(), 2):
        for i, j, ratio in near_duplicates([text for _, text in one], [text for _, text in two]):
            pair = one[i][0], two[j][0]
            best[pair] = max(ratio, best.get(pair, 0.0))
    return [
        Leak(kind="near-duplicate", first=first, second=second, similarity=ratio)
        for (first, second), ratio in best.items()
    ]
