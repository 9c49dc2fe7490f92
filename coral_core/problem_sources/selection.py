"""Which problems of a source are used: by name (`problems.include`, `problems.exclude`) and by length (`problems.longest`).

A pattern is a glob, with capitals as written, that matches the id of a problem, the id without its source, or a part of
it between slashes (in most sources a function's name). Without these keys every problem is used. What is left out is
counted in the notes of the set, which the report and `coral problems check` show. Splits of `package` and `git` are filled
up with other functions (and fixes).

    >>> from coral_core.config import ProblemsConfig
    >>> config = ProblemsConfig(include=("*sort*", "jsonl/merge"), exclude=("bubble_sort",))
    >>> [wanted(config, f"jsonl/{name}") for name in ("quicksort", "bubble_sort", "merge", "mergers")]
    [True, False, True, False]
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from statistics import quantiles
from typing import TYPE_CHECKING

from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError
from coral_core.problems.problem import Problem, ProblemSet, Split

if TYPE_CHECKING:
    from coral_core.problem_sources.package.cases import UsableFunction

SPLITS: tuple[Split, ...] = ("fitness", "monitor", "held_out")
NAMED = 5
"""Names of a note at most."""


def wanted(config: ProblemsConfig, problem_id: str) -> bool:
    """Do the patterns of `config` take the problem of this id?"""
    names = (problem_id, problem_id.partition("/")[2], *problem_id.split("/"))

    def matches(patterns: Iterable[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)

    return (not config.include or matches(config.include)) and not matches(config.exclude)


def short_enough(config: ProblemsConfig, *texts: str) -> bool:
    """Are all texts within ``longest`` characters?"""
    return config.longest is None or all(len(text) <= config.longest for text in texts)


def select(problems: ProblemSet, config: ProblemsConfig) -> ProblemSet:
    """The problems of a set that `config` takes, with notes on the others. Training pairs are selected by length only.

    Raises:
        ConfigError: no fitness problem, or no held-out problem, is left of those that there are.
    """
    if not config.include and not config.exclude and config.longest is None:
        return problems
    changes: dict[str, object] = {}
    unnamed: list[str] = []
    long: list[str] = []
    for split in SPLITS:
        kept: list[Problem] = []
        for problem in problems.split(split):
            if not wanted(config, problem.problem_id):
                unnamed.append(problem.problem_id)
            elif not short_enough(config, problem.buggy, problem.reference):
                long.append(problem.problem_id)
            else:
                kept.append(problem)
        changes[split] = tuple(kept)
        if problems.split(split) and not kept and split != "monitor":
            keys = [f"problems.{key}" for key in ("include", "exclude", "longest") if getattr(config, key)]
            raise ConfigError(
                f"{', '.join(keys)}: no problem of the split {split} is left of {len(problems.split(split))} of the source {config.source}",
                ("problems", keys[0].partition(".")[2]),
                remedy="Take more.",
            )
    pairs = tuple(pair for pair in problems.pairs if short_enough(config, pair.buggy, pair.fixed))
    notes = list(notes_on_left_out(config, unnamed, long))
    if len(pairs) < len(problems.pairs):
        notes.append(f"{len(problems.pairs) - len(pairs)} training pairs left out: longer than problems.longest")
    return problems.model_copy(update={**changes, "pairs": pairs, "notes": (*problems.notes, *notes)})


def select_functions(
    functions: "Sequence[UsableFunction]", config: ProblemsConfig
) -> "tuple[list[UsableFunction], tuple[str, ...]]":
    """The functions of a directory that `config` takes, without bugs that are too long, and notes on the others."""
    kept: list[UsableFunction] = []
    unnamed: list[str] = []
    long: list[str] = []
    for function in functions:
        name = function_name(function)
        bugs = tuple(bug for bug in function.bugs if short_enough(config, bug.source))
        if not wanted(config, f"package/{name}"):
            unnamed.append(name)
        elif not bugs or not short_enough(config, function.definition.source):
            long.append(name)
        else:
            kept.append(function if len(bugs) == len(function.bugs) else function.model_copy(update={"bugs": bugs}))
    return kept, notes_on_left_out(config, unnamed, long)


def function_name(function: "UsableFunction") -> str:
    """The name of a function in ids of problems: module and function, with dots."""
    definition = function.definition
    return f"{definition.file.removesuffix('.py').replace('/', '.')}.{definition.name}"


def notes_on_left_out(config: ProblemsConfig, unnamed: Sequence[str], long: Sequence[str]) -> tuple[str, ...]:
    """Notes on what `wanted` and `short_enough` left out, by name; none where nothing is left out."""
    return (
        *_note(unnamed, "by problems.include and problems.exclude"),
        *_note(long, f"longer than problems.longest ({config.longest} characters)"),
    )


def _note(names: Sequence[str], why: str) -> list[str]:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return [f"{len(names)} left out, {why}: {', '.join(names[:NAMED])}{more}"] if names else []


def longest_ordinary(lengths: Sequence[int]) -> int | None:
    """The bound above which a length is an outlier: Tukey's fence (Tukey 1977), and at least twice the median.

    Args:
        lengths: Lengths of texts, in characters.

    Returns:
        None when none of them is an outlier.

    Example:
        >>> longest_ordinary([200, 210, 230, 250, 260, 300, 2000])
        500
    """
    if len(lengths) < 4:
        return None
    first, median, third = quantiles(lengths, n=4, method="inclusive")
    bound = round(max(third + 1.5 * (third - first), 2 * median))
    return bound if max(lengths) > bound else None
