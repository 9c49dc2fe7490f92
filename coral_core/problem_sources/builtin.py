"""The built-in problems: functions are drawn, mutated, checked and split by code; nothing is stored.

Bugs of the fitness, monitor and held-out splits are of the B families, whose repairs the embedded base model was not
trained on. Adapters train on other functions of the same families. Scores therefore measure transfer to new functions of
known families. Equal normal forms never cross a split, not even between training pairs and problems.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice

from coral_core.config.tree import ProblemsConfig
from coral_core.digest import seed_from
from coral_core.errors import ProblemError
from coral_core.problem_sources.families import A_FAMILIES, ALL_FAMILIES, USUAL, Roles
from coral_core.problem_sources.families.draw import Family, Function, draw, draw_inputs
from coral_core.problems import trusted
from coral_core.problems.mutation import Mutation, mutators
from coral_core.problems.normal_form import normal_form
from coral_core.problems.problem import BugClass, Case, Difficulty, Problem, ProblemSet, RepairPair, difficulty_of
from coral_core.problems.values import encode

CASES = 16
FEWEST = 12
"""Fewest distinct calls of a usable function."""
PRETRAINED_CLASSES: tuple[BugClass, ...] = ("comparison", "arithmetic", "constant", "called-name")
ECHO_SHARE = 0.12
"""Share of training pairs that are right already: without them adapters learn to change right code."""


@dataclass(frozen=True)
class RecordedFunction:
    """A function with recorded calls."""

    function: Function
    inputs: tuple[tuple[object, ...], ...]
    outcomes: tuple[trusted.Outcome, ...]


def load_builtin(config: ProblemsConfig, roles: Roles = USUAL) -> ProblemSet:
    """The problem set of `config`; the same on any machine and Python version.

    Args:
        config: Sizes of the splits, bug classes and ``data_seed``.
        roles: Families that the base model knows and that adapters learn.

    Raises:
        ProblemError: the families cannot supply that many distinct problems.
    """
    held_out, fitness, monitor, taken = builtin_splits(config.model_copy(update={"pairs": 8}), roles)
    return ProblemSet(
        source="builtin",
        pairs=training_pairs(config, set(taken), roles),
        fitness=fitness,
        monitor=monitor,
        held_out=held_out,
    )


Problems = tuple[Problem, ...]


def builtin_splits(config: ProblemsConfig, roles: Roles = USUAL) -> tuple[Problems, Problems, Problems, frozenset[str]]:
    """The held-out, fitness and monitor splits of `config`, and the normal forms in them; the latest are kept in memory.

    Training pairs are made afterwards, so their number does not change the splits.
    """
    return _splits(config, roles)


@lru_cache(maxsize=4)
def _splits(config: ProblemsConfig, roles: Roles) -> tuple[Problems, Problems, Problems, frozenset[str]]:
    taken: set[str] = set()
    retention = max(1, config.held_out // 10)
    held_out = _split(config, "held_out", config.held_out - retention, retention, taken, roles)
    fitness = _split(config, "fitness", config.fitness, config.retention, taken, roles)
    monitor = _split(config, "monitor", config.monitor, 0, taken, roles)
    return held_out, fitness, monitor, frozenset(taken)


def _split(config: ProblemsConfig, split: str, bugs: int, retention: int, taken: set[str], roles: Roles) -> Problems:
    """`bugs` bugs of the families to learn and `retention` problems that must stay right."""
    rng = random.Random(seed_from("builtin", config.data_seed, split))
    problems = list(_bugs(rng, split, roles.learnt, config.bug_classes, bugs, taken))
    correct = retention // 2
    problems += _correct(rng, split, correct, taken)
    known = tuple(name for name in config.bug_classes if name in PRETRAINED_CLASSES) or PRETRAINED_CLASSES
    problems += _bugs(rng, f"{split}-known", roles.known, known, retention - correct, taken)
    return tuple(problems)


def _bugs(
    rng: random.Random, split: str, families: Sequence[Family], classes: Sequence[BugClass], count: int, taken: set[str]
) -> Iterator[Problem]:
    """`count` bugs, families and classes in turn; their normal forms are added to `taken`."""
    number = turn = 0
    while number < count:
        family = families[turn % len(families)]
        bug_class = classes[(turn * 5 + turn // len(families)) % len(classes)]
        turn += 1
        tries = (_bug(rng, family, classes, taken, bug_class) for _ in range(4))
        if (found := next(filter(None, tries), None)) is not None:
            recorded, mutant = found
            taken.update((normal_form(recorded.function.source), normal_form(mutant.source)))
            yield _problem(split, number, recorded, mutant)
            number += 1
        if turn > 400 * max(1, count):
            raise ProblemError(
                f"problems: the built-in functions cannot supply {count} distinct problems for {split} with bug_classes "
                f"{', '.join(classes)}",
                remedy="Ask for fewer, or allow more classes.",
            )


def _bug(
    rng: random.Random, family: Family, classes: Sequence[BugClass], taken: set[str], wanted: BugClass | None = None
) -> tuple[RecordedFunction, Mutation] | None:
    """One try at a function of `family` and a bug in it, neither of a normal form in `taken`.

    Args:
        rng: Draws both.
        family: Family of the function.
        classes: Classes of the bug.
        taken: Normal forms in use.
        wanted: The class that is tried first; None: draw one.
    """
    recorded = _unused(rng, family, taken)
    if recorded is None:
        return None
    first = wanted or classes[rng.randrange(len(classes))]
    mutant = find_mutant(recorded, (first,), rng) or find_mutant(recorded, classes, rng)
    return None if mutant is None or normal_form(mutant.source) in taken else (recorded, mutant)


def _unused(rng: random.Random, family: Family, taken: set[str]) -> RecordedFunction | None:
    """A function of `family`, unless its calls say too little or its normal form is in `taken`."""
    recorded = record_calls(draw(family, rng), rng)
    return None if recorded is None or normal_form(recorded.function.source) in taken else recorded


def _correct(rng: random.Random, split: str, count: int, taken: set[str]) -> Iterator[Problem]:
    number = turn = 0
    while number < count:
        recorded = _unused(rng, ALL_FAMILIES[turn % len(ALL_FAMILIES)], taken)
        turn += 1
        if recorded is not None:
            taken.add(normal_form(recorded.function.source))
            yield _problem(f"{split}-right", number, recorded, None)
            number += 1


def _problem(split: str, number: int, recorded: RecordedFunction, mutant: Mutation | None) -> Problem:
    function = recorded.function
    return Problem(
        problem_id=f"builtin/{split}/{function.family.name}/{number:04d}",
        source="builtin",
        family=function.family.name,
        variant=function.variant,
        entry_point=function.entry_point,
        bug_class=mutant.bug_class if mutant else "none",
        difficulty=_difficulty(recorded, mutant),
        buggy=mutant.source if mutant else function.source,
        reference=function.source,
        cases=tuple(
            Case(arguments=tuple(map(encode, arguments)), value=value)
            for arguments, (_, value) in zip(recorded.inputs, recorded.outcomes, strict=True)
        ),
    )


def _difficulty(recorded: RecordedFunction, mutant: Mutation | None) -> Difficulty:
    """Difficulty by the share of cases that detect the bug; easy for a right function."""
    if mutant is None:
        return "easy"
    outcomes = trusted.run(mutant.source, recorded.function.entry_point, recorded.inputs)
    return difficulty_of(_differences(outcomes, recorded) / len(outcomes))


def _differences(outcomes: Sequence[trusted.Outcome], recorded: RecordedFunction) -> int:
    return sum(ours != theirs for ours, theirs in zip(outcomes, recorded.outcomes, strict=False))


def record_calls(function: Function, rng: random.Random) -> RecordedFunction | None:
    """Record `CASES` distinct calls of a function.

    Args:
        function: The drawn function.
        rng: Draws the arguments.

    Returns:
        The function with its calls. None when it is of no use: fewer than `FEWEST` distinct calls, an exception, or one
        outcome for all.
    """
    drawn: dict[str, tuple[object, ...]] = {}
    for _ in range(CASES * 6):
        arguments = tuple(draw_inputs(function.family, rng))
        drawn.setdefault(repr(arguments), arguments)
        if len(drawn) == CASES:
            break
    inputs = tuple(drawn.values())
    if len(inputs) < FEWEST:
        return None
    outcomes = trusted.run(function.source, function.entry_point, inputs)
    if any(kind != "value" for kind, _ in outcomes) or len(set(map(repr, outcomes))) < 2:
        return None
    return RecordedFunction(function, inputs, tuple(outcomes))


def find_mutant(recorded: RecordedFunction, classes: Sequence[BugClass], rng: random.Random) -> Mutation | None:
    """A mutant of the function's core that at least two cases detect, or that exceeds the line budget.

    A class is drawn before a mutation of it, so that classes with many mutations (variable) are not preferred.

    Args:
        recorded: The function with its calls.
        classes: Bug classes to draw from.
        rng: Draws class and mutation.

    Returns:
        The mutation, or None when none was found.
    """
    function = recorded.function
    for bug_class in rng.sample(list(classes), len(classes)):
        candidates = mutators(function.core, (bug_class,))
        rng.shuffle(candidates)
        for _, mutate in candidates[:6]:
            core = mutate()
            if core is None or core == function.core:
                continue
            source = function.steps.apply(core)
            outcomes = trusted.run(source, function.entry_point, recorded.inputs, recorded.outcomes)
            if _differences(outcomes, recorded) >= 2 or outcomes[-1][0] == "budget":
                return Mutation(bug_class, source)
    return None


def training_pairs(config: ProblemsConfig, taken: set[str], roles: Roles = USUAL) -> tuple[RepairPair, ...]:
    """The training pairs of a configuration: bugs of the families to learn, and `ECHO_SHARE` of right functions of all families.

    Args:
        config: Gives ``pairs`` (their number), bug classes and ``data_seed``.
        taken: Normal forms that no text of a pair may have.
        roles: As for `load_builtin`.
    """
    rng = random.Random(seed_from("builtin", config.data_seed, "pairs"))
    echoes = int(ECHO_SHARE * config.pairs)
    pairs = list(_pairs(rng, roles.learnt, config.bug_classes, config.pairs - echoes, taken))
    pairs += _echoes(rng, ALL_FAMILIES, echoes, taken)
    rng.shuffle(pairs)
    return tuple(pairs)


def _pairs(
    rng: random.Random, families: Sequence[Family], classes: Sequence[BugClass], count: int, avoid: set[str]
) -> Iterator[RepairPair]:
    tries = (_bug(rng, family, classes, avoid) for family in cycle(families))
    for recorded, mutant in islice(filter(None, tries), count):
        function = recorded.function
        yield RepairPair(
            buggy=mutant.source, fixed=function.source, family=function.family.name, bug_class=mutant.bug_class
        )


def _echoes(rng: random.Random, families: Sequence[Family], count: int, avoid: set[str]) -> list[RepairPair]:
    pairs: list[RepairPair] = []
    while len(pairs) < count:
        family = families[rng.randrange(len(families))]
        source = draw(family, rng).source
        if normal_form(source) not in avoid:
            pairs.append(RepairPair(buggy=source, fixed=source, family=family.name, bug_class="none"))
    return pairs


def pretraining_pairs(count: int, seed: int, families: Sequence[Family] = A_FAMILIES) -> list[RepairPair]:
    """Repair pairs of known families and of four bug classes, for the pre-training of coral-tiny.

    Args:
        count: Number of pairs.
        seed: Equal seeds give equal pairs.
        families: The known families.
    """
    rng = random.Random(seed_from("pretraining", seed))
    return list(_pairs(rng, families, PRETRAINED_CLASSES, count, set()))


def plain_functions(count: int, seed: int, families: Sequence[Family] = A_FAMILIES) -> list[str]:
    """Source texts of right functions.

    Args:
        count: Number of texts.
        seed: Equal seeds give equal texts.
        families: Families to draw from.
    """
    rng = random.Random(seed_from("plain", seed))
    return [draw(families[rng.randrange(len(families))], rng).source for _ in range(count)]


def echo_pairs(count: int, seed: int, families: Sequence[Family] = A_FAMILIES) -> list[RepairPair]:
    """Pairs of known families in which the buggy text is right already and stays as it is.

    Args:
        count: Number of pairs.
        seed: Equal seeds give equal pairs.
        families: The known families.
    """
    return _echoes(random.Random(seed_from("echo", seed)), families, count, set())
