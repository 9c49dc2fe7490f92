"""Problem sources: each turns a `ProblemsConfig` into a `ProblemSet`.

A source is a function ``load(config) -> ProblemSet`` that gives the same set on every
machine for the same configuration and content. Plug-ins register one as an entry point of
the group ``coral_x.problems``; the entry point's name is what ``problems.source`` names.
"""

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points

from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError
from coral_core.repair.problem import ProblemSet

GROUP = "coral_x.problems"
SOURCES: dict[str, str] = {
    "builtin": "coral_core.repair.builtin:load_builtin",
}
"""Name -> module:function, imported when first asked for."""

Source = Callable[[ProblemsConfig], ProblemSet]


def find_source(name: str) -> Source:
    """The source called `name`, ours or a plug-in's. Raises `ConfigError`."""
    if name in SOURCES:
        module, function = SOURCES[name].split(":")
        source: Source = getattr(importlib.import_module(module), function)
        return source
    plugins = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name in plugins:
        loaded: Source = plugins[name].load()
        return loaded
    known = ", ".join([*SOURCES, *sorted(plugins)])
    raise ConfigError(
        f"problems.source: {name}: no such source. Known: {known}. A plug-in registers in the group {GROUP}."
    )


def load_problems(config: ProblemsConfig) -> ProblemSet:
    """The problem set that `config` names. Raises `ConfigError` for a source or content that cannot be used."""
    return find_source(config.source)(config)
