"""A report as data: sections of text, tables and pictures, which three writers show.

`markdown.py` writes Markdown, `html_page.py` a page, `flows/cli/markup.py` a terminal. Plain strings may hold words of
models, problems and errors: each writer escapes them in its own way, so a document never holds markup.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal


class Code(str):
    """A part of a text that is shown as code."""


class Strong(str):
    """A part of a text that is shown in bold; words of ours only."""


@dataclass(frozen=True)
class Link:
    """The report of another run in the same folder of runs."""

    run_id: str


Part = str | Link
Parts = tuple[Part, ...]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    parts: Parts
    style: str = ""
    """CSS classes of the page: soft, small, bad."""


@dataclass(frozen=True)
class Answer:
    """The result in a sentence, and what it is made of."""

    kind: ClassVar[str] = "answer"
    text: str
    tone: str = ""
    """better, worse or noise: its colour on the page."""
    more: Parts = ()


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar[str] = "bullets"
    items: tuple[Parts, ...]


@dataclass(frozen=True)
class Facts:
    """Names with what is known of each."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Bar:
    """A cell with a share in [0, 1], drawn as a bar where that can be."""

    share: float

    def __str__(self) -> str:
        return f"{self.share:.0%}"


@dataclass(frozen=True)
class Table:
    """Columns whose name begins with ``<`` hold text, with ``<<`` text that wraps, the others numbers."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    strong: str = ""
    """First cell of the row that stands out."""


@dataclass(frozen=True)
class Picture:
    """A PNG that is drawn when a writer asks for it."""

    kind: ClassVar[str] = "picture"
    caption: str
    alt: str
    draw: Callable[[], bytes]
    address: str = ""
    """Where Markdown finds it; without one it is on the page only."""
    scale: bool = False
    """Has a colour scale, which must not be inverted on dark pages."""

    @cached_property
    def png(self) -> bytes:
        return self.draw()


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side; `small`: many of them."""

    kind: ClassVar[str] = "pictures"
    items: tuple[Picture, ...]
    small: bool = False


@dataclass(frozen=True)
class Listing:
    """Lines of code."""

    kind: ClassVar[str] = "listing"
    text: str


@dataclass(frozen=True)
class Details:
    """Blocks that a page folds away."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: "tuple[Block, ...]"


@dataclass(frozen=True)
class PageOnly:
    """What only the page can show, by a macro of its templates: cards, lineage, patches."""

    kind: ClassVar[str] = "page-only"
    macro: str
    data: Any


Block = Text | Answer | Bullets | Facts | Table | Picture | Pictures | Listing | Details | PageOnly


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    anchor: str
    title: str
    link: str
    """Its name in the page's list of sections."""
    blocks: tuple[Block, ...]
    shown: Literal["everywhere", "files", "page"] = "everywhere"
    """files: on the page and in Markdown, not on the terminal."""


@dataclass(frozen=True)
class Document:
    """Everything that a writer shows."""

    title: str
    head: tuple[Block, ...]
    sections: tuple[Section, ...]


def text(*parts: Part, style: str = "") -> Text:
    """A paragraph of `parts`."""
    return Text(parts, style)


def blocks(*found: Block | None) -> tuple[Block, ...]:
    """The blocks that are there: tables without rows and texts without words are left out."""
    return tuple(block for block in found if block is not None and not _is_empty(block))


def _is_empty(block: Block) -> bool:
    match block:
        case Table():
            return not block.rows
        case Text():
            return not any(block.parts)
        case Bullets() | Pictures():
            return not block.items
    return False
