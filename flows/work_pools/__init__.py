"""Makes the executor that `infra.executor` names: work pools, or one of `coral_core.execution`. Results do not depend on it."""

import sys

from coral_core import execution
from coral_core.config import RunConfig
from coral_core.execution import Executor, InlineExecutor, LocalExecutor, ledger_of
from coral_core.runs.run_folder import identify_run
from coral_core.store.store import Store
from flows.prefect_api.credentials import use_credential

__all__ = ["Executor", "InlineExecutor", "LocalExecutor", "make_executor"]


def make_executor(config: RunConfig, store: Store | None = None, run_id: str = "") -> Executor:
    """Make the executor that `config.infra` names; use it as a context manager.

    Args:
        config: Names executor, lanes and limits.
        store: Where results are published; None: the store of `config`.
        run_id: Run that submits the jobs and whose budget pays; "": the first edition of `config`.

    Example::

        with make_executor(config) as executor:
            evaluation = executor.submit_evaluation(job).result(timeout=300)

    Raises:
        ConfigError: Work pools are asked for, but no Prefect API is configured and `coral up` is not running; or a
            deployment is missing.
        ApiError: The API cannot be reached, or refuses the key.
        StoreError: The store cannot be used.
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
        WorkPoolExecutor,  # late: it imports Prefect, which the other executors do not need
    )

    return WorkPoolExecutor(config.infra, store, run_id, ledger)


def _find_api() -> None:
    """Point Prefect's client to the configured API or that of `coral up`; without one it would start its own server."""
    if "prefect" in sys.modules:
        from flows.prefect_api.prefect_client import api_in_use

        if url := api_in_use():
            use_credential(url)
            return
    from flows.installation.local_stack import use_api

    use_api()
