"""Executors: one interface, chosen by `infra.executor`, without effect on any result."""

from coral_core.config import RunConfig
from coral_core.errors import ConfigError
from coral_core.store import Store
from flows.dispatch.base import Executor
from flows.dispatch.inline import InlineExecutor
from flows.dispatch.local import LocalExecutor

__all__ = ["Executor", "InlineExecutor", "LocalExecutor", "make_executor"]


def make_executor(config: RunConfig, store: Store) -> Executor:
    """The executor that `config.infra` names; use it as a context manager.

    Example::

        with make_executor(config, store) as executor:
            evaluation = executor.submit_evaluation(job).result(timeout=300)
    """
    if config.infra.executor == "inline":
        return InlineExecutor(config.infra, store)
    if config.infra.executor == "local":
        return LocalExecutor(config.infra, store)
    raise ConfigError(
        "infra.executor: work-pools is not available in this version. Use local (processes of this machine) or inline (for a debugger)."
    )
