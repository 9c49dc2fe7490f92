"""Looks up search strategies by name: those of this package, and those of plug-ins.

Plug-ins register a subclass of `coral_core.search.strategy.Search` as an entry point of the group ``coral_x.strategies``;
the entry point's name is what ``search.strategy`` names. The class has an attribute `version`, a text that changes when
equal results may give other genomes: a run that was begun with another version is not continued. docs/search.md has an
example, and `coral_core.search.strategy_conformance` checks a strategy.
"""

import importlib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from importlib.util import find_spec

from coral_core.config.strategy_names import OPTUNA, STRATEGIES, STRATEGY_GROUP, plugin_strategies
from coral_core.config.tree import SearchConfig
from coral_core.errors import ConfigError
from coral_core.search.strategy import Search, error_text

_MODULES = {
    "evolution": "evolution:EvolutionSearch",
    "random": "random_search:RandomSearch",
    "grid": "grid_search:GridSearch",
    "sobol": "sobol_search:SobolSearch",
    "tpe": "optuna_search:TpeSearch",
    "tpe-fitness": "optuna_search:TpeFitnessSearch",
    "nsga2": "optuna_search:Nsga2Search",
    "fixed": "fixed_genome:FixedGenome",
}
_KEY = ("search", "strategy")


def find_strategy(name: str) -> type[Search]:
    """The strategy called `name`. The class of a plug-in is a subclass of its own that names the plug-in in errors.

    Raises:
        ConfigError: there is none, it needs a package that is missing, or its plug-in cannot be used.

    Example:
        >>> find_strategy("random").__name__
        'RandomSearch'
    """
    if complaint := _complaint(name):
        raise ConfigError(complaint[0], _KEY, remedy=complaint[1])
    if name in _MODULES:
        module, _, attribute = _MODULES[name].partition(":")
        strategy: type[Search] = getattr(importlib.import_module(f"coral_core.search.{module}"), attribute)
        return strategy
    return _of_plugin(name, plugin_strategies()[name])


def check_strategy(search: SearchConfig) -> type[Search]:
    """The strategy that `search` names, if it works with its population. Loads a plug-in.

    Raises:
        ConfigError: as `find_strategy`, or the population is too small.
    """
    strategy = find_strategy(search.strategy)
    if search.population < strategy.smallest_population:
        raise ConfigError(
            f"search.population: {search.population}: too small for the strategy {search.strategy}",
            ("search", "population"),
            remedy=f"Use at least {strategy.smallest_population}.",
        )
    return strategy


def strategy_problems(search: SearchConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """The key and a message for what `check_strategy` refuses, as far as that is known without importing a plug-in."""
    try:
        if search.strategy not in plugin_strategies():
            check_strategy(search)
    except ConfigError as error:
        yield error.key, str(error)


def _complaint(name: str) -> tuple[str, str] | None:
    """Why there is no such strategy here, and the remedy."""
    plugins = plugin_strategies()
    if name not in _MODULES and name not in plugins:
        known = ", ".join([*STRATEGIES, *sorted(plugins)])
        return (
            f"search.strategy: {name}: no such strategy. Known: {known}",
            f"Name one of them; a plug-in registers in the group {STRATEGY_GROUP}.",
        )
    if name in OPTUNA and find_spec("optuna") is None:
        return (
            f"search.strategy: {name}: needs the package optuna, which is not installed",
            "pip install 'coral-x[optuna]'",
        )
    return None


def _of_plugin(name: str, entry: EntryPoint) -> type[Search]:
    plugin = f"search.strategy: {name}: its plug-in {entry.value}"
    try:
        loaded = entry.load()
        version = getattr(loaded, "version", None)
    except (Exception, SystemExit) as error:  # importing a script may raise SystemExit
        raise ConfigError(
            f"{plugin} cannot be loaded ({error_text(error)})", _KEY, remedy="Repair or remove it."
        ) from error
    if not isinstance(loaded, type) or not issubclass(loaded, Search):
        raise ConfigError(
            f"{plugin} is no strategy", _KEY, remedy="Register a subclass of coral_core.search.strategy.Search."
        )
    if not isinstance(version, str) or not version:
        raise ConfigError(f"{plugin} has no version", _KEY, remedy="Give it an attribute `version`, a text.")
    named: type[Search] = type(loaded.__name__, (loaded,), {"plugin": f"{name}: its plug-in {entry.value}"})
    return named
