"""`coral report`: what a run found, as tables; refreshes report.html and the other files of a report."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from coral_core.errors import StoreError
from coral_core.report.build_report import build_report
from coral_core.report.content import Report
from coral_core.report.run_document import run_document
from coral_core.runs.run_folder import RunFolder, find_run
from flows.cli.markup import marked, shown_blocks, shown_sections, words
from flows.cli.places import AsJson, Runs, store_of, write_page

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
    """Show what a run found and what it cost, or compare two runs; works while they are under way.

    Args:
        run: Id of the run, the beginning of one, `latest`, or the path of its folder.
        other: A second run, to compare the first one with.
    """
    folder = find_run(runs, run)
    if other is not None:
        from flows.cli.compare import compare

        compare(folder, find_run(runs, other), html, as_json)
        return
    found, problem = _refresh(folder)
    if as_json:
        print(json.dumps(found.model_dump(mode="json"), indent=1))
    else:
        print_report(folder, found)
    if html is not None:
        from coral_core.report.html_page import html_page
        from coral_core.report.report_files import document_of

        write_page(html, html_page(document_of(folder, store_of(folder), found)))
    if problem:
        Console(stderr=True, highlight=False).print(f"[yellow]warning[/]: {marked(problem)}")


def _refresh(folder: RunFolder) -> tuple[Report, str]:
    """The report, written beside the history; what could not be written is said and costs no numbers."""
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
    """Print the main sections of a run's report and where its files lie."""
    found = report or build_report(folder, store_of(folder))
    document = run_document(found)
    out = Console(highlight=False)
    out.print(words(f"\n{found.run_id}", "bold"))
    for shown in (*shown_blocks(document.head), *shown_sections(document.sections)):
        out.print(shown)
    names = [name for name in FILES if (folder.path / name).exists()]
    out.print(words(f"\nfiles     {folder.path}/ ({', '.join(names)})"), soft_wrap=True)
