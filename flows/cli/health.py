"""`coral health`: is the installation well? For people, and for monitors by its exit code."""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from flows.cli.markup import words
from flows.cli.places import AsJson, Runs

if TYPE_CHECKING:
    from coral_core.errors import ConfigError
    from flows.monitoring.finding import Check

MARKS = {"ok": "green", "note": "yellow", "bad": "bold red"}
COLOURS = {"ok": "", "note": "yellow", "bad": "red"}


def health(
    *,
    runs: Runs = "runs",
    store: Annotated[str | None, Parameter(help="The store; RUNS/store by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check the installation: API, pools, workers, store, queues, lanes, results, progress. Exits 0 when well, else 1."""
    from flows.monitoring.finding import healthy, summary
    from flows.monitoring.installation_checks import installation_checks

    started = time.perf_counter()
    url, error = find_api()
    out = Console(highlight=False, soft_wrap=True)
    checks = collect(installation_checks(store or f"{runs}/store", runs, url, error), None if as_json else out)
    well = healthy(checks)
    if as_json:
        data = {
            "schema_version": 1,
            "healthy": well,
            "api": url,
            "seconds": round(time.perf_counter() - started, 3),
            "checks": [asdict(check) for check in checks],
        }
        print(json.dumps(data, indent=1))
    else:
        out.print(words(summary(checks, "the installation"), "" if well else "red"))
    if not well:
        raise SystemExit(1)


def find_api() -> "tuple[str | None, ConfigError | None]":
    """The API that is meant at this moment, or why there is none: `coral up` may come later, or on another port."""
    from coral_core.errors import ConfigError
    from flows.installation.local_stack import known_api

    try:
        return known_api(), None
    except ConfigError as error:
        return None, error


def collect(checks: "Iterable[Check]", out: Console | None) -> "list[Check]":
    """All `checks`; each is printed to `out`, if there is one, as soon as it has run."""
    found = []
    for check in checks:
        found.append(check)
        if out is not None:
            print_check(out, check)
    return found


def print_check(out: Console, check: "Check") -> None:
    """A line for what was seen, and one below for what to do; wrapped under itself on a terminal, whole in a pipe."""
    colour = COLOURS[check.state]
    found = words(check.found, colour) + words(f": {check.text}" if check.text else "")
    lines = [found, *([words(f"→ {check.todo}")] if check.todo else [])]
    if not out.is_terminal:
        out.print(Text(f"{check.state:<4} {check.name:<24} ") + found)
        for line in lines[1:]:
            out.print(Text(" " * 30) + line)
        return
    row = Table.grid(padding=(0, 1))
    row.add_column(width=4)
    row.add_column(width=22)
    row.add_column(ratio=1)
    row.add_row(Text(check.state, style=MARKS[check.state]), words(check.name), Group(*lines))
    out.print(row)
