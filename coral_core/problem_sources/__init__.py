"""Problem sources: each turns a `ProblemsConfig` into a `ProblemSet`.

A source is a function ``load(config) -> ProblemSet`` that gives the same set on every machine for the same configuration
and content; `coral_core.problem_sources.source_conformance` checks one. It reads ``config.path``. Plug-ins register a
source as an entry point of the group ``coral_x.problems``, under the name that ``problems.source`` gives. A source
without training pairs leaves ``pairs`` empty: adapters then train on mutants of built-in functions, or on the source
that ``problems.training`` names.

    >>> from coral_core.config import ProblemsConfig
    >>> problems = load_problems(ProblemsConfig(fitness=4, retention=2, monitor=0, held_out=4, pairs=8))
    >>> len(problems.fitness), len(problems.held_out), len(problems.pairs)
    (6, 4, 8)
    >>> problems.fitness[0].source, problems.fitness[-1].bug_class
    ('builtin', 'comparison')
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from coral_core.config.tree import ProblemsConfig, TrainingPairsConfig
from coral_core.errors import ConfigError, CoralError, ProblemError
from coral_core.problems.problem import ProblemSet, RepairPair

GROUP = "coral_x.problems"
SOURCES = ("builtin", "quixbugs", "jsonl", "package", "git")
"""Sources of this package: ``load_NAME`` of the module of that name (`history` for git), imported on first use."""
BENCHMARKS = ("quixbugs",)
"""Public benchmarks without training pairs: naming one as a training source trains on its answers."""
PATHS = ("quixbugs", "jsonl", "package", "git")
"""Sources that read ``problems.path``; the module of each has `missing`, which says what is wrong with a path."""

READ_ONLY = frozenset({"auto", "builtin", "jsonl"})
"""Sources that run no code from their path outside the judge's sandbox."""

EVERYTHING: dict[str, object] = {"include": (), "exclude": (), "longest": None}
"""Values of the keys that select problems, for a source that is not selected from."""

Source = Callable[[ProblemsConfig], ProblemSet]


def find_source(name: str) -> Source:
    """The source called `name`, built in or of a plug-in.

    Raises:
        ConfigError: there is none, or its plug-in cannot be loaded.

    Example:
        >>> find_source("builtin").__name__
        'load_builtin'
    """
    if name in SOURCES:
        source: Source = getattr(_module(name), f"load_{name}")
        return source
    plugins = plugin_sources()
    if name in plugins:
        return _of_plugin(name, plugins[name])
    raise ConfigError(_unknown("problems.source", name, plugins))


def source_problems(config: ProblemsConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """The keys that name a source that is not installed, with a message each. Imports no plug-in."""
    plugins = plugin_sources()
    for key, name in (
        (("problems", "source"), config.source),
        (("problems", "training", "source"), config.training.source),
    ):
        if name not in SOURCES and name not in plugins and not (name == "auto" and key[1] == "training"):
            yield key, _unknown(".".join(key), name, plugins)


def plugin_sources() -> dict[str, EntryPoint]:
    """Sources of installed plug-ins by name, none of them imported yet."""
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in SOURCES}


def _unknown(key: str, name: str, plugins: Iterable[str]) -> str:
    known = ", ".join([*SOURCES, *sorted(plugins)])
    return f"{key}: {name}: no such source. Known: {known}. A plug-in registers in the group {GROUP}."


def runs_code_of_its_path(name: str) -> bool:
    """True when the source called `name` may run code from its path with the rights of this process; plug-ins count as such."""
    return name not in READ_ONLY


def load_problems(config: ProblemsConfig) -> ProblemSet:
    """The problem set that `config` names, with training pairs.

    Args:
        config: ``problems`` of a configuration.

    Raises:
        ConfigError: there is no such source, or its path cannot be read.
        ProblemError: what is there cannot be used.
    """
    problems = find_problems(config)
    training = config.training
    if training.source == "auto" and problems.pairs:
        return problems
    if training.source in ("auto", "builtin"):
        return problems.model_copy(update={"pairs": _mutants(config, problems)})
    path = training.path or (config.path if training.source == config.source else None)
    other = find_source(training.source)(
        config.model_copy(
            update={"source": training.source, "path": path, "training": TrainingPairsConfig()} | EVERYTHING
        )
    )
    answers = training.source if other.benchmark else ""
    return problems.model_copy(update={"pairs": other.pairs or _own_answers(other), "answers_of": answers})


def find_problems(config: ProblemsConfig) -> ProblemSet:
    """The problems of the source that `config` names, as far as ``include``, ``exclude`` and ``longest`` take them.

    Raises:
        ConfigError, ProblemError: as `load_problems`.
    """
    from coral_core.problem_sources.selection import select

    return select(find_source(config.source)(config), config)


def source_path_problems(config: ProblemsConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """The keys of ``problems`` that name an unreadable path, with a message each."""
    training = config.training
    if config.source in PATHS:
        for complaint in _module(config.source).missing(config.path):
            yield ("problems", "path"), complaint
    if config.python is not None and not Path(config.python).expanduser().is_file():
        complaint = (
            f"problems.python: {config.python}: no such file. Give the interpreter with which the project's tests run."
        )
        yield ("problems", "python"), complaint
    if training.source in PATHS and (training.path is not None or training.source != config.source):
        for complaint in _module(training.source).missing(training.path):
            yield ("problems", "training", "path"), complaint.replace("problems.path", "problems.training.path", 1)


def _of_plugin(name: str, entry: EntryPoint) -> Source:
    """A plug-in's source, whose failures become `ProblemError`. Raises `ConfigError` when it cannot be loaded."""
    plugin = f"problems.source: {name}: its plug-in {entry.value}"
    try:
        loaded: Source = entry.load()
    except (Exception, SystemExit) as error:  # importing a script may raise SystemExit
        raise ConfigError(f"{plugin} cannot be loaded ({_named(error)})", remedy="Repair or remove it.") from error

    def source(config: ProblemsConfig) -> ProblemSet:
        try:
            found = loaded(config)
        except CoralError:
            raise
        except (Exception, SystemExit) as error:
            raise ProblemError(f"{plugin} failed ({_named(error)})", remedy="Repair it.") from error
        if not isinstance(found, ProblemSet):
            raise ProblemError(f"{plugin} gave no ProblemSet but a {type(found).__name__}", remedy="Repair it.")
        for problem in (*found.fitness, *found.monitor, *found.held_out):
            problem.check()
        return found

    return source


def _named(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:300]
    except Exception:  # the text of the error may raise itself
        return type(error).__name__


def _mutants(config: ProblemsConfig, problems: ProblemSet) -> tuple[RepairPair, ...]:
    """``config.pairs`` mutants of built-in functions, none of which is one of the problems.

    For a public benchmark a family that holds a near-duplicate of one of its problems is left out whole.
    """
    from coral_core.problem_sources.builtin import training_pairs
    from coral_core.problems.normal_form import near_duplicates, normal_form

    judged = (*problems.fitness, *problems.monitor, *problems.held_out)
    texts = list(dict.fromkeys(text for problem in judged for text in (problem.buggy, problem.reference)))
    avoid = {normal_form(text) for text in texts}
    if not problems.benchmark:
        return training_pairs(config, avoid)
    left_out: set[str] = set()
    surplus = 1.25
    while True:
        drawn = training_pairs(config.model_copy(update={"pairs": int(surplus * config.pairs) + 8}), avoid)
        for side in ([pair.buggy for pair in drawn], [pair.fixed for pair in drawn]):
            left_out |= {drawn[place].family for place, _, _ in near_duplicates(side, texts)}
        kept = tuple(pair for pair in drawn if pair.family not in left_out)
        if len(kept) >= config.pairs:
            return kept[: config.pairs]
        surplus *= 1.5
        if surplus > 50:
            raise ConfigError(
                f"problems.source: {config.source}: nearly every family of built-in functions is a near-duplicate of its problems ({', '.join(sorted(left_out))}), so no training pairs can be made",
                remedy="Name other ones: problems.training",
            )


def _own_answers(problems: ProblemSet) -> tuple[RepairPair, ...]:
    """Bugs and answers of a source without training pairs, without held-out ones; `guard` refuses them for a benchmark."""
    return tuple(
        RepairPair(buggy=problem.buggy, fixed=problem.reference, family=problem.family, bug_class=problem.bug_class)
        for problem in (*problems.fitness, *problems.monitor)
    )


def _module(name: str) -> Any:
    return importlib.import_module(f"coral_core.problem_sources.{'history' if name == 'git' else name}")
