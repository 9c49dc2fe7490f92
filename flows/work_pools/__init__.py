"""Work pools as an executor beside those of the engine, chosen by `infra.executor`, without effect on any result."""

import sys

from coral_core import execution
from coral_core.config import RunConfig
from coral_core.execution import Executor, InlineExecutor, LocalExecutor, ledger_of
from coral_core.runs.run_folder import identify_run
from coral_core.store.store import Store
from flows.prefect_api.credentials import use_credential

__all__ = ["Executor", "InlineExecutor", "LocalExecutor", "make_executor"]


def make_executor(config: RunConfig, store: Store | None = None, run_id: str = "") -> Executor:
    """The executor that `config.infra` names; use it as a context manager.

    Args:
        config: Names executor, lanes, limits and, where `store` is left out, the store.
        run_id: Whose jobs these are, and whose budget pays; the configuration's first edition by default.

    Example::

        with make_executor(config) as executor:
            evaluation = executor.submit_evaluation(job).result(timeout=300)

    Raises:
        ConfigError: work pools are asked for, and no Prefect API is configured nor `coral up` running; or a deployment is missing.
        ApiError: the API cannot be reached, or refuses the key.
        StoreError: the store cannot be used.
    """
    if config.infra.executor != "work-pools":
        return execution.make_executor(config, store, run_id)
    store = store or Store(config.store.path)
    store.prepare()
    run_id = run_id or identify_run(config).run_id
    ledger = ledger_of(config, store, run_id)
    _find_api()
    from flows.installation.local_stack import refuse_what_lanes_refuse

    refuse_what_lanes_refuse(config, store.root)
    from flows.work_pools.pool_executor import (
        WorkPoolExecutor,  # it imports Prefect, which the other two can do without
    )

    return WorkPoolExecutor(config.infra, store, run_id, ledger)


def _find_api() -> None:
    """Let Prefect's client in this process use the configured API or that of `coral up`; else it would start a server itself."""
    if "prefect" in sys.modules:
        from flows.prefect_api.prefect_client import api_in_use

        if url := api_in_use():
            use_credential(url)
            return
    from flows.installation.local_stack import use_api

    use_api()
