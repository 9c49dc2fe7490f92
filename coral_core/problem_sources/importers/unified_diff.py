"""Reads and applies unified diffs, as git writes them, in plain Python: no program runs on a foreign patch.

Applied exactly or not at all: a hunk must match at its line. Not covered: binary patches, and copies.
"""

import re
from dataclasses import dataclass

from coral_core.problem_sources.importers.material import RefusedRowError

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
CONTEXT = 3
"""Unchanged lines that git shows around a change."""
LONGEST_DIFF = 2_000_000
"""Characters."""


@dataclass(frozen=True)
class Hunk:
    """One hunk: where it begins in the old file (from 1), and its lines with their sign."""

    start: int
    lines: tuple[str, ...]

    def side(self, sign: str) -> list[str]:
        """The lines of the old (``-``) or the new (``+``) side."""
        return [line[1:] for line in self.lines if line[0] in (" ", sign)]

    def ends_file(self) -> bool:
        """True when no line follows in the file: git shows three unchanged lines after a change where there are as many."""
        kinds = [line[0] for line in self.lines]
        before = next((place for place, kind in enumerate(kinds) if kind != " "), 0)
        after = next((place for place, kind in enumerate(reversed(kinds)) if kind != " "), 0)
        return after < CONTEXT and (before == CONTEXT or self.start <= 1)


@dataclass(frozen=True)
class FileDiff:
    """The changes of one file; an empty path stands for a file that is not there."""

    old: str
    new: str
    hunks: tuple[Hunk, ...]


def parse_diff(text: str) -> list[FileDiff]:
    """The files of a diff.

    Raises:
        RefusedRowError: it is no unified diff.

    Example:
        >>> [file] = parse_diff("--- a/x.py\\n+++ b/x.py\\n@@ -1 +1 @@\\n-a = 1\\n+a = 2\\n")
        >>> file.new, file.hunks[0].side("+")
        ('x.py', ['a = 2'])
    """
    if len(text) > LONGEST_DIFF:
        raise RefusedRowError("too long", f"a diff of {len(text)} characters")
    lines = text.replace("\r\n", "\n").split("\n")
    files: list[FileDiff] = []
    place = 0
    while place < len(lines):
        if not (lines[place].startswith("--- ") and place + 1 < len(lines) and lines[place + 1].startswith("+++ ")):
            place += 1
            continue
        old, new = _path(lines[place]), _path(lines[place + 1])
        place += 2
        hunks: list[Hunk] = []
        while place < len(lines) and (found := _HUNK.match(lines[place])):
            left, right = int(found[2] or 1), int(found[4] or 1)
            place += 1
            body: list[str] = []
            while (left > 0 or right > 0) and place < len(lines):
                line = lines[place] or " "
                if line[0] not in " -+\\":
                    raise RefusedRowError("not a diff", f"line {place + 1}: {line[:60]!r}")
                if line[0] != "\\":
                    body.append(line)
                    left -= line[0] != "+"
                    right -= line[0] != "-"
                place += 1
            if left == right and place >= len(lines):  # empty lines at the end were stripped
                body += [" "] * left
                left = right = 0
            if left or right:
                raise RefusedRowError("not a diff", f"a hunk that is cut off at line {place + 1}")
            hunks.append(Hunk(int(found[1]), tuple(body)))
        files.append(FileDiff(old, new, tuple(hunks)))
    if not files:
        raise RefusedRowError("not a diff", "no file in it")
    return files


def _path(line: str) -> str:
    name = line[4:].split("\t")[0].strip()
    return "" if name == "/dev/null" else name.removeprefix("a/").removeprefix("b/")


def applied(file: FileDiff, text: str) -> str:
    """`text` with the changes of one file.

    Raises:
        RefusedRowError: the file is not the one that was changed.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    result: list[str] = []
    place = 0
    for hunk in file.hunks:
        old = hunk.side("-")
        start = hunk.start - 1 if old else hunk.start
        if start < place or lines[start : start + len(old)] != old:
            raise RefusedRowError("the diff does not apply", f"{file.old}: line {hunk.start}")
        result += [*lines[place:start], *hunk.side("+")]
        place = start + len(old)
    return "\n".join([*result, *lines[place:]])
