"""`coral report A B`: two runs side by side."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from coral_core.report.comparison import compare_runs
from coral_core.report.comparison_page import (
    Rows,
    champion_rows,
    comparison_page,
    cost_rows,
    difference_rows,
    generation_rows,
)
from coral_core.runs.run_folder import RunFolder
from flows.cli.markup import marked, words
from flows.cli.places import store_of


def compare(one: RunFolder, other: RunFolder, html: Path | None, as_json: bool) -> None:
    """Print how two runs differ, as tables or JSON; write the page when asked to."""
    found = compare_runs((one, store_of(one)), (other, store_of(other)))
    if html is not None:
        from flows.cli.report import write_page

        write_page(html, comparison_page(found))
    if as_json:
        print(json.dumps(found.model_dump(mode="json"), indent=1))
        return
    out = Console(highlight=False)
    out.print(f"\n[bold]A[/] {marked(found.a.run_id)}\n[bold]B[/] {marked(found.b.run_id)}\n")
    out.print(words(found.text))
    if not found.fitness_comparable:
        out.print("Fitness is not comparable: fitness problems, weights or judge limits differ.")
    _print(out, "champions", champion_rows(found))
    if found.configuration:
        _print(out, "configured differently", difference_rows(found.configuration))
    else:
        out.print("\nThe configurations are the same.")
    if found.versions:
        _print(out, "versions and machine that differ", difference_rows(found.versions))
    _print(out, "best fitness by generation", generation_rows(found))
    _print(out, "cost, all sessions", cost_rows(found))
    if html is not None:
        out.print(f"\npage      {html}", markup=False, soft_wrap=True)


def _print(out: Console, title: str, rows: Rows) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for name in ("", "A", "B"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(words(cell) for cell in row))
    out.print()
    out.print(table)
