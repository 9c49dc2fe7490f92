"""One line about a run, for lists of runs: `coral runs`, `coral status` and the metrics.

Of the history only the last records are parsed, since a run of 200 generations has megabytes of it. The full progress of a
run is in progress.py.
"""

from pydantic import Field

from coral_core.bounded_read import read_file
from coral_core.config.yaml_document import read_document
from coral_core.frozen import Frozen
from coral_core.runs.run_folder import CONFIG_BYTES, RunFolder
from coral_core.runs.sessions import RunState, WorkDone, run_state


class RunLine(Frozen):
    """One line of `coral runs`."""

    run_id: str
    status: RunState
    error: str = Field("", description="The error that ended the latest session; empty unless failed.")
    generation: int | None = Field(description="Latest finished generation (from 0); null before the first.")
    generations: int = Field(description="Generations at most.")
    best_fitness: float | None
    champion: str | None = Field(description="Genome id of the champion so far.")
    champion_held_out_pass_at_1: float | None = Field(description="Null before the end.")
    started: float = Field(description="Unix time of the latest start.")
    seconds: float = Field(description="Wall-clock seconds of all sessions.")
    cpu_seconds: float
    trainings: int
    evaluations: int
    path: str


def run_line(folder: RunFolder) -> RunLine:
    """The line of the run in `folder`.

    Raises:
        CoralError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError: its files are missing or were
            changed.
    """
    work = WorkDone.of(folder)
    state = run_state(folder, work)
    final, last = folder.last("final"), folder.last("generation")
    held_out = [line.pass_at_1 for line in final.held_out if line.name == "champion"] if final is not None else []
    config, _ = read_document(read_file(folder.path / "config.yaml", CONFIG_BYTES).decode(), "config.yaml")
    return RunLine(
        run_id=folder.run_id,
        status=state,
        error=work.error(state),
        generation=last.generation if last is not None else None,
        generations=config["search"]["generations"],
        best_fitness=last.best_fitness if last is not None else None,
        champion=final.champion if final is not None else last.best if last is not None else None,
        champion_held_out_pass_at_1=held_out[0] if held_out else None,
        started=folder.latest_start(),
        path=str(folder.path),
        **work.totals.model_dump(exclude={"sessions", "tokens"}),
    )
