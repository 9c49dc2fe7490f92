"""Reads the rows of a benchmark's file: JSON lines or one JSON list, plain or compressed by gzip. The file is hostile.

Sizes are limited before anything is parsed, also of what a compressed file unpacks to. A row that is broken costs that
row only.
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coral_core.bounded_read import MEBIBYTE, open_file
from coral_core.errors import ConfigError, ProblemError
from coral_core.json_object import json_value

LARGEST_FILE = 512 * MEBIBYTE
"""Bytes of a file, packed or not."""
LARGEST_UNPACKED = 512 * MEBIBYTE
LARGEST_LIST = 64 * MEBIBYTE
"""Bytes of a file that is one JSON list, which is read at once."""
LONGEST_ROW = 8 * MEBIBYTE
MOST_ROWS = 20_000

Row = tuple[str, dict[str, Any] | str]
"""Where the row stands (line, or number in the list), and the row or why it is none."""


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of a file, in order.

    Raises:
        ConfigError: the file cannot be read, or is too large.
        ProblemError: it is not of these formats.
    """
    try:
        with open_file(path, LARGEST_FILE) as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            stream: Any = gzip.GzipFile(fileobj=file) if packed else file
            yield from _rows(path, stream)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ProblemError(f"{path}: not a whole gzip file: {error}", remedy="Download it again.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}", remedy="Give a file."
        ) from None


def _rows(path: Path, stream: Any) -> Iterator[Row]:
    total = count = number = 0
    while line := stream.readline(LONGEST_ROW + 1):
        number += 1
        total += len(line)
        if total > LARGEST_UNPACKED:
            raise ProblemError(f"{path}: more than {LARGEST_UNPACKED // MEBIBYTE} MiB", remedy="Import a part of it.")
        if not line.strip():
            continue
        if count == 0 and line.lstrip(b"\xef\xbb\xbf \t").startswith(b"["):
            yield from _list(path, line + stream.read(LARGEST_LIST + 1 - len(line)))
            return
        count += 1
        if count > MOST_ROWS:
            raise ProblemError(f"{path}: more than {MOST_ROWS} rows", remedy="Import a part of it.")
        where = f"line {number}"
        if len(line) > LONGEST_ROW:
            while line and not line.endswith(b"\n"):
                line = stream.readline(LONGEST_ROW)
                total += len(line)
                if total > LARGEST_UNPACKED:
                    raise ProblemError(
                        f"{path}: more than {LARGEST_UNPACKED // MEBIBYTE} MiB", remedy="Import a part of it."
                    )
            yield where, f"longer than {LONGEST_ROW // MEBIBYTE} MiB"
            continue
        yield where, _row(line)


def _list(path: Path, data: bytes) -> Iterator[Row]:
    if len(data) > LARGEST_LIST:
        raise ProblemError(
            f"{path}: one JSON list of more than {LARGEST_LIST // MEBIBYTE} MiB", remedy="Write one object per line."
        )
    try:
        items = json_value(data.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise ProblemError(
            f"{path}: not JSON: {str(error)[:200]}", remedy="Give JSON lines, or one JSON list."
        ) from None
    if not isinstance(items, list) or len(items) > MOST_ROWS:
        raise ProblemError(f"{path}: no list of at most {MOST_ROWS} rows", remedy="Import a part of it.")
    for number, item in enumerate(items, 1):
        yield f"row {number}", item if isinstance(item, dict) else f"no object but {type(item).__name__}"


def _row(line: bytes) -> dict[str, Any] | str:
    try:
        value = json_value(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        return f"not JSON: {str(error)[:200]}"
    return value if isinstance(value, dict) else f"no object but {type(value).__name__}"
