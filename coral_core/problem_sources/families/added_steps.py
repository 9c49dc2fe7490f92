"""Steps that are added before and after a function's core, so that one family gives very many functions.

Renaming variables alone gives a family only a few normal forms. An added step changes an argument or the result, with
constants of its own, in the correct and in the broken function alike. The bug stays in the core, where the text shows it.
A model that recognises a function by its name alone does not know what is asked.
"""

import ast
import random
from dataclasses import dataclass

from coral_core.syntax import parse

_SMALL = range(1, 10)
_STEPS: dict[str, tuple[str, ...]] = {
    "list": ("{0} = {0} + [{1}]", "{0} = [{1}] + {0}"),
    "int": ("{0} = {0} + {1}", "{0} += {1}"),
    "signed": ("{0} = {0} + {1}", "{0} = {0} - {1}", "{0} += {1}"),
    "str": ("{0} = {0} + '{2}'", "{0} = '{2}' + {0}"),
    "words": ("{0} = {0} + ['{2}']", "{0} = ['{2}'] + {0}"),
}
_INPUTS_OF_STEP = {
    "list": ("ints", "ints1", "ints2", "few", "few1", "positives"),
    "int": ("positive", "natural", "digits", "natural1", "small", "digit"),
    "signed": ("int",),
    "str": ("affix", "str", "str1"),
    "words": ("words", "words1"),
}
_STEP_OF_INPUT = {kind: step for step, kinds in _INPUTS_OF_STEP.items() for kind in kinds}
_AFTER: dict[str, tuple[str, ...]] = {
    "int": ("+ {1}", "- {1}", "* {3}"),
    "list": ("+ [{1}]", "+ [{1}, {3}]"),
    "str": ("+ '{2}'",),
}


@dataclass(frozen=True)
class AddedSteps:
    """Statements put before the core, by argument number, and what is done to the result."""

    before: tuple[tuple[int, str], ...] = ()
    after: str = ""

    def apply(self, source: str) -> str:
        """`source` with the steps added, in `ast.unparse` form."""
        tree = parse(source)
        function = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
        names = [argument.arg for argument in function.args.args]
        steps = [parse(text.format(names[number])).body[0] for number, text in self.before]
        function.body[:0] = steps
        if self.after:
            for node in ast.walk(function):
                if isinstance(node, ast.Return) and node.value is not None:
                    node.value = _expression(f"({ast.unparse(node.value)}) {self.after}")
        return ast.unparse(ast.fix_missing_locations(tree))


def _expression(text: str) -> ast.expr:
    statement = parse(text).body[0]
    assert isinstance(statement, ast.Expr)
    return statement.value


def draw_steps(source: str, inputs: tuple[str, ...], result: str, rng: random.Random) -> AddedSteps:
    """Steps for a core.

    Args:
        source: The core.
        inputs: Kinds of its arguments.
        result: Kind of its result: int, list, str or other.
        rng: Draws them.
    """

    def fill(text: str) -> str:
        first = rng.choice(_SMALL)
        word = "".join(rng.choice("abcde") for _ in range(rng.choice((1, 2))))
        return text.replace("{1}", str(first)).replace("{2}", word).replace("{3}", str(rng.choice(_SMALL[1:])))

    numbers = [number for number, kind in enumerate(inputs) if kind in _STEP_OF_INPUT]
    before = [(n, fill(rng.choice(_STEPS[_STEP_OF_INPUT[inputs[n]]]))) for n in numbers if rng.random() < 0.55]
    single = sum(isinstance(node, ast.Return) for node in ast.walk(parse(source))) == 1
    after = (
        fill(rng.choice(_AFTER[result])) if single and result in _AFTER and (not before or rng.random() < 0.5) else ""
    )
    if not before and not after and numbers:
        number = rng.choice(numbers)
        before = [(number, fill(rng.choice(_STEPS[_STEP_OF_INPUT[inputs[number]]])))]
    return AddedSteps(tuple(before), after)
