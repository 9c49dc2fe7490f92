"""`coral report`: the results of a run, or a comparison of two, as tables; refreshes report.html and the other files."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from coral_core.errors import ConfigError, StoreError
from coral_core.report.build_report import build_report
from coral_core.report.content import Report
from coral_core.report.document import Document
from coral_core.report.run_document import run_document
from coral_core.runs.run_folder import RunFolder, find_run
from flows.cli.markup import echo, marked, print_json, shown_document, words
from flows.cli.places import AsJson, Runs, store_of

FILES = ("report.html", "report.md", "genomes.csv", "generations.csv", "champion", "history.jsonl", "config.yaml")


def report(
    run: str = "latest",
    other: str | None = None,
    /,
    *,
    html: Annotated[
        Path | None, Parameter(help="Write the page to this file (one run: it is always in its folder too).")
    ] = None,
    runs: Runs = "runs",
    as_json: AsJson = False,
) -> None:
    """Show the results and the cost of a run, or compare two runs; works while they are running.

    Args:
        run: Id of the run, the beginning of one, `latest`, or the path of its folder.
        other: A second run, to compare the first one with.
    """
    folder = find_run(runs, run)
    if other is not None:
        compare_runs_of(folder, find_run(runs, other), html, as_json)
        return
    found, problem = _refresh(folder)
    if as_json:
        print_json(found)
    else:
        print_report(folder, found)
    if html is not None:
        from coral_core.report.report_files import document_of

        _write(html, document_of(folder, store_of(folder), found))
    if problem:
        Console(stderr=True, highlight=False).print(f"[yellow]warning[/]: {marked(problem)}")


def compare_runs_of(one: RunFolder, other: RunFolder, html: Path | None, as_json: bool) -> None:
    """Print the comparison of two runs.

    Args:
        one: Run A.
        other: Run B.
        html: Write the page to this file, too; None: no page.
        as_json: Print JSON.
    """
    from coral_core.report.comparison import compare_runs
    from coral_core.report.comparison_document import comparison_document

    found = compare_runs((one, store_of(one)), (other, store_of(other)))
    document = comparison_document(found)
    if html is not None:
        _write(html, document)
    if as_json:
        print_json(found)
    else:
        _print(f"\n[bold]A[/] {marked(found.a.run_id)}\n[bold]B[/] {marked(found.b.run_id)}\n", document)


def _refresh(folder: RunFolder) -> tuple[Report, str]:
    """Build the report and write its files into the run's folder. Also returns why they could not be written, or ""."""
    from coral_core.report.export import export_champion
    from coral_core.report.report_files import write_report

    store = store_of(folder)
    try:
        found = write_report(folder, store)
        if found.status == "finished" and not (folder.path / "champion").is_dir():
            export_champion(folder, store, found)  # the run died between its last record and the export
    except StoreError as error:
        return build_report(folder, store, why=True), str(error)
    return found, ""


def print_report(folder: RunFolder, report: Report | None = None) -> None:
    """Print the main sections of a run's report and the path of its files.

    Args:
        folder: The run.
        report: Its report; None: it is built from the files of the run.
    """
    found = report or build_report(folder, store_of(folder))
    _print(f"\n[bold]{marked(found.run_id)}[/]", run_document(found))
    names = [name for name in FILES if (folder.path / name).exists()]
    echo(words(f"\nfiles     {folder.path}/ ({', '.join(names)})"))


def _print(head: str, document: Document) -> None:
    out = Console(highlight=False)
    for part in (head, *shown_document(document)):
        out.print(part)


def _write(path: Path, document: Document) -> None:
    """Write `document` as an HTML page to `path`. Raises `ConfigError`."""
    from coral_core.report.html_page import html_page

    try:
        path.write_text(html_page(document), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(
            f"--html {path}: cannot be written ({error.strerror})", remedy="Give a file in a folder that is there."
        ) from error
