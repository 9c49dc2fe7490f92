"""Executors run jobs. `infra.executor` selects one; the choice does not change any result.

The inline and the local executor are here; flows/work_pools has the one for work pools.
"""

from coral_core.config import RunConfig
from coral_core.errors import ConfigError
from coral_core.execution.executor import Executor
from coral_core.execution.inline import InlineExecutor
from coral_core.execution.local import LocalExecutor
from coral_core.ledger import Ledger
from coral_core.runs.run_folder import identify_run
from coral_core.store.store import Store

__all__ = ["Executor", "InlineExecutor", "LocalExecutor", "make_executor"]


def make_executor(config: RunConfig, store: Store | None = None, run_id: str = "") -> Executor:
    """The executor that `config.infra` names; use it as a context manager.

    Args:
        config: Names the executor, its lanes and limits, and the store if `store` is None.
        store: Where results go; None for the store of `config`.
        run_id: Run that the jobs and their budget belong to; empty for the first edition of `config`.

    Example::

        with make_executor(config) as executor:
            evaluation = executor.submit_evaluation(job).result(timeout=300)

    Raises:
        ConfigError: `infra.executor` is ``work-pools``, which needs Prefect.
        StoreError: the store cannot be used.
    """
    if config.infra.executor == "work-pools":
        raise no_work_pools()
    store = store or Store(config.store.path)
    store.prepare()
    run_id = run_id or identify_run(config).run_id
    kind = InlineExecutor if config.infra.executor == "inline" else LocalExecutor
    return kind(config.infra, store, run_id, ledger_of(config, store, run_id))


def ledger_of(config: RunConfig, store: Store, run_id: str) -> Ledger:
    """The ledger of a store, after the budget of a run was written to it.

    Args:
        config: Holds the budget.
        store: The store.
        run_id: The run that the budget is for.
    """
    ledger = Ledger(store)
    ledger.set_budget(run_id, config.budget)
    return ledger


def no_work_pools() -> ConfigError:
    """The error for `infra.executor: work-pools` in a process without Prefect."""
    return ConfigError(
        "infra.executor: work-pools: this Python API runs jobs on this machine",
        ("infra", "executor"),
        remedy="Use coral evolve, or flows.evolve.evolve(config) inside Prefect; or set infra.executor to local.",
    )
