"""`coral health`: checks an installation, for users and, by its exit code, for monitors."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from flows.cli.markup import echo, print_json, words
from flows.cli.places import AsJson, Runs, StorePath

if TYPE_CHECKING:
    from coral_core.errors import ConfigError
    from flows.monitoring.finding import Check

MARKS = {"ok": "green", "note": "yellow", "bad": "bold red"}
COLOURS = {"ok": "", "note": "yellow", "bad": "red"}


def health(
    *,
    runs: Runs = "runs",
    store: StorePath = None,
    as_json: AsJson = False,
) -> None:
    """Check the installation: API, pools, workers, store, queues, lanes, results, progress. Exits 0 when well, else 1."""
    from flows.monitoring.finding import healthy, summary
    from flows.monitoring.installation_checks import installation_checks

    started = time.perf_counter()
    url, error = find_api()
    checks = collect(installation_checks(store or f"{runs}/store", runs, url, error), show=not as_json)
    well = healthy(checks)
    if as_json:
        seconds = round(time.perf_counter() - started, 3)
        print_json({"schema_version": 1, "healthy": well, "api": url, "seconds": seconds, "checks": checks})
    else:
        echo(words(summary(checks, "the installation"), "" if well else "red"))
    if not well:
        raise SystemExit(1)


def find_api() -> "tuple[str | None, ConfigError | None]":
    """The API in use now, or None and the reason. Read at each call, since `coral up` may run later, or on another port."""
    from coral_core.errors import ConfigError
    from flows.installation.local_stack import known_api

    try:
        return known_api(), None
    except ConfigError as error:
        return None, error


def collect(checks: "Iterable[Check]", show: bool) -> "list[Check]":
    """Run all checks.

    Args:
        checks: The checks, which run when they are iterated over.
        show: Print each as soon as it has run.

    Returns:
        All of them.
    """
    found = []
    for check in checks:
        found.append(check)
        if show:
            print_check(Console(highlight=False, soft_wrap=True), check)
    return found


def print_check(out: Console, check: "Check") -> None:
    """Print one line for the finding, and one below for the remedy.

    Args:
        out: On a terminal lines are wrapped within their column, elsewhere (pipes) each stays whole.
        check: The check.
    """
    found = words(check.found + (f": {check.text}" if check.text else ""), COLOURS[check.state])
    lines = [found, *([words(f"→ {check.todo}")] if check.todo else [])]
    if not out.is_terminal:
        out.print(Text(f"{check.state:<4} {check.name:<24} ") + found)
        for line in lines[1:]:
            out.print(Text(" " * 30) + line)
        return
    row = Table.grid(padding=(0, 1))
    for width in (4, 22, None):
        row.add_column(width=width, ratio=None if width else 1)
    row.add_row(Text(check.state, style=MARKS[check.state]), words(check.name), Group(*lines))
    out.print(row)
