"""Writes a `Document` as Markdown: report.md, the summary in the Prefect UI, tables of a champion's model card."""

from collections.abc import Sequence

from coral_core.report import document as doc
from coral_core.untrusted import code, inline


def markdown(document: doc.Document) -> str:
    """The whole document; blocks that only a page can show are left out."""
    found = [f"# {inline(document.title)}" if document.title else "", *map(block, document.head)]
    for section in document.sections:
        if section.shown != "page":
            found += [f"## {section.title}", *map(block, section.blocks)]
    return "\n\n".join(part for part in found if part) + "\n"


def block(found: doc.Block) -> str:
    """One block; empty if Markdown does not show blocks of its kind."""
    match found:
        case doc.Text():
            return line(found.parts)
        case doc.Answer():
            return f"**{inline(found.text)}** {line(found.more)}".strip()
        case doc.Facts():  # a list, not a table: its lines break on a phone
            return "\n".join(f"- {inline(name)}: {inline(value)}" for name, value in found.rows)
        case doc.Table():
            caption = f"{found.caption}:\n\n" if found.caption else ""
            return caption + table([name.lstrip("<") for name in found.columns], found.rows)
        case doc.Pictures():
            return "\n\n".join(f"![{item.caption}]({item.address})" for item in found.items if item.address)
        case doc.Listing():
            return f"```\n{found.text}\n```"
    return ""


def line(parts: doc.Parts) -> str:
    """The parts of a paragraph on one line."""
    return "".join(map(_part, parts))


def _part(part: doc.Part) -> str:
    if isinstance(part, doc.Link):
        return f"[{part.run_id}](../{part.run_id}/report.md)"
    if isinstance(part, doc.Code):
        return code(part)
    plain = part.strip()
    lead, trail = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
    return f"{lead}{inline(plain)}{trail}" if plain else part


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table.

    Args:
        header: Column names, which are trusted.
        rows: Cells, which are not: markup and pipes in them are escaped.

    Example:
        >>> print(table(("objective", "score"), [("bugfix", 0.5)]))
        | objective | score |
        |---|---|
        | bugfix | 0.5 |
    """
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return inline(str(value)).replace("|", "\\|")
