"""`coral runs`: lists the runs, one line each."""

import time

from rich.text import Text

from coral_core.durations import clock
from coral_core.errors import CoralError
from coral_core.runs.run_folder import run_folders
from coral_core.runs.run_line import RunLine, run_line
from flows.cli.markup import STATE_COLOURS, echo, marked, print_json, table, words
from flows.cli.places import AsJson, Runs


def runs(*, runs: Runs = "runs", as_json: AsJson = False) -> None:
    """List the runs, oldest first. A run whose files cannot be read is named as such."""
    lines: list[RunLine] = []
    broken: list[dict[str, str]] = []
    for folder in run_folders(runs):
        try:
            lines.append(run_line(folder))
        except (CoralError, OSError, ValueError, KeyError) as error:
            broken.append({"run_id": folder.run_id, "problem": (str(error).splitlines() or [type(error).__name__])[0]})
    if as_json:
        print_json({"schema_version": 1, "runs": lines, "unreadable": broken})
        return
    if lines:
        echo(table(("<run", "<status", "gen.", "fitness", "held-out", "<when", "<<cost"), map(_cells, lines)))
    echo(*(words(f"{line.run_id} failed: {line.error}", "red") for line in lines if line.error))
    echo(*(f"[yellow]{marked(item['run_id'])}[/]: cannot be read: {marked(item['problem'])}" for item in broken))
    if not lines and not broken:
        echo(words(f"no runs in {runs}. Start one with: coral evolve CONFIG"))


def _cells(line: RunLine) -> list[object]:
    held_out = line.champion_held_out_pass_at_1
    return [
        line.run_id,
        Text(line.status, STATE_COLOURS[line.status]),
        f"{0 if line.generation is None else line.generation + 1}/{line.generations}",
        None if line.best_fitness is None else f"{line.best_fitness:.3f}",
        None if held_out is None else f"{held_out:.1%}",
        time.strftime("%m-%d %H:%M", time.localtime(line.started)),
        f"{clock(line.seconds)}, {line.trainings}+{line.evaluations} jobs",
    ]
