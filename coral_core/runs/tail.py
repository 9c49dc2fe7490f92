"""Follows a file of JSON lines that somebody else adds to."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coral_core.bounded_read import LINES, LONGEST_LINE, open_file
from coral_core.json_object import json_object

log = logging.getLogger("coral.report")


class Tail:
    """Complete lines that were added to a file; starts anew when it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._inode = 0
        self._said = ""

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """(whether the file is another one than before, the new records)."""
        try:
            with open_file(self._path, LINES) as file:
                stat = os.fstat(file.fileno())
                anew = stat.st_ino != self._inode or stat.st_size < self._at
                if anew:
                    self._at, self._inode = 0, stat.st_ino
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return False, []
        except OSError as error:
            if self._said != (said := str(error)):
                self._said = said
                log.warning("%s cannot be read and counts as empty: %s", self._path, error.strerror)
            return False, []
        end = data.rfind(b"\n") + 1
        self._at += end
        return anew, list(_records(data[:end]))


def _records(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):
        if line and len(line) <= LONGEST_LINE:
            try:
                yield json_object(line)
            except ValueError:
                continue  # cut by a kill, or nothing that we wrote
