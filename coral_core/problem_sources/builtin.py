"""The built-in problems: drawn, broken, checked and split by code; nothing is stored.

Bugs of the fitness, monitor and held-out splits are of the B families, which the embedded base model never saw repaired;
adapters train on other functions of the same families. Scores therefore measure transfer to new functions of known
families. Equal normal forms never cross a split, not even between training pairs and problems.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from coral_core.config.tree import ProblemsConfig
from coral_core.digest import seed_from
from coral_core.errors import ProblemError
from coral_core.problem_sources.families import A_FAMILIES, ALL_FAMILIES, B_FAMILIES
from coral_core.problem_sources.families.draw import Family, Function, draw, draw_inputs
from coral_core.problems import trusted
from coral_core.problems.mutation import Mutation, mutators
from coral_core.problems.normal_form import normal_form
from coral_core.problems.problem import BugClass, Case, Difficulty, Problem, ProblemSet, RepairPair, difficulty_of
from coral_core.problems.values import encode

CASES = 16
PRETRAINED_CLASSES: tuple[BugClass, ...] = ("comparison", "arithmetic", "constant", "called-name")
ECHO_SHARE = 0.12
"""Share of training pairs that are right already: without them adapters learn to change right code."""


@dataclass(frozen=True)
class Checked:
    """A function with recorded calls."""

    function: Function
    inputs: tuple[tuple[object, ...], ...]
    outcomes: tuple[trusted.Outcome, ...]


def load_builtin(config: ProblemsConfig) -> ProblemSet:
    """The problem set of `config`; the same on any machine and Python version.

    Args:
        config: Sizes of the splits, bug classes and ``data_seed``.

    Raises:
        ProblemError: the families cannot supply that many distinct problems.
    """
    held_out, fitness, monitor, taken = builtin_splits(config.model_copy(update={"pairs": 8}))
    return ProblemSet(
        source="builtin", pairs=training_pairs(config, set(taken)), fitness=fitness, monitor=monitor, held_out=held_out
    )


Problems = tuple[Problem, ...]


@lru_cache(maxsize=4)
def builtin_splits(config: ProblemsConfig) -> tuple[Problems, Problems, Problems, frozenset[str]]:
    """Held-out, fitness and monitor split of `config`, and the normal forms in them; pairs, made last, do not change them."""
    taken: set[str] = set()
    held_out = _split(config, "held_out", config.held_out, max(1, config.held_out // 10), taken)
    fitness = _split(config, "fitness", config.fitness, config.retention, taken)
    monitor = _split(config, "monitor", config.monitor, 0, taken)
    return held_out, fitness, monitor, frozenset(taken)


def _split(config: ProblemsConfig, split: str, bugs: int, retention: int, taken: set[str]) -> tuple[Problem, ...]:
    """`bugs` bugs of B families and `retention` problems that must stay right.

    Held-out counts its retention problems within its size; the others come on top.
    """
    rng = random.Random(seed_from("builtin", config.data_seed, split))
    if split == "held_out":
        bugs -= retention
    problems = list(_bugs(rng, split, B_FAMILIES, config.bug_classes, bugs, taken))
    right = retention // 2
    problems += _rights(rng, split, ALL_FAMILIES, right, taken)
    known = tuple(name for name in config.bug_classes if name in PRETRAINED_CLASSES) or PRETRAINED_CLASSES
    problems += _bugs(rng, f"{split}-known", A_FAMILIES, known, retention - right, taken)
    return tuple(problems)


def _bugs(
    rng: random.Random, split: str, families: Sequence[Family], classes: Sequence[BugClass], count: int, taken: set[str]
) -> Iterator[Problem]:
    made = 0
    turn = 0
    while made < count:
        family = families[turn % len(families)]
        wanted = classes[(turn * 5 + turn // len(families)) % len(classes)]
        turn += 1
        for _ in range(4):
            checked = check(draw(family, rng), rng)
            if checked is None or normal_form(checked.function.source) in taken:
                continue
            mutant = broken(checked, (wanted,), rng) or broken(checked, classes, rng)
            if mutant is None or normal_form(mutant.source) in taken:
                continue
            taken.update((normal_form(checked.function.source), normal_form(mutant.source)))
            yield _problem(split, made, checked, mutant)
            made += 1
            break
        if turn > 400 * max(1, count):
            raise ProblemError(
                f"problems: the built-in functions cannot supply {count} distinct problems for {split} with bug_classes "
                f"{', '.join(classes)}",
                remedy="Ask for fewer, or allow more classes.",
            )


def _rights(rng: random.Random, split: str, families: Sequence[Family], count: int, taken: set[str]) -> list[Problem]:
    found: list[Problem] = []
    turn = 0
    while len(found) < count:
        checked = check(draw(families[turn % len(families)], rng), rng)
        turn += 1
        if checked is None or normal_form(checked.function.source) in taken:
            continue
        taken.add(normal_form(checked.function.source))
        found.append(_problem(f"{split}-right", len(found), checked, None))
    return found


def _problem(split: str, number: int, checked: Checked, mutant: Mutation | None) -> Problem:
    function = checked.function
    cases = tuple(
        Case(
            arguments=tuple(encode(argument) for argument in arguments),
            value=content if kind == "value" else None,
            exception=content if kind == "exception" else None,
        )
        for arguments, (kind, content) in zip(checked.inputs, checked.outcomes, strict=True)
    )
    return Problem(
        problem_id=f"builtin/{split}/{function.family.name}/{number:04d}",
        source="builtin",
        family=function.family.name,
        variant=function.variant,
        entry_point=function.entry_point,
        bug_class=mutant.bug_class if mutant else "none",
        difficulty=_difficulty(checked, mutant),
        buggy=mutant.source if mutant else function.source,
        reference=function.source,
        cases=cases,
    )


def _difficulty(checked: Checked, mutant: Mutation | None) -> Difficulty:
    """By the share of cases that show the bug: a bug that shows rarely is hard."""
    if mutant is None:
        return "easy"
    outcomes = trusted.run(trusted.compiled(mutant.source), checked.function.entry_point, checked.inputs)
    failing = sum(ours != theirs for ours, theirs in zip(outcomes, checked.outcomes, strict=True)) / len(outcomes)
    return difficulty_of(failing)


def check(function: Function, rng: random.Random) -> Checked | None:
    """Record `CASES` distinct calls; None when they say too little (one outcome for all, or an exception)."""
    inputs: list[tuple[object, ...]] = []
    seen: set[str] = set()
    for _ in range(CASES * 6):
        arguments = tuple(draw_inputs(function.family, rng))
        if repr(arguments) not in seen:
            seen.add(repr(arguments))
            inputs.append(arguments)
        if len(inputs) == CASES:
            break
    else:
        if len(inputs) < 12:
            return None
    outcomes = trusted.run(trusted.compiled(function.source), function.entry_point, inputs)
    if any(kind != "value" for kind, _ in outcomes) or len({repr(outcome) for outcome in outcomes}) < 2:
        return None
    return Checked(function, tuple(inputs), tuple(outcomes))


def broken(checked: Checked, classes: Sequence[BugClass], rng: random.Random) -> Mutation | None:
    """A mutant of one of `classes` that at least two cases detect, or that runs on without end; None if there is none.

    A class is drawn before a mutation of it, so that classes with many mutations (variable) do not crowd out the rest.
    """
    function = checked.function
    for bug_class in rng.sample(list(classes), len(classes)):
        candidates = mutators(function.core, (bug_class,))
        rng.shuffle(candidates)
        for make in candidates[:6]:
            candidate = make()
            if candidate is None or candidate.source == function.core:
                continue
            mutation = replace(candidate, source=function.dressing.apply(candidate.source))
            outcomes = trusted.run(
                trusted.compiled(mutation.source), function.entry_point, checked.inputs, checked.outcomes
            )
            wrong = sum(ours != theirs for ours, theirs in zip(outcomes, checked.outcomes, strict=False))
            if wrong >= 2 or outcomes[-1][0] == "budget":
                return mutation
    return None


def training_pairs(config: ProblemsConfig, taken: set[str]) -> tuple[RepairPair, ...]:
    """``config.pairs`` pairs, none of whose texts has a normal form in `taken`."""
    rng = random.Random(seed_from("builtin", config.data_seed, "pairs"))
    echoes = int(ECHO_SHARE * config.pairs)
    pairs = list(_pairs(rng, B_FAMILIES, config.bug_classes, config.pairs - echoes, taken))
    pairs += _echoes(rng, ALL_FAMILIES, echoes, taken)
    rng.shuffle(pairs)
    return tuple(pairs)


def _pairs(
    rng: random.Random, families: Sequence[Family], classes: Sequence[BugClass], count: int, avoid: set[str]
) -> Iterator[RepairPair]:
    made = 0
    turn = 0
    while made < count:
        family = families[turn % len(families)]
        turn += 1
        checked = check(draw(family, rng), rng)
        if checked is None or normal_form(checked.function.source) in avoid:
            continue
        wanted = classes[rng.randrange(len(classes))]
        mutant = broken(checked, (wanted,), rng) or broken(checked, classes, rng)
        if mutant is None or normal_form(mutant.source) in avoid:
            continue
        made += 1
        yield RepairPair(
            buggy=mutant.source, fixed=checked.function.source, family=family.name, bug_class=mutant.bug_class
        )


def _echoes(rng: random.Random, families: Sequence[Family], count: int, avoid: set[str]) -> list[RepairPair]:
    pairs: list[RepairPair] = []
    while len(pairs) < count:
        family = families[rng.randrange(len(families))]
        source = draw(family, rng).source
        if normal_form(source) not in avoid:
            pairs.append(RepairPair(buggy=source, fixed=source, family=family.name, bug_class="none"))
    return pairs


def pretraining_pairs(count: int, seed: int) -> list[RepairPair]:
    """Repair pairs of the A families and four bug classes: what the base model learns."""
    rng = random.Random(seed_from("pretraining", seed))
    return list(_pairs(rng, A_FAMILIES, PRETRAINED_CLASSES, count, set()))


def plain_functions(count: int, seed: int, families: Sequence[Family] = A_FAMILIES) -> list[str]:
    """Right functions of `families`, as plain text."""
    rng = random.Random(seed_from("plain", seed))
    return [draw(families[rng.randrange(len(families))], rng).source for _ in range(count)]


def echo_pairs(count: int, seed: int) -> list[RepairPair]:
    """Right functions of A families that stay as they are."""
    return _echoes(random.Random(seed_from("echo", seed)), A_FAMILIES, count, set())
