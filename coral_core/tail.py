"""Follows a file of JSON lines that somebody else adds to."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Tail:
    """Complete lines that were added to a file; starts anew when it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._inode = 0

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """(whether the file is another one than before, the new records)."""
        try:
            with self._path.open("rb") as file:
                stat = self._path.stat()
                anew = stat.st_ino != self._inode or stat.st_size < self._at
                if anew:
                    self._at, self._inode = 0, stat.st_ino
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return False, []
        end = data.rfind(b"\n") + 1
        self._at += end
        return anew, list(_records(data[:end]))


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _records(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        try:
            row = json.loads(line, parse_constant=_no_number)
        except (ValueError, RecursionError):
            continue  # cut by a kill, or nothing that we wrote
        if isinstance(row, dict):
            yield row
