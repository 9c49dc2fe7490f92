"""Says when a configuration asks for more lanes than its work pool runs at a time: the rest would wait without a word."""

import logging

from prefect.client.orchestration import SyncPrefectClient

from coral_core.config import InfraConfig
from flows.prefect_api.prefect_client import API_FAILURES, retries, short_client

log = logging.getLogger("coral.dispatch")


def warn_of_limits(infra: InfraConfig) -> None:
    """Compare `infra.*.lanes` with the limits of the pools behind them; an API that does not answer is told of elsewhere."""
    both = (("training", infra.training), ("evaluation", infra.evaluation))
    pools: dict[str, dict[str, int]] = {}
    try:
        with retries(0), short_client() as client:
            for queue, asked in both:
                pool = client.read_deployment_by_name(asked.deployment).work_pool_name
                pools.setdefault(pool or "", {})[queue] = asked.lanes
            for pool, lanes in pools.items():
                _warn(client, pool, lanes)
    except API_FAILURES as error:
        log.debug("limits of pools are not known: %s", error)


def _warn(client: SyncPrefectClient, pool: str, lanes: dict[str, int]) -> None:
    limit, wanted = client.read_work_pool(pool).concurrency_limit, sum(lanes.values())
    if limit is None or wanted <= limit:
        return
    keys = " and ".join(f"infra.{queue}.lanes: {number}" for queue, number in lanes.items())
    log.warning(
        "%s, and work pool %s runs %d at a time: no more than that will work. Lower it, or raise the pool's with: prefect "
        "work-pool set-concurrency-limit %s %d (and --limit of its workers)",
        keys,
        pool,
        limit,
        pool,
        wanted,
    )
