"""A plug-in with an objective and a problem source. `pyproject.toml` registers both as entry points."""

from coral_core.config import ProblemsConfig
from coral_core.problems import Case, Problem, ProblemSet
from coral_core.scoring.judged import Judged


def short_patches(judged: Judged) -> float:
    """Share of patches below 400 characters, in [0, 1]; 1 without patches."""
    texts = [text for samples in judged.patches for text in samples]
    return sum(len(text) < 400 for text in texts) / len(texts) if texts else 1.0


short_patches.version = "1"  # type: ignore[attr-defined]  # part of the evaluation digest: raise it when the numbers change


def load_arithmetic(config: ProblemsConfig) -> ProblemSet:
    """Functions that add, subtract or multiply by a constant, with a wrong constant.

    The same configuration gives the same set on every machine. Without pairs, adapters train on built-in mutants.
    """
    made = [
        _problem(operator, constant)
        for constant in range(10, 10 * (config.fitness + config.held_out), 10)
        for operator in ("+", "-", "*")
    ]
    return ProblemSet(
        source="arithmetic",
        pairs=(),
        fitness=tuple(made[: config.fitness]),
        monitor=(),
        held_out=tuple(made[config.fitness : config.fitness + config.held_out]),
    )


def _problem(operator: str, constant: int) -> Problem:
    name = f"{ {'+': 'add', '-': 'subtract', '*': 'multiply'}[operator] }_{constant}"
    calculate = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[operator]
    text = f"def {name}(n):\n    return n {operator} {{}}"
    return Problem(
        problem_id=f"arithmetic/{name}",
        source="arithmetic",
        entry_point=name,
        bug_class="constant",
        buggy=text.format(constant + 1),
        reference=text.format(constant),
        cases=tuple(Case(arguments=(n,), value=calculate(n, constant)) for n in (-4, 0, 1, 7)),
    )
