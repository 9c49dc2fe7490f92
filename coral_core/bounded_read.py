"""Reads untrusted files and folders of stores, runs, queues and ledgers.

They are written by lanes on other machines, by people and by other programs. A FIFO or a device would block a reader for
ever, a sparse file would fill its memory, and a symbolic link would lead it out of the store. This module opens regular
files of a bounded size only and does not follow links. It checks the open file, which cannot be exchanged after the check.
Not covered: the meaning of the bytes (json_object.py), and file systems that hang.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from coral_core.json_object import json_object

MEBIBYTE = 2**20
SMALL = MEBIBYTE
"""Largest size in bytes of a file with one small record: a manifest, a ticket, a lane's note."""
RECORD = 64 * MEBIBYTE
"""Largest size in bytes of a file with one large record: training.json, start.json, an account of a lane."""
LINES = 1024 * MEBIBYTE
"""Largest size in bytes of history.jsonl and timings.jsonl."""
LONGEST_LINE = 16 * MEBIBYTE
"""Largest size in bytes of one of their lines."""

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_ODD = {
    errno.ELOOP: "a symbolic link",
    errno.ENOTDIR: "a symbolic link or a file where a folder should be",
    errno.ENXIO: "a socket or a device, not a file",
}
"""Texts for errors of the system whose own text would mislead."""
Model = TypeVar("Model", bound=BaseModel)


class OddFileError(OSError):
    """The path exists, but is not a regular file (or folder) within the size limit.

    Args:
        path: The path.
        problem: What is wrong with it.
    """

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(errno.EINVAL, problem, str(path))


def kind_of(mode: int) -> str:
    """The kind of file that the `st_mode` of a status names, with its article.

    >>> kind_of(stat.S_IFIFO)
    'a FIFO'
    """
    return next((name for test, name in _KINDS if test(mode)), "a file")


def read_file(path: Path, most: int, below: Path | None = None) -> bytes:
    """The content of a regular file.

    Args:
        path: The file.
        most: Largest size in bytes.
        below: A folder above the file, or None for no check of folders. No folder between it and the file may be a symbolic
            link; the folder itself may.

    Raises:
        OddFileError: it is no regular file, is larger than `most`, or is reached through a link.
        OSError: it does not exist or cannot be read.
        ValueError: `path` holds a NUL byte.
    """
    with open_file(path, most, below) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OddFileError(path, f"more than {most} bytes")
    return data


@contextlib.contextmanager
def open_file(path: Path, most: int, below: Path | None = None) -> Iterator[BufferedReader]:
    """Open a regular file for reading in a ``with`` block.

    Args:
        path: The file.
        most: Largest size in bytes when it is opened; a file that grows later is not cut.
        below: As for `read_file`.

    Raises:
        OddFileError, OSError, ValueError: as for `read_file`.
    """
    try:
        handle = _opened(path, below)
    except OSError as error:
        raise _explained(error, path) from None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        _check_regular(path, status)
        if status.st_size > most:
            raise OddFileError(path, f"{status.st_size} bytes, {most} are read at most")
        yield file


def read_model(path: Path, model: type[Model], most: int = SMALL, below: Path | None = None) -> Model:
    """The record in a JSON file.

    Args:
        path: The file.
        model: Class of the record.
        most: Largest size in bytes.
        below: As for `read_file`.

    Raises:
        OddFileError, OSError: as for `read_file`.
        ValueError: the file is no JSON object or no such record, or `path` holds a NUL byte.
    """
    return model.model_validate(json_object(read_file(path, most, below)))


def sha256_of(path: Path, most: int, below: Path | None = None) -> str:
    """SHA-256 of a regular file, as 64 hexadecimal digits.

    Args:
        path: The file.
        most: Largest size in bytes.
        below: As for `read_file`.

    Raises:
        OddFileError, OSError, ValueError: as for `read_file`.
    """
    with open_file(path, most, below) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_folder(path: Path, below: Path | None = None) -> dict[str, os.stat_result]:
    """Names in a folder, in sorted order, with the status of each; links are not followed.

    Args:
        path: The folder.
        below: A folder above it, or None. No folder between it and `path` may be a symbolic link.

    Raises:
        OSError: it does not exist, is no folder, or cannot be read.
    """
    try:
        handle = _opened_folder(path, below)
    except OSError as error:
        raise _explained(error, path) from None
    statuses = {}
    try:
        with os.scandir(handle) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed since the scan began
                    statuses[entry.name] = entry.stat(follow_symlinks=False)
    finally:
        os.close(handle)
    return {name: statuses[name] for name in sorted(statuses)}


def look_at(path: Path) -> os.stat_result | None:
    """Status of `path`, links not followed; None when it does not exist or may not be read."""
    try:
        return path.lstat()
    except (OSError, ValueError):
        return None


def _opened(path: Path, below: Path | None) -> int:
    name, folder = (path, None) if below is None else (Path(path.name), _opened_folder(path.parent, below))
    try:
        _check_regular(path, os.stat(name, dir_fd=folder, follow_symlinks=False))  # opening a device can have effects
        return os.open(name, _FILE, dir_fd=folder)
    finally:
        if folder is not None:
            os.close(folder)


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OddFileError(path, f"{kind_of(status.st_mode)}, not a file")


def _opened_folder(path: Path, below: Path | None) -> int:
    if below is None:
        return os.open(path, _FOLDER)
    parts = path.relative_to(below).parts if path.is_relative_to(below) else ("..",)
    if ".." in parts:
        raise OddFileError(path, f"not below {below}")
    folder = os.open(below, _FOLDER)
    for part in parts:
        try:
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder


def _explained(error: OSError, path: Path) -> OSError:
    """The error with the whole path, and with a text from `_ODD` if the system's own would mislead."""
    if isinstance(error, OddFileError):
        return error
    if error.errno in _ODD:
        return OddFileError(path, _ODD[error.errno])
    error.filename = str(path)
    return error
