"""Draws functions of a family: templates, twists, names from small vocabularies.

A family is a few templates with slots. A ``$name`` slot takes an identifier; identifiers are distinct in a function. An
``@name`` slot takes a value of one twist, a row of values that belong together: the function's name says "at_least"
exactly when the operator is ``>=``. The correct text can therefore be read off the function itself.
"""

import ast
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coral_core.problem_sources.families.added_steps import AddedSteps, draw_steps
from coral_core.problems import trusted
from coral_core.syntax import parse

VOCABULARY: dict[str, tuple[str, ...]] = {
    "xs": ("items", "values", "nums", "data", "seq", "row"),
    "ys": ("others", "right", "second", "more"),
    "x": ("x", "v", "n", "item", "e"),
    "y": ("y", "w", "m", "other"),
    "acc": ("total", "result", "acc", "out", "res"),
    "best": ("best", "top", "found", "keep"),
    "i": ("i", "j", "idx", "pos"),
    "k": ("k", "limit", "bound", "cut"),
    "a": ("a", "first", "p"),
    "b": ("b", "last", "q"),
    "s": ("text", "word", "s", "line"),
    "c": ("c", "ch", "letter"),
    "n": ("n", "size", "number", "num"),
    "lo": ("low", "lo", "start"),
    "hi": ("high", "hi", "end"),
    "d": ("table", "counts", "seen", "index"),
    "f": ("flag", "state", "ok"),
}


Twists = tuple[dict[str, str], ...]
"""Rows of values, by ``@`` slot, that change the behaviour and its visible cues together."""
Templates = tuple[tuple[str, ...], Twists]


@dataclass(frozen=True)
class Family:
    """One task in several structures.

    Attributes:
        inputs: Kinds of the arguments, in order (`INPUTS`).
        texts: Structural variants; each with ``$`` and ``@`` slots.
        twists: The twists that each text can take.
    """

    name: str
    inputs: tuple[str, ...]
    texts: tuple[str, ...]
    twists: Twists


def templates(*texts: str, twists: Twists = ({},)) -> Templates:
    """One row of a table of families: its texts and twists."""
    return texts, twists


def read_families(rows: dict[str, Templates]) -> tuple[Family, ...]:
    """The families of a table.

    Args:
        rows: By task and kinds of its arguments, as in ``clamp(int, int, positive)``.
    """
    signatures = [signature.removesuffix(")").partition("(") for signature in rows]
    return tuple(
        Family(name, tuple(inputs.split(", ")), *row)
        for (name, _, inputs), row in zip(signatures, rows.values(), strict=True)
    )


@dataclass(frozen=True)
class Function:
    """A drawn function.

    Attributes:
        core: The text that bugs are put into.
        steps: What is added to it.
        source: The whole text.
        variant: Numbers of template and twist.
    """

    family: Family
    core: str
    steps: AddedSteps
    source: str
    entry_point: str
    variant: str


def draw(family: Family, rng: random.Random) -> Function:
    """One random function of a family, with its added steps.

    Args:
        family: Templates and twists.
        rng: Draws all of it; equal states give equal functions.
    """
    number = rng.randrange(len(family.texts))
    twist_number = rng.randrange(len(family.twists))
    twist = {slot: rng.choice(values.split("|")) for slot, values in family.twists[twist_number].items()}
    text = re.sub(r"@([a-z]+[0-9]?)", lambda match: twist[match[1]], family.texts[number])
    names: dict[str, str] = {}
    for slot in dict.fromkeys(re.findall(r"\$([a-z]+)", text)):
        free = [name for name in VOCABULARY[slot] if name not in names.values()]
        names[slot] = rng.choice(free)
    text = re.sub(r"\$([a-z]+)", lambda match: names[match[1]], text)
    tree = parse(text)
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    core = ast.unparse(tree)
    steps = draw_steps(core, family.inputs, _result_kind(core, function.name, family, rng), rng)
    return Function(family, core, steps, steps.apply(core), function.name, f"{number}.{twist_number}")


def _result_kind(source: str, entry_point: str, family: Family, rng: random.Random) -> str:
    """Kind of the core's result: int, list, str or other; from three calls."""
    outcomes = trusted.run(source, entry_point, [draw_inputs(family, rng) for _ in range(3)])
    # every encoded container counts as a list; `builtin.record_calls` drops a function whose step does not suit it
    kinds = {type(value).__name__ if kind == "value" else "other" for kind, value in outcomes}
    return kinds.pop() if len(kinds) == 1 else "other"


def _ints(rng: random.Random, low: int = -9, high: int = 12, fewest: int = 0, most: int = 7) -> list[int]:
    return [rng.randint(low, high) for _ in range(rng.randint(fewest, most))]


def _word(rng: random.Random, letters: str = "abcdeA B1", fewest: int = 0, most: int = 8) -> str:
    return "".join(rng.choice(letters) for _ in range(rng.randint(fewest, most)))


INPUTS: dict[str, Callable[[random.Random], Any]] = {
    "ints": _ints,
    "ints1": lambda rng: _ints(rng, fewest=1),
    "ints2": lambda rng: _ints(rng, fewest=2),
    "few": lambda rng: _ints(rng, low=0, high=4, fewest=0, most=7),
    "few1": lambda rng: _ints(rng, low=0, high=4, fewest=1, most=7),
    "positives": lambda rng: _ints(rng, low=1, high=12, fewest=0, most=6),
    "sorted": lambda rng: sorted(_ints(rng, fewest=1)),
    "bits": lambda rng: _ints(rng, low=0, high=1, fewest=0, most=7),
    "int": lambda rng: rng.randint(-9, 12),
    "small": lambda rng: rng.randint(0, 15),
    "positive": lambda rng: rng.randint(1, 9),
    "natural1": lambda rng: rng.randint(1, 40),
    "digit": lambda rng: rng.randint(0, 6),
    "affix": lambda rng: _word(rng, letters="ab", most=3),
    "natural": lambda rng: rng.randint(0, 30),
    "digits": lambda rng: rng.choice([rng.randint(0, 9), rng.randint(10, 999), rng.randint(1000, 99999)]),
    "str": _word,
    "str1": lambda rng: _word(rng, fewest=1),
    "letter": lambda rng: rng.choice("abcdeA B1"),
    "words": lambda rng: [_word(rng, fewest=0, most=5) for _ in range(rng.randint(0, 5))],
    "words1": lambda rng: [_word(rng, fewest=1, most=5) for _ in range(rng.randint(1, 5))],
    "rows": lambda rng: [_ints(rng, most=4) for _ in range(rng.randint(0, 4))],
    "rows1": lambda rng: [_ints(rng, fewest=1, most=4) for _ in range(rng.randint(1, 4))],
    "pairs": lambda rng: [[rng.randint(-5, 9), rng.randint(-5, 9)] for _ in range(rng.randint(0, 5))],
    "bool": lambda rng: rng.random() < 0.5,
}


def draw_inputs(family: Family, rng: random.Random) -> list[Any]:
    """Random arguments for one call.

    Args:
        family: Gives the kind of each argument.
        rng: Draws the values.

    Returns:
        The arguments, by position.
    """
    return [INPUTS[kind](rng) for kind in family.inputs]
