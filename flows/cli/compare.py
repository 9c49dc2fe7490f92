"""`coral report A B`: two runs side by side."""

import json
from pathlib import Path

from rich.console import Console

from coral_core.report.comparison import compare_runs
from coral_core.report.comparison_document import comparison_document
from coral_core.report.html_page import html_page
from coral_core.runs.run_folder import RunFolder
from flows.cli.markup import marked, shown_blocks, shown_sections
from flows.cli.places import store_of, write_page


def compare(one: RunFolder, other: RunFolder, html: Path | None, as_json: bool) -> None:
    """Print how two runs differ, as tables or JSON; write the page when asked to."""
    found = compare_runs((one, store_of(one)), (other, store_of(other)))
    document = comparison_document(found)
    if html is not None:
        write_page(html, html_page(document))
    if as_json:
        print(json.dumps(found.model_dump(mode="json"), indent=1))
        return
    out = Console(highlight=False)
    out.print(f"\n[bold]A[/] {marked(found.a.run_id)}\n[bold]B[/] {marked(found.b.run_id)}\n")
    for shown in (*shown_blocks(document.head), *shown_sections(document.sections)):
        out.print(shown)
    if html is not None:
        out.print(f"\npage      {html}", markup=False, soft_wrap=True)
