"""What the terminal shows while an evolution runs."""

from collections.abc import Mapping

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coral_core.config import RunConfig
from coral_core.evolution.state import EvolutionState, Listener
from flows.cli.markup import words

TOO_GOOD = 0.9
TOO_BAD = 0.02


class Screen(Listener):
    """Shows an `EvolutionState`; on a pipe it prints a line per change of phase, generation or best instead."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._state = EvolutionState(generations=config.search.generations)
        self._out: Console | None = None
        self._printed: tuple[object, ...] = ()
        self._told = 0
        self._hint = ""
        self._paused = ""
        self._start = ""

    def print_lines_to(self, out: Console) -> None:
        self._out = out

    def changed(self, state: EvolutionState) -> None:
        self._state = state
        if self._out is None:
            return
        clock = f"[{_clock(state.seconds)}]"
        if state.start != self._start:
            self._start = state.start
            self._out.print(words(f"{clock} {state.start}"), soft_wrap=True)
        for name in list(state.baselines)[self._told :]:
            self._told += 1
            value = state.baselines[name]
            self._out.print(
                f"{clock} {name.replace('_', ' ')} repairs {value:.0%} of the fitness bugs",
                markup=False,
                soft_wrap=True,
            )
            hint = baseline_hint(state.baselines)
            if hint and hint != self._hint:
                self._out.print(f"note: {hint}", markup=False, soft_wrap=True)
            self._hint = hint
        if state.paused != self._paused:
            self._paused = state.paused
            self._out.print(words(f"{clock} {state.last_event}"), soft_wrap=True)
        headline = (state.phase, state.generation, state.best)
        if headline != self._printed:
            self._printed = headline
            self._out.print(f"{clock} {_headline(state)}; {_best(state)}", markup=False, soft_wrap=True)

    def __rich__(self) -> RenderableType:
        state = self._state
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", justify="right")
        table.add_column()
        # in a row of the table: rendered alone, a ProgressBar does not end its line
        table.add_row("", ProgressBar(total=max(1, state.jobs_expected), completed=state.jobs_done, width=60))
        table.add_row("phase", _headline(state))
        if state.paused:
            table.add_row("paused", words(state.paused, "yellow"))
        if state.start:
            table.add_row("start", words(state.start))
        left = state.seconds_left
        jobs = f"{state.jobs_done} done of about {state.jobs_expected}, {state.jobs_running} under way, {state.cached} found in the store"
        table.add_row("jobs", jobs)
        table.add_row(
            "time",
            f"{_clock(state.seconds)} so far" + (f", about {_clock(left)} left" if left else ""),
        )
        for name, value in state.baselines.items():
            table.add_row(name.replace("_", " "), f"repairs {value:.0%} of the fitness bugs")
        if hint := baseline_hint(state.baselines):
            table.add_row("note", Text(hint, style="yellow"))
        table.add_row("best so far", _best(state))
        table.add_row("last", words(state.last_event))
        return table


def _headline(state: EvolutionState) -> str:
    if state.phase == "searching":
        return f"generation {state.generation} of {state.generations}"
    return state.phase


def _best(state: EvolutionState) -> Text | str:
    if not state.best or state.best_fitness is None:
        return "no genome yet"
    share = f", repairs {state.best_pass_at_1:.0%} of the fitness bugs" if state.best_pass_at_1 is not None else ""
    return f"{state.best}: fitness {state.best_fitness:.3f}{share}"


def baseline_hint(baselines: Mapping[str, float]) -> str:
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
