"""`coral progress`: where one run stands, from its files alone; needs no server."""

import json
import time
from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coral_core.report.markdown import heavy_text, light_text, plural, share
from coral_core.runs.progress import Money, Progress, Tally, in_full, progress_of
from coral_core.runs.run_folder import find_run
from coral_core.runs.run_reader import RunReading
from flows.cli.markup import words
from flows.cli.places import AsJson, Runs, clock, store_of

EVERY_SECONDS = 2.0
COLOURS = {"running": "cyan", "paused": "yellow", "finished": "green", "stopped": "yellow", "failed": "red"}


def progress(
    run: str = "latest",
    /,
    *,
    runs: Runs = "runs",
    watch: Annotated[bool, Parameter(help="Go on showing it until the run ends.", negative=())] = False,
    as_json: AsJson = False,
) -> None:
    """Show where one run stands: generation, best genome, jobs, time, cost.

    Args:
        run: Id of the run, the beginning of one, `latest`, or the path of its folder.
    """
    folder = find_run(runs, run)
    store = store_of(folder)
    out = Console(highlight=False)
    reading = RunReading(folder, store)
    if not watch:
        reading.refresh()
        if as_json:
            print(json.dumps(in_full(reading).model_dump(mode="json"), indent=1))
        else:
            out.print(screen(progress_of(reading)))
        return
    if as_json:  # a line per look, for programs; without the long lists, which grow with the run
        for found in _follow(reading):
            print(json.dumps(found.model_dump(mode="json")), flush=True)
        return
    with Live(console=out, auto_refresh=False) as live:
        for found in _follow(reading):
            live.update(screen(found), refresh=True)


def _follow(reading: RunReading) -> Iterator[Progress]:
    """Looks until the run is over."""
    while True:
        found = progress_of(reading.refresh())
        yield found
        if found.status in ("finished", "stopped", "failed"):
            return
        time.sleep(EVERY_SECONDS)


def screen(found: Progress) -> RenderableType:
    """The progress on one screen."""
    head = Text.assemble(words(found.run_id, "bold"), "  ", (found.status, COLOURS[found.status]))
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold")
    if found.paused:
        lines.add_row("paused", words(found.paused, "yellow"))
    elif found.error:
        lines.add_row("failed", words(found.error, "red"))
    elif found.reason:
        lines.add_row("ended", words(found.reason))
    lines.add_row("", ProgressBar(total=100, completed=found.percent, width=48))
    left = f", about {clock(found.seconds_left)} left" if found.seconds_left else ""
    lines.add_row("phase", f"{found.phase}, {found.percent:.0f} % of the jobs{left}")
    lines.add_row("generation", f"{found.generations_done} finished of at most {found.generations}")
    for label, text in _best(found):
        lines.add_row(label, words(text))
    population = found.population
    lines.add_row(
        "genomes",
        f"{population.evaluated} evaluated, {population.infeasible} infeasible, "
        f"{population.unique_adapters} distinct adapters",
    )
    lines.add_row("trainings", _tally(found.trainings))
    lines.add_row("evaluations", _tally(found.evaluations))
    cache = found.cache
    lines.add_row("from the store", f"{cache.hits} of {plural(cache.asked, 'job')} ({share(cache.rate)}) this session")
    times = found.time
    lines.add_row(
        "time",
        f"{clock(times.elapsed)} in {plural(found.sessions, 'session')}: baselines {clock(times.baselines)}, "
        f"search {clock(times.searching)}, held-out {clock(times.held_out)}",
    )
    lines.add_row("cost", words(_cost(found.cost, found.status == "finished")))
    if found.last_event:
        ago = f" ({clock(max(0.0, time.time() - found.last_event.when))} ago)" if found.status == "running" else ""
        lines.add_row("last", words(found.last_event.text + ago))
    return Group(head, lines)


def _best(found: Progress) -> list[tuple[str, str]]:
    best = found.best
    if best is None:
        return [("best", "no genome is evaluated yet")]
    note = "" if best.meets_thresholds else "; below the final thresholds"
    rows = [
        ("best", f"{best.genome_id}: fitness {best.fitness:.3f}, repairs {share(best.pass_at_1)} of the fitness bugs{note}"),
        ("  its scores", ", ".join(f"{name} {value:.3f}" for name, value in sorted(best.scores.items()))),
    ]  # fmt: skip
    if best.heavy:
        rows.append(("  its genes", f"{heavy_text(best.heavy)}; {light_text(best.light)}"))
    return rows


def _tally(tally: Tally) -> str:
    waiting = "" if tally.waiting is None else f", {tally.waiting} waiting"
    return f"{tally.done} done, {tally.running} running{waiting}, {plural(tally.failed, 'failed try').replace('trys', 'tries')}"


def _cost(cost: Money, over: bool) -> str:
    """Spent and, unless the run is over, expected."""
    hours = "" if over or cost.forecast_gpu_hours is None else f" so far, {cost.forecast_gpu_hours:.3g} at the end"
    text = f"{cost.gpu_hours:.3g} GPU hours{hours}"
    if cost.money:
        money = "" if over or cost.forecast_money is None else f" so far, {cost.forecast_money:.2f} at the end"
        text += f"; {cost.money:.2f} {cost.currency}{money}"
    return text + (f"; {cost.used:.0%} of the nearest limit" if cost.used else "")
