"""The problem set of a directory of functions: bugs in turn over functions, sizes as configured."""

import random
from collections.abc import Callable, Sequence

from coral_core.config.tree import ProblemsConfig
from coral_core.digest import seed_from
from coral_core.errors import ConfigError
from coral_core.problem_sources.builtin import ECHO_SHARE
from coral_core.problem_sources.package.bugs import in_turn
from coral_core.problem_sources.package.cache import Recording, recording_of
from coral_core.problem_sources.package.cases import Bug, UsableFunction
from coral_core.problem_sources.package.splits import FunctionSplits, divide
from coral_core.problem_sources.selection import select_functions
from coral_core.problems.problem import Problem, ProblemSet, RepairPair, Split, difficulty_of

SMALLEST = {"fitness": 4, "held_out": 4, "pairs": 8}
"""Lower bounds of the configuration: the least that a run needs."""


def load_package(config: ProblemsConfig) -> ProblemSet:
    """The problem set of the directory at ``config.path``.

    Raises:
        ConfigError: there is no such directory, or it cannot supply as many problems as are asked.
        ProblemError: its tests cannot be run.
        JudgeError: the sandbox failed.
    """
    recording = recording_of(config.path, config.python)
    usable, notes = select_functions(recording.usable, config)
    divided = divide(usable, config)
    refuse_shortage(config.path, recording, divided, {name: getattr(config, name) for name in (*SMALLEST, "monitor")})
    held_out = _rights(config.held_out, len(divided.functions["held_out"]))
    return ProblemSet(
        source="package",
        pairs=_pairs(config, divided.functions["training"]),
        fitness=_problems(config, "fitness", divided, config.fitness, config.retention),
        monitor=_problems(config, "monitor", divided, config.monitor, 0),
        held_out=_problems(config, "held_out", divided, config.held_out - held_out, held_out),
        notes=notes,
    )


def supply(divided: FunctionSplits) -> dict[str, int]:
    """Key of ``problems`` -> the largest value that the directory can supply."""
    held_out = len(divided.functions["held_out"])
    return {
        "fitness": divided.bugs("fitness"),
        "retention": len(divided.functions["fitness"]),
        "monitor": divided.bugs("monitor"),
        "held_out": _largest(divided.bugs("held_out"), lambda size: _rights(size, held_out)),
        "pairs": _largest(divided.bugs("training"), _echoes),
    }


def _largest(bugs: int, right: Callable[[int], int]) -> int:
    """The largest size that needs at most `bugs` bugs; `right` gives the number of right functions among a size."""
    return max(size for size in range(bugs, 2 * bugs + 2) if size - right(size) <= bugs)


def _rights(size: int, functions: int) -> int:
    """Functions left right among `size` held-out problems: a tenth, as in the built-in problems."""
    return min(functions, max(1, size // 10))


def _echoes(size: int) -> int:
    """Functions left right among `size` training pairs."""
    return int(ECHO_SHARE * size)


def refuse_shortage(path: object, recording: Recording, divided: FunctionSplits, asked: dict[str, int]) -> None:
    """Check that a directory can supply a configuration's problems.

    Args:
        path: The directory, for the message.
        recording: Its recorded functions, for the message.
        divided: Its usable functions, split.
        asked: Key of ``problems`` -> number of problems or pairs that are asked.

    Raises:
        ConfigError: a number is larger than what `supply` gives; names the largest that is possible.
    """
    most = supply(divided)
    short = [f"{name}: {most[name]} (asked: {count})" for name, count in asked.items() if count > most[name]]
    if short:
        kept = sum(map(len, divided.functions.values()))
        number = f"{kept} of its" if kept < len(recording.usable) else "its"
        usable = f"{number} {len(recording.usable)} usable functions in {divided.groups} independent groups"
        problem = f"problems.path: {path}: {usable} can supply {', '.join(short)}"
        raise ConfigError(
            "\n".join([problem, *recording.notes]),
            remedy=f"Ask for less, or add tests of more functions (coral init --from {path} says which are not usable).",
        )


def _problems(
    config: ProblemsConfig, split: Split, divided: FunctionSplits, bugs: int, rights: int
) -> tuple[Problem, ...]:
    """`bugs` bugs of the split's functions in turn, and at most `rights` of the functions as they are."""
    functions = divided.functions.get(split, [])
    rng = random.Random(seed_from("package", config.data_seed, split))
    chosen = [_problem(split, number, *item) for number, item in enumerate(_bugs(functions, bugs, rng))]
    order = rng.sample(functions, len(functions))[:rights]
    return (*chosen, *(_problem(f"{split}-right", number, function, None) for number, function in enumerate(order)))


def _bugs(functions: Sequence[UsableFunction], count: int, rng: random.Random) -> list[tuple[UsableFunction, Bug]]:
    """`count` bugs: one of each function, then another of each, and so on."""
    order = rng.sample(list(functions), len(functions))
    return in_turn([(function, bug) for bug in function.bugs] for function in order)[:count]


def _problem(split: str, number: int, function: UsableFunction, bug: Bug | None) -> Problem:
    definition = function.definition
    name = f"{definition.file.removesuffix('.py').replace('/', '.')}.{definition.name}{'-' if definition.again else ''}{definition.again or ''}"
    return problem_of(f"package/{split}/{name}/{number:04d}", "package", function, bug)


def problem_of(problem_id: str, source: str, function: UsableFunction, bug: Bug | None) -> Problem:
    """The problem of a bug in a recorded function.

    Args:
        problem_id: Its id.
        source: Its source, with the origin of the bug where there are several.
        function: The function and its cases.
        bug: The bug; None: the function as it is, which must stay right.
    """
    definition = function.definition
    return Problem(
        problem_id=problem_id,
        source=source,
        family=definition.key,
        variant=definition.name,
        entry_point=definition.entry_point or definition.name,
        bug_class=bug.bug_class if bug else "none",
        difficulty=difficulty_of(bug.failing) if bug else "easy",
        buggy=bug.source if bug else definition.source,
        reference=definition.source,
        cases=function.cases,
    )


def _pairs(config: ProblemsConfig, functions: Sequence[UsableFunction]) -> tuple[RepairPair, ...]:
    """Bugs of training functions, and functions left right so that adapters learn to leave right code alone."""
    rng = random.Random(seed_from("package", config.data_seed, "pairs"))
    echoes = _echoes(config.pairs)
    pairs = [
        RepairPair(
            buggy=bug.source, fixed=function.definition.source, family=function.definition.key, bug_class=bug.bug_class
        )
        for function, bug in _bugs(functions, config.pairs - echoes, rng)
    ]
    order = rng.sample(list(functions), len(functions))
    for right in [order[number % len(order)].definition for number in range(echoes)]:
        pairs.append(RepairPair(buggy=right.source, fixed=right.source, family=right.key, bug_class="none"))
    rng.shuffle(pairs)
    return tuple(pairs)
