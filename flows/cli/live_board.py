"""What the terminal shows while an evolution runs."""

import time

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coral_core.config import RunConfig
from flows.cli.markup import words
from flows.session import Board

TOO_GOOD = 0.9
TOO_BAD = 0.02


class Screen:
    """Renders a `Board`; on a pipe it prints a line per change of phase, generation or best instead."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._board = Board(generations=config.search.generations)
        self._out: Console | None = None
        self._printed: tuple[object, ...] = ()
        self._told = 0
        self._hint = ""
        self._paused = ""
        self._start = ""

    def print_lines_to(self, out: Console) -> None:
        self._out = out

    def update(self, board: Board) -> None:
        self._board = board
        if self._out is None:
            return
        clock = f"[{_clock(time.monotonic() - board.started)}]"
        if board.start != self._start:
            self._start = board.start
            self._out.print(words(f"{clock} {board.start}"))
        for name in list(board.baselines)[self._told :]:
            self._told += 1
            value = board.baselines[name]
            self._out.print(f"{clock} {name.replace('_', ' ')} repairs {value:.0%} of the fitness bugs", markup=False)
            hint = baseline_hint(board.baselines)
            if hint and hint != self._hint:
                self._out.print(f"note: {hint}", markup=False)
            self._hint = hint
        if board.paused != self._paused:
            self._paused = board.paused
            self._out.print(words(f"{clock} {board.last_event}"))
        state = (board.phase, board.generation, board.best)
        if state != self._printed:
            self._printed = state
            self._out.print(f"{clock} {_headline(board)}; {_best(board)}", markup=False)

    def __rich__(self) -> RenderableType:
        board = self._board
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", justify="right")
        table.add_column()
        # in a row of the table: rendered alone, a ProgressBar does not end its line
        table.add_row("", ProgressBar(total=max(1, board.jobs_expected), completed=board.jobs_done, width=60))
        table.add_row("phase", _headline(board))
        if board.paused:
            table.add_row("paused", words(board.paused, "yellow"))
        if board.start:
            table.add_row("start", words(board.start))
        left = board.seconds_left()
        jobs = f"{board.jobs_done} done of about {board.jobs_expected}, {board.jobs_running} under way, {board.cached} found in the store"
        table.add_row("jobs", jobs)
        table.add_row(
            "time",
            f"{_clock(time.monotonic() - board.started)} so far" + (f", about {_clock(left)} left" if left else ""),
        )
        for name, value in board.baselines.items():
            table.add_row(name.replace("_", " "), f"repairs {value:.0%} of the fitness bugs")
        if hint := baseline_hint(board.baselines):
            table.add_row("note", Text(hint, style="yellow"))
        table.add_row("best so far", _best(board))
        table.add_row("last", words(board.last_event))
        return table


def _headline(board: Board) -> str:
    if board.phase == "searching":
        return f"generation {board.generation} of {board.generations}"
    return board.phase


def _best(board: Board) -> Text | str:
    if not board.best or board.best_fitness is None:
        return "no genome yet"
    share = f", repairs {board.best_pass_at_1:.0%} of the fitness bugs" if board.best_pass_at_1 is not None else ""
    return f"{board.best}: fitness {board.best_fitness:.3f}{share}"


def baseline_hint(baselines: dict[str, float]) -> str:
    """Is the base model too good or too bad on these problems to tell genomes apart? Empty when it is neither."""
    base, tuned = baselines.get("base_model"), baselines.get("default_lora")
    if base is not None and base >= TOO_GOOD:
        return f"the base model already repairs {base:.0%}: little is left to gain, choose harder problems"
    if base is not None and tuned is not None and max(base, tuned) <= TOO_BAD:
        return (
            f"base model and default LoRA repair at most {max(base, tuned):.0%}: the search may see nothing but zeros. "
            "Choose easier problems, a stronger base model, or more training.steps"
        )
    return ""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
