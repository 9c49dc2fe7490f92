"""CORAL-X: searches for the LoRA or DoRA adapter of a code model that repairs bugs best, within a budget.

The names in ``__all__`` are the whole Python API. Each is imported when it is first used, so that ``import coral_core`` is
quick and needs neither torch nor Prefect.

Example:
    >>> import coral_core
    >>> config = coral_core.RunConfig.model_validate({"search": {"generations": 3}})
    >>> config.search.generations
    3
    >>> problems = coral_core.load_problems(coral_core.RunConfig().problems)
    >>> bug = problems.fitness[0]
    >>> with coral_core.Judge() as judge:
    ...     [verdict] = judge.judge_batch([(bug, bug.reference)])
    >>> verdict.passed
    True
    >>> sorted(coral_core.__all__)[:3]
    ['EvolutionResult', 'Judge', 'Progress']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coral_core.api import EvolutionResult, compare, evolve, open_run
    from coral_core.config import RunConfig, load_config
    from coral_core.judge.judge import Judge
    from coral_core.problem_sources import load_problems
    from coral_core.runs.progress import Progress
    from coral_core.store.store import Store

__version__ = "0.2.0"
__all__ = [
    "EvolutionResult",
    "Judge",
    "Progress",
    "RunConfig",
    "Store",
    "compare",
    "evaluate_adapter",
    "evolve",
    "load_config",
    "load_problems",
    "open_run",
]

_HOMES = {
    "EvolutionResult": "coral_core.api",
    "Judge": "coral_core.judge.judge",
    "Progress": "coral_core.runs.progress",
    "RunConfig": "coral_core.config",
    "Store": "coral_core.store.store",
    "compare": "coral_core.api",
    "evaluate_adapter": "coral_core.comparison.adapter_evaluation",
    "evolve": "coral_core.api",
    "load_config": "coral_core.config",
    "load_problems": "coral_core.problem_sources",
    "open_run": "coral_core.api",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
