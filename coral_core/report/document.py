"""A report as data: sections of text, tables and pictures, rendered by three writers.

`markdown.py` writes Markdown, `html_page.py` a page, `flows/cli/markup.py` a terminal. Plain strings may hold text from
models, problems and errors: each writer escapes it in its own way, so a document never holds markup.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal


class Code(str):
    """A part of a text that is shown as code."""


@dataclass(frozen=True)
class Link:
    """The report of another run in the same folder of runs."""

    run_id: str


Part = str | Link
Parts = tuple[Part, ...]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    parts: Parts
    style: str = ""
    """CSS classes of the page: soft, small, bad."""


@dataclass(frozen=True)
class Answer:
    """The result in a sentence, and the sentences that explain it."""

    text: str
    tone: str = ""
    """better, worse or noise: its colour on the page."""
    more: Parts = ()


@dataclass(frozen=True)
class Facts:
    """A list of names with a value each."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Columns whose name begins with ``<`` hold text, with ``<<`` text that wraps, the others numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    strong: str = ""
    """First cell of the row that stands out."""
    folded: bool = False
    """Whether the page shows it only when its caption is clicked."""


@dataclass(frozen=True)
class Picture:
    """A PNG that is drawn when a writer asks for it."""

    caption: str
    alt: str
    draw: Callable[[], bytes]
    address: str = ""
    """Where Markdown finds it; without one it is on the page only."""
    scale: bool = False
    """Has a colour scale, which must not be inverted on dark pages."""

    @cached_property
    def png(self) -> bytes:
        """The picture, drawn at first use."""
        return self.draw()


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side; `small`: many of them."""

    items: tuple[Picture, ...]
    small: bool = False


@dataclass(frozen=True)
class Listing:
    """Lines of code."""

    text: str


@dataclass(frozen=True)
class Patch:
    """One patch of a model with the judge's verdict."""

    problem_id: str
    bug_class: str
    outcome: str
    passed: bool
    remarks: tuple[str, ...]
    diff: str
    """Unified diff against the buggy source; the patch itself when the problem is not at hand; empty: no change."""
    is_diff: bool


@dataclass(frozen=True)
class Patches:
    """Patches by how they ended; only the page shows them."""

    groups: tuple[tuple[str, tuple[Patch, ...]], ...]
    """Title and patches of each group."""


Block = Text | Answer | Facts | Table | Pictures | Listing | Patches


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    anchor: str
    title: str
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
    """The blocks without None and without empty ones: tables and lists without rows, texts without words."""
    return tuple(block for block in found if block is not None and not _is_empty(block))


def _is_empty(block: Block) -> bool:
    match block:
        case Table() | Facts():
            return not block.rows
        case Text():
            return not any(block.parts)
        case Pictures():
            return not block.items
    return False
