"""The figures of an installation in Prometheus' format, computed on scrape.

Five main metrics per pool: queue depth, job completion rate, worker utilization, result collection errors, average job
latency. Labels are bounded: pools, the latest ten evolutions, names of checks. An unknown figure (the API does not answer,
no job ended within the hour) is left out, never 0.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter, methodcaller

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coral_core.config.budget_config import LanePrices
from coral_core.errors import CoralError, StoreError
from coral_core.ledger import Ledger
from coral_core.ledger.ledger import QUEUES
from coral_core.store.store import Store
from coral_core.untrusted import visible
from flows.installation.figures import EvolutionFigures, Figures, PoolFigures, figures
from flows.monitoring.finding import Check
from flows.monitoring.installation_checks import installation_checks

KEPT_SECONDS = 5.0
"""Seconds for which scrapes get the same values."""
API_SECONDS = 4.0
"""Longest wait for one answer of the API: a scrape must end before Prometheus gives up (20 s)."""

Value = float | None
POOL: dict[str, tuple[str, Callable[[PoolFigures], Value]]] = {
    "coral_queue_depth": ("Jobs that wait for a lane (of coral-control: evolutions).", attrgetter("queued")),
    "coral_job_completion_rate": ("Jobs done within the last hour, in jobs per hour.", attrgetter("completed_last_hour")),
    "coral_worker_utilization": ("Share of a pool's lanes that work now, 0 to 1.", attrgetter("utilisation")),
    "coral_average_job_latency_seconds": (
        "Mean of waiting and work of the last hour's jobs, in seconds.",
        attrgetter("latency_seconds_mean"),
    ),
    "coral_result_collection_errors": (
        "Results that nobody has taken and jobs that were given up, together.",
        lambda pool: None if pool.uncollected is None or pool.failed is None else pool.uncollected + pool.failed,
    ),
    "coral_jobs_running": ("Jobs in lanes now.", attrgetter("running")),
    "coral_jobs_given_up": ("Jobs that failed too often and lie there (coral jobs).", attrgetter("failed")),
    "coral_failed_tries": ("Tries that failed within the last hour, in tries per hour.", attrgetter("failed_last_hour")),
    "coral_uncollected_results": ("Results in the store that no evolution has taken.", attrgetter("uncollected")),
    "coral_lanes_online": ("Lanes that beat.", attrgetter("lanes_online")),
    "coral_lanes_starting": ("Lanes that were asked for and do not beat yet.", attrgetter("lanes_starting")),
    "coral_lanes_limit": ("Lanes that the pool allows.", attrgetter("limit")),
    "coral_workers_online": ("Workers whose heartbeats come.", attrgetter("workers_online")),
    "coral_workers_silent": ("Workers that Prefect lists and that have missed heartbeats.", attrgetter("workers_silent")),
    "coral_pool_paused": ("1 when the pool starts no new flow runs, else 0.", attrgetter("paused")),
    **{
        f"coral_device_{name}": (f"Share of the last day's lane time in which the device {what}, 0 to 1.", methodcaller("device_share", state))
        for name, state, what in (("busy", "computing", "trained or generated"), ("loading", "loading", "loaded a model"), ("waiting", "waiting", "waited"))
    },
    **{
        f"coral_job_{part}_seconds_{kind}": (f"{what}, {words} of the last hour's jobs, in seconds.", attrgetter(f"{part}_seconds_{kind}"))
        for part, what in (("waiting", "Ticket to claim"), ("work", "Claim to result"))
        for kind, words in (("mean", "mean"), ("p95", "95th percentile"))
    },
}  # fmt: skip
"""Metric -> its description, and its value for a pool (label: pool)."""
EVOLUTION: dict[str, tuple[str, Callable[[EvolutionFigures], Value]]] = {
    "coral_evolution_running": ("1 while the evolution runs, else 0.", lambda found: found.status == "running"),
    "coral_evolution_paused": (
        "1 while its budget lets no new job start, else 0.",
        lambda found: found.status == "running" and bool(found.paused),
    ),
    "coral_evolution_generations_done": (
        "Generations that are done.",
        lambda found: 0 if found.generation is None else found.generation + 1,
    ),
    "coral_evolution_generations": ("Generations that it will have at most.", attrgetter("generations")),
    "coral_evolution_best_fitness": ("Fitness of the best genome so far, 0 to 1.", attrgetter("best_fitness")),
    "coral_evolution_trainings": ("Trainings done; cache hits are not counted.", attrgetter("trainings")),
    "coral_evolution_evaluations": ("Evaluations done; cache hits are not counted.", attrgetter("evaluations")),
    "coral_evolution_lane_seconds": (
        "Lane seconds spent on it; a lane holds one GPU.",
        lambda found: None if found.gpu_hours is None else 3600 * found.gpu_hours,
    ),
    "coral_evolution_money": ("Price of these lane hours, in the currency of its budget.", attrgetter("money")),
    "coral_evolution_budget_used": (
        "Largest share of a limit that is spent, 0 to 1 (0 without limits).",
        attrgetter("budget_used"),
    ),
}
"""Metric -> its description, and its value for an evolution (label: run)."""
OTHER: dict[str, str] = {
    "coral_api_up": "1 when the Prefect API answers, else 0.",
    "coral_evolutions_unreadable": "Runs whose files cannot be read (coral runs names them).",
    "coral_store_entries": "Entries of the store. Label: kind.",
    "coral_store_bytes": "Bytes of these entries.",
    "coral_lane_seconds_today": "Lane seconds spent on this store today (UTC), by all evolutions.",
    "coral_lane_seconds": "Lane seconds since the ledger began. Label: queue.",
    "coral_jobs_ended": "Jobs that ended, done or failed, since the ledger began. Label: queue.",
    "coral_check_ok": "1 when a check of `coral health` is not bad, else 0. Label: check.",
}


class InstallationCollector(Collector):
    """Computes figures and checks on scrape, and keeps them for `KEPT_SECONDS`.

    Args:
        place: Path of the store.
        runs: Directory of the runs.
        api: Returns the URL of the Prefect API, or None and the reason; called on each scrape, since it may change.
    """

    def __init__(self, place: str, runs: str, api: Callable[[], tuple[str | None, CoralError | None]]) -> None:
        self._place, self._runs, self._api = place, runs, api
        self._store = Store(place)
        self._ledger = Ledger(self._store)
        self._lock = threading.Lock()
        self._made = -KEPT_SECONDS
        self._metrics: list[Metric] = []

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            if time.monotonic() - self._made > KEPT_SECONDS:
                self._metrics = [*self._figures(), *self._account()]
                self._made = time.monotonic()
            return self._metrics

    def _figures(self) -> Iterator[Metric]:
        url, error = self._api()
        found = figures(self._place, self._runs, url, error, API_SECONDS)
        if not found.api.reachable:  # an API that did not answer is not asked again for the checks
            url, error = None, CoralError(found.api.problem, remedy=found.api.remedy)
        return metrics(found, installation_checks(self._place, self._runs, url, error, API_SECONDS))

    def _account(self) -> Iterator[Metric]:
        """Counters from the ledger, which never decrease when lanes end or evolutions restart."""
        if not self._store.is_prepared:
            return
        try:
            accounts = self._ledger.accounts()
            hours = self._ledger.spent(LanePrices(), day=time.strftime("%Y-%m-%d", time.gmtime())).gpu_hours
        except StoreError:
            return  # an account cannot be read; `coral budget` reports it
        seconds = CounterMetricFamily("coral_lane_seconds", OTHER["coral_lane_seconds"], labels=["queue"])
        jobs = CounterMetricFamily("coral_jobs_ended", OTHER["coral_jobs_ended"], labels=["queue"])
        spent = [queues for account in accounts for runs in account.spent.values() for queues in runs.values()]
        work = [queues for account in accounts for queues in account.work.values()]
        for queue in QUEUES:
            seconds.add_metric([queue], sum(queues.get(queue, 0.0) for queues in spent))
            jobs.add_metric([queue], sum(queues[queue].jobs for queues in work if queue in queues))
        yield seconds
        yield jobs
        yield _gauge("coral_lane_seconds_today", [("", 3600 * hours)])


def metrics(found: Figures, checks: Iterable[Check]) -> Iterator[Metric]:
    """All metrics but the counters of the ledger.

    Args:
        found: State of the installation.
        checks: Checks of the installation.
    """
    for name, (text, of_pool) in POOL.items():
        yield _gauge(name, [(pool.name, of_pool(pool)) for pool in found.pools], "pool", text)
    for name, (text, of_evolution) in EVOLUTION.items():
        yield _gauge(name, [(line.run_id, of_evolution(line)) for line in found.evolutions], "run", text)
    yield _gauge("coral_api_up", [("", found.api.reachable)])
    yield _gauge("coral_evolutions_unreadable", [("", len(found.unreadable))])
    if found.store.present:
        kinds = [("adapter", found.store.adapters), ("evaluation", found.store.evaluations)]
        yield _gauge("coral_store_entries", kinds, "kind")
        yield _gauge("coral_store_bytes", [("", found.store.bytes)])
    yield _gauge("coral_check_ok", [(check.name, check.state != "bad") for check in checks], "check")


def _gauge(name: str, rows: Iterable[tuple[str, Value]], label: str = "", text: str = "") -> GaugeMetricFamily:
    """A gauge with a sample for each row (value of `label`, measured value); rows of None are left out."""
    family = GaugeMetricFamily(name, text or OTHER[name], labels=[label] if label else None)
    for key, value in rows:
        if value is not None:
            family.add_metric([visible(key)] if label else [], float(value))  # folders may have any name
    return family
