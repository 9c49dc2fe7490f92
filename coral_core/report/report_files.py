"""Writes the report of a run: report.json (the stable keys), report.html, report.md, two CSV files and pictures."""

from pathlib import Path

from coral_core.atomic_write import write_atomic
from coral_core.errors import StoreError
from coral_core.report.build_report import build_report
from coral_core.report.content import Report
from coral_core.report.document import Document, Pictures
from coral_core.report.history_records import History
from coral_core.report.html_page import html_page
from coral_core.report.markdown import markdown
from coral_core.report.patches import held_out_patches
from coral_core.report.run_document import run_document
from coral_core.report.spreadsheets import generations_csv, genomes_csv
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store


def write_report(folder: RunFolder, store: Store, into: Path | None = None) -> Report:
    """Build the report of `folder` and write its files; safe while the run goes on.

    Args:
        folder: The run.
        store: Its store.
        into: Folder for the files; None: the run's folder.

    Raises:
        StoreError: the files cannot be written.
    """
    report = build_report(folder, store, why=True)
    document = document_of(folder, store, report)
    pictures = [item for part in document.sections for block in part.blocks if isinstance(block, Pictures) for item in block.items]  # fmt: skip
    files = {
        **{picture.address: picture.png for picture in pictures if picture.address},
        "report.md": markdown(document).encode(),
        "report.html": html_page(document).encode("utf-8", "backslashreplace"),
        "genomes.csv": genomes_csv(History.of(folder)),
        "generations.csv": generations_csv(report.generations),
        "report.json": (report.model_dump_json(indent=1) + "\n").encode(),
    }
    try:
        for name, data in files.items():
            write_atomic((into or folder.path) / name, data)
    except OSError as error:
        raise StoreError(
            f"{into or folder.path}: the report cannot be written ({error.strerror})",
            remedy="Use --json to print it instead.",
        ) from error
    return report


def document_of(folder: RunFolder, store: Store, report: Report) -> Document:
    """The report as a document, with the champion's held-out patches.

    Args:
        folder: The run's folder; its configuration gives the problems.
        store: Holds the held-out evaluations.
        report: The report of the run.
    """
    return run_document(report, held_out_patches(report, store, folder.config()))
