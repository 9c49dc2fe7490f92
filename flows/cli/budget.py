"""`coral budget`: what an evolution may spend, what was spent, and whether the next job may start."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from coral_core.config.budget_config import Limits
from coral_core.ledger import Ledger, Spent, Standing
from coral_core.runs.run_folder import find_run
from flows.cli.markup import marked, words
from flows.cli.places import AsJson, Runs, store_of


def budget(run: str = "latest", /, *, runs: Runs = "runs", as_json: AsJson = False) -> None:
    """Show limits, spending and forecast of RUN, and what its store cost day by day.

    Args:
        run: Id of a run, the beginning of one, `latest`, or the path of its folder.
        runs: Directory that holds the runs.
        as_json: Print JSON (keys: docs/json.md).
    """
    folder = find_run(runs, run)
    ledger = Ledger(store_of(folder))
    standing = ledger.standing(folder.run_id)
    price = standing.limits.price
    days, evolutions = ledger.days(price), ledger.evolutions(price)
    facts: dict[str, Any] = standing.model_dump(mode="json") | {
        "days": {day: spent.model_dump() for day, spent in days.items()},
        "evolutions": {name or "nobody": spent.model_dump() for name, spent in evolutions.items()},
    }
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    out = Console(highlight=False)
    out.print(words(folder.run_id, "bold"))
    out.print(_limits(standing))
    money = (
        f"{price.training:g} {standing.currency} an hour of a training lane, {price.evaluation:g} of an evaluation lane"
    )
    out.print(f"\nprices    {money}", markup=False)
    forecast = standing.forecast
    out.print(
        f"in flight {forecast.gpu_hours:.3f} GPU hours, {forecast.money:.2f} {standing.currency} still expected",
        markup=False,
    )
    _state(out, standing)
    out.print()
    out.print(_sums("day (UTC)", days, standing.currency))
    out.print()
    out.print(_sums("evolution", {name or "nobody": spent for name, spent in evolutions.items()}, standing.currency))


def _state(out: Console, standing: Standing) -> None:
    closure, state = standing.closed, "held"
    if closure is None and standing.closed_queues:
        queue, closure = next(iter(standing.closed_queues.items()))
        state = f"no new {queue} job"
    if closure is None:
        out.print("state     [green]open[/]")
        return
    out.print(f"state     [yellow]{state}:[/] {marked(str(closure))}")
    out.print(words(f"          {closure.remedy(standing.run_id)}"))


def _limits(standing: Standing) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "spent", "limit", "used"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    rows: list[tuple[str, Limits, Spent]] = [
        ("this evolution", standing.limits.evolution, standing.spent),
        (f"store today ({standing.day})", standing.limits.day, standing.today),
    ]
    for name, limits, spent in rows:
        table.add_row(f"{name}, GPU hours", f"{spent.gpu_hours:.3f}", *_against(limits.gpu_hours, spent.gpu_hours))
        table.add_row(words(f"{name}, {standing.currency}"), f"{spent.money:.2f}", *_against(limits.money, spent.money))
    return table


def _against(limit: float | None, spent: float) -> tuple[str, str]:
    if limit is None:
        return "none", ""
    share = spent / limit if limit else 1.0
    colour = "red" if share >= 1 else "yellow" if share >= 0.8 else "green"
    return f"{limit:g}", f"[{colour}]{share:.0%}[/]"


def _sums(title: str, sums: dict[str, Spent], currency: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(title, no_wrap=True)
    for name in ("training h", "evaluation h", "GPU hours", currency):
        table.add_column(name, justify="right")
    for name, spent in sums.items():
        hours = (f"{value:.3f}" for value in (spent.training_hours, spent.evaluation_hours, spent.gpu_hours))
        table.add_row(words(name), *hours, f"{spent.money:.2f}")
    return table
