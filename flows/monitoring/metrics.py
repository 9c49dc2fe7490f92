"""The figures of an installation in Prometheus' format, computed when they are asked for.

The seed's five metrics are there by name: queue depth, job completion rate, worker utilization, result collection errors,
average job latency. Labels are bounded: pools, the latest ten evolutions, names of checks. A figure that is not known
(the API is away, no job ended within the hour) is left out, never 0.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coral_core.config.budget_config import LanePrices
from coral_core.errors import CoralError, StoreError
from coral_core.ledger import Ledger
from coral_core.ledger.accounts import QUEUES
from coral_core.store.store import Store
from coral_core.untrusted import visible
from flows.installation.figures import EvolutionFigures, Figures, PoolFigures, figures
from flows.monitoring.finding import Check
from flows.monitoring.installation_checks import installation_checks

FIGURES_SECONDS = 5.0
CHECKS_SECONDS = 30.0
API_SECONDS = 4.0
"""An API that has not answered for so long is down: a scrape must answer before Prometheus gives it up (20 s)."""

Value = TypeVar("Value")
Row = tuple[str, str]
POOL: dict[str, Row] = {
    "coral_queue_depth": ("queued", "Jobs that wait for a lane (of coral-control: evolutions)."),
    "coral_job_completion_rate": ("completed_last_hour", "Jobs done within the last hour, in jobs per hour."),
    "coral_worker_utilization": ("utilisation", "Share of a pool's lanes that work now, 0 to 1."),
    "coral_average_job_latency_seconds": (
        "latency_seconds_mean",
        "Mean of waiting and work of the last hour's jobs, in seconds.",
    ),
    "coral_jobs_running": ("running", "Jobs in lanes now."),
    "coral_jobs_given_up": ("failed", "Jobs that failed too often and lie there (coral jobs)."),
    "coral_failed_tries": ("failed_last_hour", "Tries that failed within the last hour, in tries per hour."),
    "coral_uncollected_results": ("uncollected", "Results that lie in the store and no evolution has taken."),
    "coral_lanes_online": ("lanes_online", "Lanes that beat."),
    "coral_lanes_starting": ("lanes_starting", "Lanes that were asked for and do not beat yet."),
    "coral_lanes_limit": ("limit", "Lanes that the pool allows."),
    "coral_workers_online": ("workers_online", "Workers whose heartbeats come."),
    "coral_workers_silent": ("workers_silent", "Workers that Prefect lists and that have missed heartbeats."),
    "coral_job_waiting_seconds_mean": (
        "waiting_seconds_mean",
        "Ticket to claim, mean of the last hour's jobs, in seconds.",
    ),
    "coral_job_waiting_seconds_p95": ("waiting_seconds_p95", "Ticket to claim, 95th percentile, in seconds."),
    "coral_job_work_seconds_mean": ("work_seconds_mean", "Claim to result, mean of the last hour's jobs, in seconds."),
    "coral_job_work_seconds_p95": ("work_seconds_p95", "Claim to result, 95th percentile, in seconds."),
}
"""Metric -> field of `PoolFigures`, and what it is. Label: pool."""
EVOLUTION: dict[str, Row] = {
    "coral_evolution_generations_done": ("generation", "Generations that are done."),
    "coral_evolution_generations": ("generations", "Generations that it will have at most."),
    "coral_evolution_best_fitness": ("best_fitness", "Fitness of the best genome so far, 0 to 1."),
    "coral_evolution_trainings": ("trainings", "Trainings done; cache hits are not counted."),
    "coral_evolution_evaluations": ("evaluations", "Evaluations done; cache hits are not counted."),
    "coral_evolution_lane_seconds": ("gpu_hours", "Lane seconds spent on it; a lane holds one GPU."),
    "coral_evolution_money": ("money", "Price of these lane hours, in the currency of its budget."),
    "coral_evolution_budget_used": (
        "budget_used",
        "Largest share of a limit that is spent, 0 to 1 (0 without limits).",
    ),
}
"""Metric -> field of `EvolutionFigures`, and what it is. Label: run."""
OTHER: dict[str, str] = {
    "coral_api_up": "1 when the Prefect API answers, else 0.",
    "coral_pool_paused": "1 when the pool starts no new flow runs, else 0. Label: pool.",
    "coral_result_collection_errors": "Results that nobody has taken and jobs that were given up, together. Label: pool.",
    "coral_evolution_running": "1 while the evolution runs, else 0. Label: run.",
    "coral_evolution_paused": "1 while its budget lets no new job start, else 0. Label: run.",
    "coral_evolutions_unreadable": "Runs whose files cannot be read (coral runs names them).",
    "coral_store_entries": "Entries of the store. Label: kind.",
    "coral_store_bytes": "Bytes of these entries.",
    "coral_lane_seconds_today": "Lane seconds spent on this store today (UTC), by all evolutions.",
    "coral_lane_seconds": "Lane seconds since the ledger began. Label: queue.",
    "coral_jobs_ended": "Jobs that ended, done or failed, since the ledger began. Label: queue.",
    "coral_check_ok": "1 when a check of `coral health` is not bad, else 0. Label: check.",
    "coral_scrape_seconds": "Seconds that it took to compute the figures (they are kept for 5 s, checks for 30 s).",
}


class Figured(Collector):
    """Computes figures and checks on scrape; keeps them for a moment.

    Args:
        place: The store.
        runs: Directory of the runs.
        api: Tells the Prefect API, or None and why there is none; asked each time, since it may come and go.
    """

    def __init__(self, place: str, runs: str, api: Callable[[], tuple[str | None, CoralError | None]]) -> None:
        self._store = Store(place)
        self._ledger = Ledger(self._store)
        self._lock = threading.Lock()

        def found() -> Figures:
            url, error = api()
            return figures(place, runs, url, str(error or ""), API_SECONDS)

        self._figures = _Kept(FIGURES_SECONDS, found)

        def checks() -> list[Check]:
            seen = self._figures.value().api  # one that did not answer is not asked again for the checks
            error = None if seen.reachable else CoralError(seen.problem)
            return list(installation_checks(place, runs, seen.url if seen.reachable else None, error, API_SECONDS))

        self._checks = _Kept(CHECKS_SECONDS, checks)

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            started = time.perf_counter()
            found, checks = self._figures.value(), self._checks.value()
            yield from metrics(found, checks)
            yield from self._account()
            yield _gauge("coral_scrape_seconds", [({}, time.perf_counter() - started)])

    def _account(self) -> Iterator[Metric]:
        """From the ledger: a counter that only grows, whatever lanes end or evolutions restart."""
        if not self._store.is_prepared:
            return
        try:
            accounts = self._ledger.accounts()
            hours = self._ledger.spent(LanePrices(), day=time.strftime("%Y-%m-%d", time.gmtime())).gpu_hours
        except StoreError:
            return  # one account cannot be read: `coral budget` and the paused evolutions say so
        seconds = CounterMetricFamily("coral_lane_seconds", OTHER["coral_lane_seconds"], labels=["queue"])
        jobs = CounterMetricFamily("coral_jobs_ended", OTHER["coral_jobs_ended"], labels=["queue"])
        spent = [queues for account in accounts for runs in account.spent.values() for queues in runs.values()]
        work = [queues for account in accounts for queues in account.work.values()]
        for queue in QUEUES:
            seconds.add_metric([queue], sum(queues.get(queue, 0.0) for queues in spent))
            jobs.add_metric([queue], sum(queues[queue].jobs for queues in work if queue in queues))
        yield seconds
        yield jobs
        yield _gauge("coral_lane_seconds_today", [({}, 3600 * hours)])


class _Kept(Generic[Value]):
    """A value that is made anew when it is older than `seconds`."""

    def __init__(self, seconds: float, make: Callable[[], Value]) -> None:
        self._seconds = seconds
        self._make = make
        self._made = 0.0
        self._value: Value | None = None

    def value(self) -> Value:
        if self._value is None or time.monotonic() - self._made > self._seconds:
            self._value, self._made = self._make(), time.monotonic()
        return self._value


def metrics(found: Figures, checks: Iterable[Check]) -> Iterator[Metric]:
    """Everything but the ledger's counters."""
    yield _gauge("coral_api_up", [({}, float(found.api.reachable))])
    for name, (attribute, text) in POOL.items():
        yield _gauge(name, [({"pool": p.name}, getattr(p, attribute)) for p in found.pools], text)
    yield _gauge("coral_pool_paused", [({"pool": pool.name}, pool.paused) for pool in found.pools])
    yield _gauge("coral_result_collection_errors", [({"pool": pool.name}, _errors(pool)) for pool in found.pools])
    for name, (attribute, text) in EVOLUTION.items():
        yield _gauge(name, [({"run": e.run_id}, _of(e, attribute)) for e in found.evolutions], text)
    running = [({"run": e.run_id}, float(e.status == "running")) for e in found.evolutions]
    paused = [({"run": e.run_id}, float(e.status == "running" and bool(e.paused))) for e in found.evolutions]
    yield _gauge("coral_evolution_running", running)
    yield _gauge("coral_evolution_paused", paused)
    yield _gauge("coral_evolutions_unreadable", [({}, len(found.unreadable))])
    store = found.store
    kinds = {"adapter": store.adapters, "evaluation": store.evaluations} if store.present else {}
    yield _gauge("coral_store_entries", [({"kind": kind}, count) for kind, count in kinds.items()])
    yield _gauge("coral_store_bytes", [({}, store.bytes if store.present else None)])
    yield _gauge("coral_check_ok", [({"check": check.name}, float(check.state != "bad")) for check in checks])


def _errors(pool: PoolFigures) -> int | None:
    if pool.uncollected is None or pool.failed is None:
        return None
    return pool.uncollected + pool.failed


def _of(line: EvolutionFigures, attribute: str) -> float | None:
    value: float | None = getattr(line, attribute)
    if attribute == "generation":
        return 0 if value is None else value + 1
    if attribute == "gpu_hours" and value is not None:
        return 3600 * value
    return value


def _gauge(name: str, rows: Iterable[tuple[dict[str, str], float | None]], text: str = "") -> GaugeMetricFamily:
    """A gauge of the rows that are known."""
    known = [(labels, value) for labels, value in rows if value is not None]
    family = GaugeMetricFamily(name, text or OTHER[name], labels=sorted(known[0][0]) if known and known[0][0] else None)
    for labels, value in known:
        family.add_metric([visible(labels[key]) for key in sorted(labels)], float(value))  # folders may have any name
    return family
