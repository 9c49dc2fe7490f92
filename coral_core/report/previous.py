"""The run before, as it was frozen when this one was made: what a report links to."""

from coral_core.evolution.warm_start import read_start
from coral_core.report.content import PreviousRun
from coral_core.runs.records import RunRecord
from coral_core.runs.run_folder import RunFolder


def previous_run(folder: RunFolder, run: RunRecord | None) -> PreviousRun | None:
    """The last run of this name that had finished when `folder` was made; None where there was none."""
    start = read_start(folder)
    if start is None or start.previous is None:
        return None
    previous = start.previous
    problems = (run.problems.get("digests") or {}).get("fitness") if run else None
    known = problems is not None and previous.fitness_problems is not None
    return PreviousRun(
        run_id=previous.run_id,
        path=str(folder.path.parent / previous.run_id),
        champion=previous.champion,
        fitness=previous.fitness,
        held_out_pass_at_1=previous.held_out_pass_at_1,
        started_from=start.start_from == "last-champion",
        same_problems=problems == previous.fitness_problems if known else None,
        same_base_model=run.base_model.content_id == previous.base_content_id if run else None,
    )
