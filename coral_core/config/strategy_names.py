"""Names of the search strategies: those of this package, and those that plug-ins register."""

from importlib.metadata import EntryPoint, entry_points
from typing import Annotated

from pydantic import Field

STRATEGIES = ("evolution", "random", "grid", "sobol", "tpe", "tpe-fitness", "nsga2", "fixed")
"""Strategies of this package (`coral_core.search.strategies`)."""
OPTUNA = ("tpe", "tpe-fitness", "nsga2")
"""Those of them that need the extra ``optuna``."""
STRATEGY_GROUP = "coral_x.strategies"
"""Entry points of this group are strategies of plug-ins."""

StrategyName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]


def plugin_strategies() -> dict[str, EntryPoint]:
    """Strategies of installed plug-ins by name, none of them imported yet."""
    return {entry.name: entry for entry in entry_points(group=STRATEGY_GROUP) if entry.name not in STRATEGIES}
