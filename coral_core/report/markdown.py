"""Writes a `Document` as Markdown: report.md, the summary in the Prefect UI, a champion's model card."""

from collections.abc import Sequence

from coral_core.report.document import (
    Answer,
    Block,
    Bullets,
    Code,
    Details,
    Document,
    Facts,
    Link,
    Listing,
    Part,
    Picture,
    Pictures,
    Section,
    Strong,
    Table,
    Text,
)
from coral_core.untrusted import code, inline


def markdown(document: Document) -> str:
    """The whole document; blocks that only a page can show are left out."""
    found = [f"# {inline(document.title)}" if document.title else "", *map(block, document.head)]
    found += [section(one) for one in document.sections if one.shown != "page"]
    return "\n\n".join(part for part in found if part) + "\n"


def section(found: Section) -> str:
    """A heading and its blocks."""
    inside = [part for part in map(block, found.blocks) if part]
    return "\n\n".join([f"## {found.title}", *inside]) if inside else ""


def block(found: Block) -> str:
    """One block; empty for what Markdown does not show."""
    match found:
        case Text():
            return line(found.parts)
        case Answer():
            return f"**{inline(found.text)}**" + (f"\n\n{line(found.more)}" if found.more else "")
        case Bullets():
            return "\n".join(f"- {line(parts)}" for parts in found.items)
        case Facts():  # a list, not a table: its lines break on a phone
            return "\n".join(f"- {inline(name)}: {inline(value)}" for name, value in found.rows)
        case Table():
            caption = f"{found.caption}:\n\n" if found.caption else ""
            return caption + table([name.lstrip("<") for name in found.columns], found.rows)
        case Picture():
            return f"![{found.caption}]({found.address})" if found.address else ""
        case Pictures():
            return "\n\n".join(filter(None, map(block, found.items)))
        case Listing():
            return f"```\n{found.text}\n```"
        case Details():
            return "\n\n".join([f"### {found.summary}", *filter(None, map(block, found.blocks))])
    return ""


def line(parts: Sequence[Part]) -> str:
    """Parts of a text as one line."""
    return "".join(map(_part, parts))


def _part(part: Part) -> str:
    match part:
        case Link():
            return f"[{part.run_id}](../{part.run_id}/report.md)"
        case Code():
            return code(part)
        case Strong():
            return f"**{part}**"
    plain = part.strip()
    lead, trail = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
    return f"{lead}{inline(plain)}{trail}" if plain else part


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table of untrusted cells; pipes inside them are escaped."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return inline(str(value)).replace("|", "\\|")
