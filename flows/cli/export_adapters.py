"""`coral export RUN --front DIR` and `--merge DIR`: adapters of the Pareto front, or one genome as a full model."""

from pathlib import Path

from coral_core.errors import ConfigError
from coral_core.report.build_report import build_report
from coral_core.report.export import FrontExport, export_front
from coral_core.report.merged_export import MergedExport, export_merged
from coral_core.report.wording import number, whole
from coral_core.runs.run_folder import find_run
from flows.cli.markup import echo, print_json, table, words
from flows.cli.places import enter_start_folder, size, store_of


def export(run: str, front: Path | None, merge: Path | None, genome: str, runs: str, as_json: bool) -> None:
    """Export what a run found; the command line is in flows/cli/__init__.py.

    Args:
        run: Names the run.
        front: Folder for the adapters of the Pareto front.
        merge: Folder for a full model; exactly one of both is given.
        genome: The genome to merge.
        runs: Folder of all runs.
        as_json: Print JSON.
    """
    if (front is None) == (merge is None):
        raise ConfigError(
            f"coral export {run}: {'--front and --merge' if front else 'nothing'} given, and exactly one thing is exported",
            remedy="Give --front DIR or --merge DIR. The champion's adapter is in RUN/champion already; coral export --help lists the rest.",
        )
    if front is not None and genome != "champion":
        raise ConfigError(f"--genome {genome}: --front exports the whole Pareto front", remedy="Leave it out, or use --merge.")  # fmt: skip
    folder = find_run(runs, run)
    store = store_of(folder)
    report = build_report(folder, store)
    done: FrontExport | MergedExport
    if front is not None:
        done = export_front(folder, store, report, front)
    else:
        assert merge is not None, "checked above"
        target = merge.expanduser().absolute()
        enter_start_folder(folder)  # a base model may be named relative to it
        done = export_merged(folder, store, report, genome, target)
    if as_json:
        print_json(done)
    elif isinstance(done, FrontExport):
        _print_front(done)
    else:
        echo(words(f"{done.genome_id} of {done.run_id} merged into {done.base_model} ({done.dtype}): {done.path}, {size(done.bytes)}, {len(done.files)} file(s) of weights"))  # fmt: skip
        echo("README.md in it has the code that loads it and the command that serves it.")


def _print_front(done: FrontExport) -> None:
    rows = [
        (
            member.genome_id,
            number(member.fitness),
            whole(member.trainable_parameters),
            ", ".join(f"{name} {value:.3f}" for name, value in sorted(member.scores.items())),
            " ".join(["champion"] * member.champion + ["below a threshold"] * (not member.meets_thresholds)),
        )
        for member in done.exported
    ]
    echo(words(f"{len(rows)} adapters of the Pareto front of {done.run_id}, after generation {done.generation}: {done.path}"))  # fmt: skip
    echo(table(("<genome", "fitness", "parameters", "<<scores (fitness split)", "<"), rows))
    echo(*(words(f"skipped {each.genome_id}: it has no adapter ({each.reason})", "yellow") for each in done.skipped))
