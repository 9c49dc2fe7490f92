"""Documents and words of others (models, problems, errors, logs, file names) on the terminal, without its escapes or rich's markup.

Rich takes `[...]` in a string for markup and raises on what it cannot read, so foreign words reach it through these.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

from rich.console import RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from coral_core.report import document as doc
from coral_core.untrusted import visible

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
                yield Padding(_table(block), (1, 0, 0, 0) if block.caption else 0)


def shown_sections(sections: Iterable[doc.Section]) -> Iterator[RenderableType]:
    """The sections that the terminal shows, under their headings."""
    for section in sections:
        if section.shown == "everywhere":
            yield words(f"\n{section.title}", "bold underline")
            yield from shown_blocks(section.blocks)


def _line(parts: doc.Parts) -> Text:
    return Text.assemble(*(_part(part) for part in parts))


def _part(part: doc.Part) -> Text:
    if isinstance(part, doc.Link):
        return words(part.run_id)
    return words(part, "cyan" if isinstance(part, doc.Code) else "")


def _table(found: doc.Table) -> Table:
    gap = 1 if len(found.columns) > MANY_COLUMNS else 2
    table = Table(title=words(found.caption) if found.caption else None, title_justify="left", title_style="bold",
                  box=None, pad_edge=False, collapse_padding=True, padding=(0, gap), header_style="dim")  # fmt: skip
    justify: Literal["left", "right"]
    for name in found.columns:
        # what cannot wrap stays whole, and is narrow under a heading of several lines
        justify = "left" if name.startswith("<") else "right"
        wraps = name.startswith("<<")
        heading = name.lstrip("<") if wraps else name.lstrip("<").replace(" ", "\n")
        table.add_column(heading, justify=justify, no_wrap=not wraps, overflow="fold")
    for row in found.rows:
        table.add_row(*map(words, row), style="bold" if found.strong and str(row[0]) == found.strong else "")
    return table
