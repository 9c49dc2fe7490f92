"""`coral progress`, and the live board of `coral evolve`: the state of one run, from its files only."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coral_core.durations import clock
from coral_core.errors import CoralError
from coral_core.evolution.start_from import read_start
from coral_core.ledger import Ledger
from coral_core.report.build_report import base_check
from coral_core.report.progress_document import progress_document
from coral_core.report.wording import NAMES, share
from coral_core.runs.progress import Progress, in_full, progress_of
from coral_core.runs.records import Phase
from coral_core.runs.run_folder import RunFolder, find_run
from coral_core.runs.run_reader import RunReading
from flows.cli.markup import STATE_COLOURS, print_json, shown_document, words
from flows.cli.places import AsJson, Runs, store_of

EVERY_SECONDS = 2.0


def progress(
    run: str = "latest",
    /,
    *,
    runs: Runs = "runs",
    watch: Annotated[bool, Parameter(help="Go on showing it until the run ends.", negative=())] = False,
    as_json: AsJson = False,
) -> None:
    """Show the state of one run: generation, best genome, jobs, time, cost.

    Args:
        run: Id of the run, the beginning of one, `latest`, or the path of its folder.
    """
    board = Board(find_run(runs, run))
    if as_json:
        print_json(in_full(board.reading()))
        return
    out = Console(highlight=False)
    if not watch:
        out.print(board)
        return
    with Live(board, console=out, auto_refresh=False) as live:
        while not board.progress().status.is_over:
            time.sleep(EVERY_SECONDS)
            live.refresh()


class Board:
    """Renders the state of one run, as of the moment at which it is printed.

    Args:
        folder: The run; it may not have begun yet.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._reading: RunReading | None = None
        self._ledger: Ledger | None = None

    def reading(self) -> RunReading:
        """Read the files of the run as they are now. Raises `ConfigError` before the run has begun."""
        if self._reading is None:
            store = store_of(self._folder)
            self._reading, self._ledger = RunReading(self._folder, store), Ledger(store)
        return self._reading.refresh()

    def progress(self) -> Progress:
        return progress_of(self.reading(), self._ledger)

    def __rich__(self) -> RenderableType:
        found = self.progress()
        bar = Table.grid()  # rendered alone, a ProgressBar does not end its line
        bar.add_row(ProgressBar(total=100, completed=found.percent, width=48))
        head = Text.assemble(words(found.run_id, "bold"), "  ", (found.status, STATE_COLOURS[found.status]))
        return Group(head, bar, *shown_document(progress_document(found)), *_notes(self.reading()))

    def lines(self) -> Iterator[str]:
        """Lines for a log of the run, one for each fact; an unchanged fact gives the same line again."""
        found = self.progress()
        for name, value in found.baselines.items():
            yield f"{NAMES[name]} repairs {share(value)} of the fitness bugs"
        yield from map(str, _notes(self.reading()))
        if found.paused:
            yield f"paused: {found.paused}"
        best = found.best
        scored = f"{best.genome_id}: fitness {best.fitness or 0:.3f}, repairs {share(best.pass_at_1)} of the fitness bugs" if best else "no genome yet"  # fmt: skip
        where = f"generation {found.generations_done + 1} of at most {found.generations}"
        yield f"{where if found.phase is Phase.SEARCHING else found.phase}; {scored}"


def _notes(reading: RunReading) -> list[Text]:
    """What the run starts from, unless from nothing; whether the base model is too good or too bad to tell genomes apart."""
    start, check = read_start(reading.folder), base_check(reading.baselines)
    origin = [words(start.text)] if start is not None and start.start_from != "nothing" else []
    poor = check.verdict in ("too good", "too bad")
    return [*origin, words(f"note: {check.text}", "yellow")] if poor else origin


@contextmanager
def watched(folder: RunFolder, out: Console) -> Iterator[None]:
    """Show a run while the body runs: a live board on a terminal, elsewhere (logs of CI, pipes) one line per change.

    Args:
        folder: The run; it may not have begun yet.
        out: Console that is printed to.
    """
    board, ended, began = Board(folder), threading.Event(), time.monotonic()
    printed: set[str] = set()

    def show_now() -> None:
        try:
            if live is not None:
                live.update(board.__rich__(), refresh=True)
                return
            for line in board.lines():
                if line not in printed:
                    printed.add(line)
                    out.print(words(f"[{clock(time.monotonic() - began)}] {line}"), soft_wrap=True)
        except (CoralError, OSError):
            return  # the run has not begun, or its files cannot be read, which the evolution reports itself

    def follow() -> None:
        while not ended.wait(1):
            show_now()

    follower = threading.Thread(target=follow, name="coral-board", daemon=True)
    with Live("starting", console=out, auto_refresh=False) if out.is_terminal else nullcontext() as live:
        follower.start()
        try:
            yield
        finally:
            ended.set()
            follower.join()
            show_now()
