"""Atomic writes: a reader sees the old or the new content of a file and never a part of it, also after a crash."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from coral_core.errors import StoreError


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk.

    Args:
        path: The file; it is truncated if it exists.
        data: Its new content.
    """
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until the file at `path`, or the entries of the folder at `path`, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file so that a reader sees the old or the new content and never a part of it.

    Args:
        path: The file; missing folders above it are created.
        data: Its new content.

    Raises:
        OSError: the file cannot be written; the old content is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_synced(scratch, data)
        os.replace(scratch, path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def refused_writes(
    path: Path, remedy: str = "Free space and run the same command again; finished work is kept."
) -> Iterator[None]:
    """Turn an `OSError` raised inside the ``with`` block into a `StoreError` that says that `path` cannot be written.

    Args:
        path: What is written, for the error.
        remedy: What the user can do, as a whole sentence.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror})", remedy=remedy) from error
