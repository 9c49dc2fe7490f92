"""How commands print: JSON, lines, tables and documents.

Text that somebody else wrote (models, problems, errors, logs, file names) is shown without its escape sequences and is
never read as markup: rich takes `[...]` in a string for markup, so such text goes through `words`, `marked` or `listing`.
"""

import json
from collections.abc import Iterable, Iterator, Sequence

from pydantic_core import to_jsonable_python
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from coral_core.report import document as doc
from coral_core.runs.sessions import RunState
from coral_core.untrusted import visible

STATE_COLOURS = {
    RunState.RUNNING: "cyan",
    RunState.PAUSED: "magenta",
    RunState.FINISHED: "green",
    RunState.STOPPED: "yellow",
    RunState.FAILED: "red",
}
MANY_COLUMNS = 8
"""More stand closer together, so that numbers fit 80 characters."""


def words(foreign: object, style: str = "") -> Text:
    """`foreign` as rich's text: for cells, and for lines of nothing else."""
    return Text(visible(str(foreign)), style=style)


def marked(foreign: object) -> str:
    """`foreign` for the inside of a string with markup of ours."""
    return escape(visible(str(foreign)))


def listing(source: str, language: str) -> Syntax:
    """Code that a model or a problem wrote, coloured."""
    return Syntax(visible(source), language, background_color="default")


def print_json(data: object) -> None:
    """Print `data` as one JSON document; models, dataclasses and enums in it become plain JSON."""
    print(json.dumps(to_jsonable_python(data), indent=1))


def echo(*parts: RenderableType) -> None:
    """Print `parts` one below the other. A string may hold markup; long lines are not broken."""
    out = Console(highlight=False, soft_wrap=True)
    for part in parts:
        out.print(part)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], strong: str = "", title: str = "") -> Table:
    """A table without lines.

    Args:
        columns: Headings. Those that begin with ``<`` are of text, with ``<<`` of text that wraps, the others of numbers.
        rows: Cells: a `Text` keeps its style, None is shown as a dash, anything else is shown as it is.
        strong: First cell of the row that stands out.
        title: Stands above it.
    """
    gap = 1 if len(columns) > MANY_COLUMNS else 2
    shown = Table(title=words(title) if title else None, title_justify="left", title_style="bold",
                  box=None, pad_edge=False, collapse_padding=True, padding=(0, gap), header_style="dim")  # fmt: skip
    for name in columns:
        text, wraps = name.startswith("<"), name.startswith("<<")
        # a heading of several lines keeps a column of numbers narrow, whose cells do not wrap
        heading = name.lstrip("<") if text else name.replace(" ", "\n")
        shown.add_column(heading, justify="left" if text else "right", no_wrap=not wraps, overflow="fold")
    for row in rows:
        cells = (cell if isinstance(cell, Text) else words("–" if cell is None else cell) for cell in row)
        shown.add_row(*cells, style="bold" if strong and str(row[0]) == strong else "")
    return shown


def shown_blocks(blocks: Iterable[doc.Block]) -> Iterator[RenderableType]:
    """What the terminal shows of `blocks`: neither pictures nor what is folded away on the page."""
    for block in blocks:
        match block:
            case doc.Text():
                yield _line(block.parts)
            case doc.Answer():
                yield words(block.text, "bold")
                yield _line(block.more)
            case doc.Facts():
                grid = Table.grid(padding=(0, 2))
                grid.add_column(style="dim", no_wrap=True)
                grid.add_column(overflow="fold")
                for name, value in block.rows:
                    grid.add_row(words(name), words(value))
                yield grid
            case doc.Table():
                yield Padding(
                    table(block.columns, block.rows, block.strong, block.caption), (1, 0, 0, 0) if block.caption else 0
                )


def shown_document(document: doc.Document) -> Iterator[RenderableType]:
    """The head of `document`, and the sections that the terminal shows, under their headings."""
    yield from shown_blocks(document.head)
    for section in document.sections:
        if section.shown == "everywhere":
            yield words(f"\n{section.title}", "bold underline")
            yield from shown_blocks(section.blocks)


def _line(parts: doc.Parts) -> Text:
    return Text.assemble(*(_part(part) for part in parts))


def _part(part: doc.Part) -> Text:
    if isinstance(part, doc.Link):
        return words(part.run_id)
    return words(part, "cyan" if isinstance(part, doc.Code) else "")
