"""`coral budget`: limits and spending of an evolution, and whether its next job may start."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from coral_core.ledger import Ledger, Spent, Standing
from coral_core.runs.run_folder import find_run
from flows.cli.markup import echo, marked, print_json, table, words
from flows.cli.places import AsJson, Runs, store_of


def budget(run: str = "latest", /, *, runs: Runs = "runs", as_json: AsJson = False) -> None:
    """Show limits, spending and forecast of RUN, and the cost of its store by day.

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
    named = {name or "nobody": spent for name, spent in evolutions.items()}
    if as_json:
        print_json(standing.model_dump(mode="json") | {"days": days, "evolutions": named})
        return
    forecast, currency = standing.forecast, standing.currency
    echo(words(folder.run_id, "bold"), _limits(standing), "")
    echo(words(f"prices    {price.training:g} {currency} an hour of a training lane, {price.evaluation:g} of an evaluation lane"))  # fmt: skip
    echo(words(f"in flight {forecast.gpu_hours:.3f} GPU hours, {forecast.money:.2f} {currency} still expected"))
    _print_state(standing)
    echo("", _sums("day (UTC)", days, currency), "", _sums("evolution", named, currency))


def _print_state(standing: Standing) -> None:
    closed = [("held", standing.closed)] if standing.closed else []
    closed += [(f"no new {queue} job", closure) for queue, closure in standing.closed_queues.items()]
    if not closed:
        echo("state     [green]open[/]")
        return
    state, closure = closed[0]
    echo(f"state     [yellow]{state}:[/] {marked(closure)}", words(f"          {closure.remedy(standing.run_id)}"))


def _limits(standing: Standing) -> Table:
    limits, today = standing.limits, f"store today ({standing.day})"
    rows = [
        ("this evolution, GPU hours", standing.spent.gpu_hours, limits.evolution.gpu_hours),
        (f"this evolution, {standing.currency}", standing.spent.money, limits.evolution.money),
        (f"{today}, GPU hours", standing.today.gpu_hours, limits.day.gpu_hours),
        (f"{today}, {standing.currency}", standing.today.money, limits.day.money),
    ]
    return table(("<", "spent", "limit", "used"), [_against(*row) for row in rows])


def _against(name: str, spent: float, limit: float | None) -> list[object]:
    if limit is None:
        return [name, f"{spent:.3f}", "none", ""]
    share = spent / limit if limit else 1.0
    colour = "red" if share >= 1 else "yellow" if share >= 0.8 else "green"
    return [name, f"{spent:.3f}", f"{limit:g}", Text(f"{share:.0%}", colour)]


def _sums(title: str, sums: Mapping[str, Spent], currency: str) -> Table:
    rows: list[list[Any]] = [
        [name, *(f"{hours:.3f}" for hours in (s.training_hours, s.evaluation_hours, s.gpu_hours)), f"{s.money:.2f}"]
        for name, s in sums.items()
    ]
    return table((f"<{title}", "training h", "evaluation h", "GPU hours", currency), rows)
