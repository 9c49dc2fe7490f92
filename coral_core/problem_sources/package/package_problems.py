"""The problem set of a directory of functions: bugs in turn over functions, sizes as configured."""

import random
from collections.abc import Sequence

from coral_core.config.tree import ProblemsConfig
from coral_core.digest import seed_from
from coral_core.errors import ConfigError, ProblemError
from coral_core.problem_sources.builtin import ECHO_SHARE
from coral_core.problem_sources.package.cache import Ready, ready
from coral_core.problem_sources.package.splits import SHARES, Broken, Divided, Function, divide
from coral_core.problems.normal_form import check_split
from coral_core.problems.problem import Problem, ProblemSet, RepairPair, Split, difficulty_of


def load_package(config: ProblemsConfig) -> ProblemSet:
    """The problem set of the directory at ``config.path``.

    Raises:
        ConfigError: there is no such directory, or it cannot supply as many problems as are asked.
        ProblemError: its tests cannot be run.
        JudgeError: the sandbox failed.
    """
    prepared = ready(config.path)
    divided = divide(prepared, config)
    _refuse_shortage(config, prepared, divided)
    problems = ProblemSet(
        source="package",
        pairs=_pairs(config, divided.functions["training"]),
        fitness=_problems(config, "fitness", divided, config.fitness, config.retention),
        monitor=_problems(config, "monitor", divided, config.monitor, 0),
        held_out=_held_out(config, divided),
    )
    if overlaps := check_split(problems):
        raise ProblemError(
            f"problems.path: {config.path}: {overlaps[0].first} and {overlaps[0].second} are the same function, and {len(overlaps)} such pairs cross the splits",
            remedy="Set another problems.data_seed, and report this: it is a bug of CORAL-X.",
        )
    return problems


def supply(divided: Divided) -> dict[str, int]:
    """The largest sizes that the directory can supply, by key of ``problems``."""
    bugs = divided.bugs("training")
    pairs = int(bugs / (1 - ECHO_SHARE))
    while pairs - int(ECHO_SHARE * pairs) > bugs:
        pairs -= 1
    held_out = divided.bugs("held_out")
    functions = len(divided.functions.get("held_out", ()))
    while held_out - _rights(held_out + 1, functions) < divided.bugs("held_out"):
        held_out += 1
    return {
        "fitness": divided.bugs("fitness"),
        "retention": len(divided.functions.get("fitness", ())),
        "monitor": divided.bugs("monitor"),
        "held_out": held_out,
        "pairs": pairs,
    }


SMALLEST = {"fitness": 4, "held_out": 4, "pairs": 8}
"""What a run needs at least (the lower bounds of the configuration)."""


def too_little(path: object, prepared: Ready, divided: Divided, monitor: bool) -> str:
    """Why no sizes at all would do for this directory; "" when some would."""
    usable = len(prepared.recording.usable)
    splits = len(SHARES) if monitor else len(SHARES) - 1
    if divided.groups < splits:
        return (
            f"problems.path: {path}: {usable} usable functions in {divided.groups} independent groups, and {splits} splits need {splits}. "
            f"Add tests of more functions{', or set problems.monitor: 0' if divided.groups == splits - 1 and monitor else ''}. "
            f"Why functions are not usable: coral init --from {path}"
        )
    most = supply(divided)
    for name, least in SMALLEST.items():
        if most[name] < least:
            return (
                f"problems.path: {path}: its {usable} usable functions can supply {name}: {most[name]}, and a run needs {least}. "
                f"Add tests of more functions, or another problems.data_seed. Why functions are not usable: coral init --from {path}"
            )
    return ""


def _refuse_shortage(config: ProblemsConfig, prepared: Ready, divided: Divided) -> None:
    if complaint := too_little(config.path, prepared, divided, bool(config.monitor)):
        raise ConfigError("\n".join([complaint, *prepared.recording.notes]))
    most = supply(divided)
    asked = {"fitness": config.fitness, "monitor": config.monitor, "held_out": config.held_out, "pairs": config.pairs}
    short = {name: count for name, count in asked.items() if count > most[name]}
    if short:
        said = ", ".join(f"{name}: {most[name]} (asked: {count})" for name, count in short.items())
        setting = ", ".join(f"{name}: {most[name]}" for name in short)
        raise ConfigError(
            f"problems.path: {config.path}: its {len(prepared.recording.usable)} usable functions can supply {said}",
            remedy=f"Set problems: {{{setting}}}, or add tests of more functions (coral init --from {config.path} says which are not usable).",
        )


def _rights(size: int, functions: int) -> int:
    """Functions left right among `size` held-out problems: a tenth, as in the built-in problems."""
    return min(functions, max(1, size // 10))


def _held_out(config: ProblemsConfig, divided: Divided) -> tuple[Problem, ...]:
    rights = _rights(config.held_out, len(divided.functions["held_out"]))
    return _problems(config, "held_out", divided, config.held_out - rights, rights)


def _problems(config: ProblemsConfig, split: Split, divided: Divided, bugs: int, rights: int) -> tuple[Problem, ...]:
    """`bugs` bugs of the split's functions in turn, and at most `rights` of the functions as they are."""
    functions = divided.functions.get(split, [])
    rng = random.Random(seed_from("package", config.data_seed, split))
    chosen = [_problem(split, number, *item) for number, item in enumerate(_in_turn(functions, bugs, rng))]
    order = rng.sample(functions, len(functions))[:rights]
    return (*chosen, *(_problem(f"{split}-right", number, function, None) for number, function in enumerate(order)))


def _in_turn(functions: Sequence[Function], count: int, rng: random.Random) -> list[tuple[Function, Broken]]:
    """`count` bugs: one of each function, then another of each, and so on."""
    order = rng.sample(list(functions), len(functions))
    rounds = max((len(function.broken) for function in order), default=0)
    turns = [
        (function, function.broken[turn]) for turn in range(rounds) for function in order if turn < len(function.broken)
    ]
    return turns[:count]


def _problem(split: str, number: int, function: Function, broken: Broken | None) -> Problem:
    found = function.found
    return Problem(
        problem_id=f"package/{split}/{found.file.removesuffix('.py').replace('/', '.')}.{found.name}/{number:04d}",
        source="package",
        family=found.key,
        variant=found.name,
        entry_point=found.name,
        bug_class=broken.bug.bug_class if broken else "none",
        difficulty=difficulty_of(broken.bug.failing) if broken else "easy",
        buggy=broken.source if broken else found.source,
        reference=found.source,
        cases=function.usable.cases,
    )


def _pairs(config: ProblemsConfig, functions: Sequence[Function]) -> tuple[RepairPair, ...]:
    """Bugs of training functions, and functions left right so that adapters learn to leave right code alone."""
    rng = random.Random(seed_from("package", config.data_seed, "pairs"))
    echoes = int(ECHO_SHARE * config.pairs)
    pairs = [
        RepairPair(
            buggy=broken.source, fixed=function.found.source, family=function.found.key, bug_class=broken.bug.bug_class
        )
        for function, broken in _in_turn(functions, config.pairs - echoes, rng)
    ]
    order = rng.sample(list(functions), len(functions))
    for number in range(echoes):
        found = order[number % len(order)].found
        pairs.append(RepairPair(buggy=found.source, fixed=found.source, family=found.key, bug_class="none"))
    rng.shuffle(pairs)
    return tuple(pairs)
