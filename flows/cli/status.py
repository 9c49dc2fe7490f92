"""`coral status`: pools, lanes, jobs, store and evolutions on one screen."""

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from coral_core.durations import clock
from flows.cli.markup import STATE_COLOURS, print_json, table, words
from flows.cli.places import AsJson, Runs, StorePath, size

if TYPE_CHECKING:
    from flows.installation.figures import EvolutionFigures, Figures, PoolFigures

EVERY_SECONDS = 2.0


def status(
    *,
    runs: Runs = "runs",
    store: StorePath = None,
    watch: Annotated[bool, Parameter(help="Look again every 2 seconds.", negative=())] = False,
    as_json: AsJson = False,
) -> None:
    """Show the state of pools, lanes and evolutions.

    Without a Prefect API it shows only the state of the store. Exits 6 when a configured API does not answer, 2 when the
    settings that name it cannot be used.
    """
    out = Console(highlight=False)
    if watch and not as_json:
        with Live(console=out, screen=out.is_terminal, auto_refresh=False) as live:
            while True:
                live.update(screen(_figures(store, runs)), refresh=True)
                time.sleep(EVERY_SECONDS)
    found = _figures(store, runs)
    if as_json:
        print_json(found)
    else:
        out.print(screen(found))
    if found.api.url is None:
        from flows.installation.local_stack import NoApiError, known_api

        with contextlib.suppress(NoApiError):
            known_api()  # raises where settings name an API and cannot be used
    elif not found.api.reachable:
        from flows.prefect_api.api_errors import ApiError

        raise ApiError(found.api.problem, remedy=found.api.remedy)


def _figures(store: str | None, runs: str) -> "Figures":
    from flows.cli.health import find_api
    from flows.installation.figures import figures

    url, error = find_api()
    return figures(store or f"{runs}/store", runs, url, error)


def screen(found: "Figures") -> Group:
    """Render the state of an installation, at most 80 columns wide unless names are long."""
    return Group(*_parts(found))


def _parts(found: "Figures") -> Iterator[RenderableType]:
    from coral_core.report.wording import device_text

    if not found.api.reachable:
        yield words(
            "the Prefect API cannot be used" if found.api.url else f"{found.api.problem}. {found.api.remedy}", "yellow"
        )
        yield Text("what the store's files tell:\n", "dim")
    columns = ("<pool", "queued", "running", "lanes", "starting", "<workers", "in use")
    yield table(columns, map(_now, found.pools))
    hours = [_last_hour(pool) for pool in found.pools if pool.completed_last_hour is not None]
    yield Text()
    yield table(("<last hour", "done", "tries failed", "given up", "waiting (95%)", "work (95%)"), hours)
    for pool in found.pools:
        if pool.device is not None and pool.device.seconds:
            yield words(f"{pool.name}, lanes of the last day: device {device_text(pool.device)}")
    yield Text()
    for line in dict.fromkeys(f"{each.text}. {each.todo}" if each.todo else each.text for each in found.obstacles):
        yield words(line, "yellow")
    yield _store(found)
    yield Text()
    yield _evolutions(found.evolutions)
    for run in found.evolutions:
        if run.paused and run.status == "running":
            yield words(f"{run.run_id} is paused: {run.paused}", "magenta")
        if run.error:
            yield words(f"{run.run_id} failed: {run.error}", "red")
    for broken in found.unreadable:
        yield words(f"{broken.run_id}: cannot be read: {broken.problem}", "yellow")


def _now(pool: "PoolFigures") -> list[object]:
    """Cells of the table of the present state."""
    limit = "?" if pool.workers_online is None else "∞" if pool.limit is None else str(pool.limit)
    state = Text(" (paused)", "yellow") if pool.paused else Text()
    workers = words("–" if pool.workers_online is None else pool.workers_online)
    if not pool.present:
        state = Text(" (missing: coral setup)", "red")
    elif pool.workers_online == 0 and not pool.paused:
        workers.stylize("red")
    if pool.workers_silent:
        workers += Text(f" ({pool.workers_silent} silent)", "yellow")
    lanes = f"{'–' if pool.lanes_online is None else pool.lanes_online}/{limit}"
    used = None if pool.utilisation is None else f"{pool.utilisation:.0%}"
    return [words(pool.name) + state, pool.queued, pool.running, lanes, pool.lanes_starting, workers, used]


def _last_hour(pool: "PoolFigures") -> list[object]:
    """Cells of the table of the last hour."""
    return [
        pool.name,
        pool.completed_last_hour,
        pool.failed_last_hour,
        Text(str(pool.failed), "red" if pool.failed else ""),
        _spread(pool.waiting_seconds_mean, pool.waiting_seconds_p95),
        _spread(pool.work_seconds_mean, pool.work_seconds_p95),
    ]


def _spread(mean: float | None, p95: float | None) -> str | None:
    """Mean, and the 95th percentile in brackets."""
    return None if mean is None or p95 is None else f"{_seconds(mean)} ({_seconds(p95)})"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s" if value < 60 else clock(value)


def _store(found: "Figures") -> Text:
    store = found.store
    if not store.present:
        return words(f"store {store.path}: not there. Give the right one with --store or --runs.", "yellow")
    about = "" if store.bytes_exact else "about "
    left = sum(pool.uncollected or 0 for pool in found.pools)
    more = f"; {left} results that nobody took: coral health" if left else ""
    return words(
        f"store {store.path}: {store.adapters} adapters, {store.evaluations} evaluations, {about}{size(store.bytes)}{more}"
    )


def _evolutions(runs: "tuple[EvolutionFigures, ...]") -> RenderableType:
    rows = [
        (
            run.run_id,
            Text("paused", "magenta") if run.paused and run.status == "running" else Text(run.status, STATE_COLOURS[run.status]),
            f"{0 if run.generation is None else run.generation + 1}/{run.generations}",
            None if run.best_fitness is None else f"{run.best_fitness:.3f}",
            None if run.gpu_hours is None else f"{run.gpu_hours:.2f}",
            None if run.money is None else f"{run.money:.2f} {run.currency}",
        )
        for run in runs
    ]  # fmt: skip
    return table(("<evolution", "<state", "gen.", "best", "GPU hours", "cost"), rows) if rows else Text("no evolutions here", "dim")  # fmt: skip
