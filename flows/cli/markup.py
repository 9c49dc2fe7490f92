"""Output of commands: JSON, lines, tables and documents.

Foreign text (of models, problems, errors, logs, file names) is shown without escape sequences and is never parsed as
markup. Since rich parses `[...]` in a string as markup, such text goes through `words`, `marked` or `listing`.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap

from pydantic_core import to_jsonable_python
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.padding import Padding
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
WIDEST = 20_000
"""Characters of a line of a table off a terminal; cells beyond it wrap."""
MANY_COLUMNS = 8
"""A table with more columns has a smaller gap between them, so that numbers fit 80 characters."""


def words(foreign: object, style: str = "") -> Text:
    """Foreign text as rich's `Text`, for cells and for whole lines.

    Args:
        foreign: Shown as `str` makes it, without escape sequences.
        style: Style of rich; "": none.
    """
    return Text(visible(str(foreign)), style=style)


def marked(foreign: object) -> str:
    """Foreign text escaped for use inside a string with markup.

    Example:
        >>> marked("[red]")
        '\\\\[red]'
    """
    return escape(visible(str(foreign)))


def listing(source: str, language: str) -> RenderableType:
    """Foreign code with syntax colours.

    Args:
        source: The code; escape sequences in it are made visible.
        language: Name of a lexer of Pygments, for example ``python`` or ``diff``.
    """
    from rich.syntax import Syntax  # imports Pygments, which most commands do not need

    return Syntax(visible(source), language, background_color="default")


def patch(diff: str) -> None:
    """Print a unified diff: with colours on a terminal, elsewhere exactly, so that `git apply` takes the output.

    Args:
        diff: The diff. On a terminal escape sequences in it are made visible.
    """
    out = Console(highlight=False, soft_wrap=True)
    if out.is_terminal:
        out.print(listing(diff.rstrip("\n").replace("\r\n", "\n"), "diff"))
    else:
        out.file.write(diff)


def print_json(data: object) -> None:
    """Print `data` as one JSON document; models, dataclasses and enums in it become plain JSON."""
    print(json.dumps(to_jsonable_python(data), indent=1))


def echo(*parts: RenderableType) -> None:
    """Print `parts` one below the other. A string may contain markup; long lines are not wrapped, off a terminal neither are tables."""
    out = Console(highlight=False, soft_wrap=True)
    for part in parts:
        inner = part.renderable if isinstance(part, Padding) else part
        if out.is_terminal or not isinstance(inner, Table):
            out.print(part)
            continue
        width = Measurement.get(out, out.options.update(max_width=WIDEST), part).maximum
        Console(highlight=False, soft_wrap=True, width=max(out.width, width)).print(part)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], strong: str = "", title: str = "") -> Table:
    """A table without lines.

    Args:
        columns: Headings. ``<`` before a heading marks a column of text, ``<<`` of text that wraps; others hold numbers.
        rows: Cells. A `Text` keeps its style, None is shown as a dash, other values as `str` makes them.
        strong: First cell of the row that is printed in bold; "": none.
        title: Printed above the table; "": none.
    """
    gap = 1 if len(columns) > MANY_COLUMNS else 2
    shown = Table(title=words(title) if title else None, title_justify="left", title_style="bold",
                  box=None, pad_edge=False, collapse_padding=True, padding=(0, gap), header_style="dim")  # fmt: skip
    rows = list(rows)
    for place, name in enumerate(columns):
        text, wraps = name.startswith("<"), name.startswith("<<")
        # cells of numbers do not wrap: a heading takes several lines rather than widening their column
        widest = max([*(len(str(row[place])) for row in rows), *map(len, name.split()), 1])
        heading = name.lstrip("<") if text else "\n".join(wrap(name, widest, break_on_hyphens=False))
        shown.add_column(heading, justify="left" if text else "right", no_wrap=not wraps, overflow="fold")
    for row in rows:
        cells = (cell if isinstance(cell, Text) else words("–" if cell is None else cell) for cell in row)
        shown.add_row(*cells, style="bold" if strong and str(row[0]) == strong else "")
    return shown


def shown_blocks(blocks: Iterable[doc.Block]) -> Iterator[RenderableType]:
    """The blocks that a terminal shows; pictures and blocks that are folded on the page are left out."""
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
    """The head of a document, and those of its sections that a terminal shows, under their headings."""
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
