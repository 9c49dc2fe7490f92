"""`coral status`: pools, lanes, jobs, store and evolutions on one screen."""

import contextlib
import json
import time
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flows.cli.markup import marked, words
from flows.cli.places import AsJson, Runs, clock, size

if TYPE_CHECKING:
    from flows.installation.figures import EvolutionFigures, Figures, PoolFigures

WIDE = 118
"""Columns from which a pool fits on one line."""
LOOK_SECONDS = 2.0
COLOURS = {"finished": "green", "running": "cyan", "stopped": "yellow", "failed": "red"}


def status(
    *,
    runs: Runs = "runs",
    store: Annotated[str | None, Parameter(help="The store; RUNS/store by default.")] = None,
    watch: Annotated[bool, Parameter(help="Look again every 2 seconds.", negative=())] = False,
    as_json: AsJson = False,
) -> None:
    """Show where pools, lanes and evolutions stand.

    Without a Prefect API it shows what the store's files tell; it exits 6 when one is configured and
    does not answer, 2 when the settings that name one cannot be used.
    """
    out = Console(highlight=False)
    if not watch or as_json:
        found = look(store, runs)
        if as_json:
            print(json.dumps(found.model_dump(mode="json"), indent=1))
        else:
            out.print(Screen(found))
        if found.api.url is not None and not found.api.reachable:
            from flows.prefect_api.api_errors import ApiError

            raise ApiError(found.api.problem, remedy=found.api.remedy)
        if found.api.url is None:
            from flows.installation.local_stack import NoApiError, known_api

            with contextlib.suppress(NoApiError):
                known_api()  # one is meant, and cannot be used
        return
    with Live(console=out, screen=out.is_terminal, auto_refresh=False) as live:
        while True:
            live.update(Screen(look(store, runs), time.strftime("%H:%M:%S")), refresh=True)
            time.sleep(LOOK_SECONDS)


def look(store: str | None, runs: str) -> "Figures":
    """Everything at this moment."""
    from flows.cli.health import find_api
    from flows.installation.figures import figures

    url, error = find_api()
    return figures(store or f"{runs}/store", runs, url, error)


class Screen:
    """Renders `Figures` for the width that there is."""

    def __init__(self, figures: "Figures", when: str = "") -> None:
        self._figures = figures
        self._when = when

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        found = self._figures
        wide = options.max_width >= WIDE
        parts: list[RenderableType] = []
        if self._when:
            parts.append(Text(f"coral status at {self._when}; Ctrl-C ends it", style="dim"))
        if not found.api.reachable:
            problem = (
                f"{found.api.problem}. {found.api.remedy}"
                if found.api.url is None or self._when
                else "the Prefect API cannot be used"
            )
            parts += [words(problem, "yellow"), Text("what the store's files tell:", style="dim"), Text("")]
        parts += [_pools(found.pools), Text("")] if not wide else [_pools_and_jobs(found.pools), Text("")]
        if not wide:
            parts += [_jobs(found.pools), Text("")]
        yield Group(
            *parts,
            *_obstacles(found),
            _store(found),
            Text(""),
            _evolutions(found.evolutions, wide),
            *_unreadable(found),
        )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table


def _pools(pools: "tuple[PoolFigures, ...]") -> Table:
    table = _table("pool", "queued", "running", "lanes", "starting", "workers", "in use")
    for pool in pools:
        table.add_row(_name(pool), *_now(pool))
    return table


def _jobs(pools: "tuple[PoolFigures, ...]") -> Table:
    table = _table("last hour", "done", "tries failed", "given up", "waiting (95%)", "work (95%)")
    for pool in pools:
        if pool.completed_last_hour is not None:
            table.add_row(pool.name, *_hour(pool))
    return table


def _pools_and_jobs(pools: "tuple[PoolFigures, ...]") -> Table:
    table = _table(
        *("pool", "queued", "running", "lanes", "starting", "workers", "in use"),
        *("done/h", "failed/h", "given up", "waiting (95%)", "work (95%)"),
    )
    for pool in pools:
        table.add_row(_name(pool), *_now(pool), *_hour(pool))
    return table


def _name(pool: "PoolFigures") -> str:
    if not pool.present:
        return f"{marked(pool.name)} [red](missing: coral setup)[/]"
    return f"{marked(pool.name)} [yellow](paused)[/]" if pool.paused else marked(pool.name)


def _now(pool: "PoolFigures") -> list[str]:
    """Cells about this moment."""
    limit = "?" if pool.workers_online is None else "∞" if pool.limit is None else str(pool.limit)
    workers = _number(pool.workers_online)
    if pool.workers_online == 0 and pool.present and not pool.paused:
        workers = "[red]0[/]"
    elif pool.workers_silent and pool.workers_online:
        workers = f"{pool.workers_online} [yellow]({pool.workers_silent} silent)[/]"
    return [
        _number(pool.queued),
        _number(pool.running),
        f"{_number(pool.lanes_online)}/{limit}",
        _number(pool.lanes_starting),
        workers,
        "–" if pool.utilisation is None else f"{pool.utilisation:.0%}",
    ]


def _hour(pool: "PoolFigures") -> list[str]:
    """Cells about the last hour."""
    failed = _number(pool.failed)
    return [
        _number(pool.completed_last_hour),
        _number(pool.failed_last_hour),
        f"[red]{failed}[/]" if pool.failed else failed,
        _spread(pool.waiting_seconds_mean, pool.waiting_seconds_p95),
        _spread(pool.work_seconds_mean, pool.work_seconds_p95),
    ]


def _number(value: int | None) -> str:
    return "–" if value is None else str(value)


def _spread(mean: float | None, p95: float | None) -> str:
    """Mean, and the 95th percentile in brackets."""
    return "–" if mean is None or p95 is None else f"{_seconds(mean)} ({_seconds(p95)})"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s" if value < 60 else clock(value)


def _store(found: "Figures") -> Text:
    store = found.store
    if not store.present:
        return words(f"store {store.path}: not there. Give the right one with --store or --runs.", "yellow")
    about = "" if store.bytes_exact else "about "
    holds = f"{store.adapters} adapters, {store.evaluations} evaluations, {about}{size(store.bytes)}"
    left = sum(pool.uncollected or 0 for pool in found.pools)
    return words(f"store {store.path}: {holds}" + (f"; {left} results that nobody took: coral health" if left else ""))


def _obstacles(found: "Figures") -> list[Text]:
    lines = dict.fromkeys(f"{each.text}. {each.todo}" if each.todo else each.text for each in found.obstacles)
    return [*(words(line, "yellow") for line in lines), Text("")] if lines else []


def _unreadable(found: "Figures") -> list[Text]:
    return [words(f"{run.run_id}: cannot be read: {run.problem}", "yellow") for run in found.unreadable]


def _evolutions(lines: "tuple[EvolutionFigures, ...]", wide: bool) -> RenderableType:
    if not lines:
        return Text("no evolutions here", style="dim")
    more = ("champion", "jobs") if wide else ()
    table = _table("evolution", "", "generation", "best", *more, "GPU hours", "cost")
    table.columns[1].justify = "left"
    notes = []
    for line in lines:
        done = 0 if line.generation is None else line.generation + 1
        paused = bool(line.paused) and line.status == "running"
        state = "[magenta]paused[/]" if paused else f"[{COLOURS[line.status]}]{line.status}[/]"
        table.add_row(
            words(line.run_id),
            state,
            f"{done}/{line.generations}",
            "–" if line.best_fitness is None else f"{line.best_fitness:.3f}",
            *((line.champion or "–", f"{line.trainings}+{line.evaluations}") if wide else ()),
            "–" if line.gpu_hours is None else f"{line.gpu_hours:.2f}",
            "–" if line.money is None else marked(f"{line.money:.2f} {line.currency}"),
        )
        if paused:
            notes.append(words(f"{line.run_id} is paused: {line.paused}", "magenta"))
        if line.error:
            notes.append(words(f"{line.run_id} failed: {line.error}", "red"))
    return Group(table, *notes)
