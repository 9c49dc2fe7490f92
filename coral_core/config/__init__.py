"""One frozen tree = the YAML file = the flow's parameters = the form in the Prefect UI."""

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
from coral_core.config.tree import (
    AutomatonConfig,
    BaseModelConfig,
    GenerationConfig,
    GenesConfig,
    InfraConfig,
    ProblemsConfig,
    RunConfig,
    ScoringConfig,
    SearchConfig,
    StoreConfig,
    TrainingConfig,
)

__all__ = [
    "AutomatonConfig",
    "BaseModelConfig",
    "BudgetConfig",
    "GenerationConfig",
    "GenesConfig",
    "InfraConfig",
    "Places",
    "ProblemsConfig",
    "RunConfig",
    "ScoringConfig",
    "SearchConfig",
    "StoreConfig",
    "TrainingConfig",
    "apply_overrides",
    "dump_yaml",
    "load_config",
    "parse_config",
    "read_config",
    "read_frozen",
]
