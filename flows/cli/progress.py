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

from coral_core.report.progress_document import progress_document
from coral_core.runs.progress import Progress, in_full, progress_of
from coral_core.runs.run_folder import find_run
from coral_core.runs.run_reader import RunReading
from flows.cli.markup import shown_blocks, shown_sections, words
from flows.cli.places import STATE_COLOURS, AsJson, Runs, store_of

EVERY_SECONDS = 2.0


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
    out = Console(highlight=False)
    reading = RunReading(folder, store_of(folder))
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
        if found.status.is_over:
            return
        time.sleep(EVERY_SECONDS)


def screen(found: Progress) -> RenderableType:
    """The progress on one screen."""
    document = progress_document(found)
    bar = Table.grid()  # rendered alone, a ProgressBar does not end its line
    bar.add_row(ProgressBar(total=100, completed=found.percent, width=48))
    head = Text.assemble(words(found.run_id, "bold"), "  ", (found.status, STATE_COLOURS[found.status]))
    return Group(head, bar, *shown_blocks(document.head), *shown_sections(document.sections))
