"""`coral runs`: a line per run."""

import json
import time

from rich.console import Console
from rich.table import Table

from coral_core.errors import CoralError
from coral_core.runs.run_folder import run_folders
from coral_core.runs.run_line import RunLine, run_line
from flows.cli.markup import marked, words
from flows.cli.places import STATE_COLOURS, AsJson, Runs, clock


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
        print(
            json.dumps(
                {"schema_version": 1, "runs": [line.model_dump(mode="json") for line in lines], "unreadable": broken},
                indent=1,
            )
        )
        return
    out = Console(highlight=False)
    if not lines and not broken:
        out.print(words(f"no runs in {runs}. Start one with: coral evolve CONFIG"))
        return
    if lines:
        out.print(_table(lines))
    for line in lines:
        if line.error:
            out.print(words(f"{line.run_id} failed: {line.error}", "red"))
    for item in broken:
        out.print(f"[yellow]{marked(item['run_id'])}[/]: cannot be read: {marked(item['problem'])}")


def _table(lines: list[RunLine]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("run", no_wrap=True)
    for name in ("status", "gen.", "fitness", "held-out", "when", "cost"):
        table.add_column(
            name, justify="right" if name in ("gen.", "fitness", "held-out") else "left", no_wrap=name != "cost"
        )
    for line in lines:
        done = 0 if line.generation is None else line.generation + 1
        held_out = line.champion_held_out_pass_at_1
        table.add_row(
            words(line.run_id),
            f"[{STATE_COLOURS[line.status]}]{line.status}[/]",
            f"{done}/{line.generations}",
            "–" if line.best_fitness is None else f"{line.best_fitness:.3f}",
            "–" if held_out is None else f"{held_out:.1%}",
            time.strftime("%m-%d %H:%M", time.localtime(line.started)),
            f"{clock(line.seconds)}, {line.trainings}+{line.evaluations} jobs",
        )
    return table
