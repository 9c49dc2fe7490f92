"""The configuration: one frozen tree is the YAML file, the flow's parameters and the form in the Prefect UI.

>>> config = parse_config("search: {population: 6}", "example.yaml", ["seed=3"])
>>> config.search.population, config.seed, config.search.generations
(6, 3, 4)
>>> parse_config("serach: {}", "example.yaml")
Traceback (most recent call last):
coral_core.errors.ConfigError: example.yaml:1: serach: unknown key (value {}). Did you mean search?
"""

from coral_core.config.budget_config import BudgetConfig
from coral_core.config.config_file import (
    Places,
    apply_overrides,
    dump_yaml,
    load_config,
    parse_config,
    read_config,
    read_frozen,
)
from coral_core.config.tree import BaseModelConfig, GenesConfig, InfraConfig, ProblemsConfig, RunConfig

__all__ = [
    "BaseModelConfig",
    "BudgetConfig",
    "GenesConfig",
    "InfraConfig",
    "Places",
    "ProblemsConfig",
    "RunConfig",
    "apply_overrides",
    "dump_yaml",
    "load_config",
    "parse_config",
    "read_config",
    "read_frozen",
]
