"""Writes the report of a run: report.json (the stable keys), report.html, report.md, two CSV files and pictures."""

from pathlib import Path

from coral_core.atomic_write import write_atomic
from coral_core.errors import StoreError
from coral_core.report.build_report import build_report, run_line
from coral_core.report.content import Report
from coral_core.report.history_records import History
from coral_core.report.html_page import run_page
from coral_core.report.markdown import PICTURES, report_markdown
from coral_core.report.patches import held_out_patches
from coral_core.report.pictures import fitness_curve, pareto_front
from coral_core.report.spreadsheets import generations_csv, genomes_csv
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store

__all__ = ["Report", "build_report", "run_line", "write_report"]


def write_report(folder: RunFolder, store: Store, into: Path | None = None) -> Report:
    """Build the report of `folder` and write it beside the history, or `into` a directory; safe while the run goes on.

    Raises:
        StoreError: the folder of the run cannot be written.
    """
    report = build_report(folder, store, why=True)
    history = History.of(folder)
    files = {
        PICTURES["fitness"]: fitness_curve(report),
        PICTURES["pareto"]: pareto_front(report),
        "report.md": report_markdown(report).encode(),
        "report.html": page_of(folder, store, report).encode("utf-8", "backslashreplace"),
        "genomes.csv": genomes_csv(history),
        "generations.csv": generations_csv(report.generations),
        "report.json": (report.model_dump_json(indent=1) + "\n").encode(),
    }
    try:
        for name, data in files.items():
            write_atomic((into or folder.path) / name, data)
    except OSError as error:
        raise StoreError(
            f"{folder.path}: the report cannot be written ({error.strerror}). Use --json to print it instead."
        ) from error
    return report


def page_of(folder: RunFolder, store: Store, report: Report) -> str:
    """The page of `report`, built for this folder and store."""
    history = History.of(folder)
    return run_page(report, history, held_out_patches(history, store, folder.config()))
