"""Writes files so that a reader, also after a crash, finds the old or the new content and never a part."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from coral_core.errors import StoreError


def write_synced(path: Path, data: bytes) -> None:
    """Write `data` to `path` and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until what stands at `path` (a folder: its names) is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader sees the old or the new content, never a part."""
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
    """Turn an `OSError` within into a `StoreError` that says that `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror})", remedy=remedy) from error
