"""Atomic writes: a reader sees the old or the new content of a file and never a part of it, also after a crash."""

import contextlib
import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from coral_core.errors import ConfigError, StoreError


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


def finish(path: Path) -> None:
    """Give a file the permissions of its folder, as new files have them, and wait until it is on the disk.

    Libraries write weights through scratch files that only their owner may read.
    """
    mode = path.parent.stat().st_mode & 0o666
    if path.stat().st_mode & 0o777 != mode:
        path.chmod(mode)
    sync(path)


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


def check_new_folder(target: Path) -> Path:
    """Check that a folder to be written is absent or empty.

    Args:
        target: The folder, as the user gave it.

    Returns:
        The same with links resolved.

    Raises:
        ConfigError: it holds something, is no folder, or nothing can take its place.
    """
    try:
        folder = target.expanduser().resolve()
        content = next(folder.iterdir(), None)
    except FileNotFoundError:
        return folder
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{target}: cannot be used as a folder ({reason})", remedy="Give a new folder.") from None
    if content is not None:
        raise ConfigError(
            f"{target}: is not empty ({content.name[:60]} is in it), and nothing is overwritten",
            remedy="Give a new or an empty folder.",
        )
    if folder.is_mount():
        raise ConfigError(
            f"{target}: is a mount point, so that no finished folder can take its place",
            remedy=f"Give a new folder in it, such as {target / 'export'}.",
        )
    return folder


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A scratch folder beside `target`, which takes its place when the ``with`` block ends; after an exception nothing is left.

    What a killed process left of the same target is taken away. Files get the permissions of new files.

    Args:
        target: The folder to make: absent or empty. Missing folders above it are created.

    Raises:
        ConfigError: as `check_new_folder`.
        StoreError: an `OSError` in the block, or the folder cannot be written.
    """
    folder = check_new_folder(target)
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with refused_writes(target, "Free space, or give another folder."):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
            if (other := _lock(left, fcntl.LOCK_NB)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(other)
        scratch.mkdir()
        own = _lock(scratch)
        while not scratch.exists():  # another process took it for a left one, before it was locked
            if own is not None:
                os.close(own)
            scratch.mkdir()
            own = _lock(scratch)
        try:
            yield scratch
            for here, _, names in os.walk(scratch):
                for name in names:
                    finish(Path(here, name))
                sync(Path(here))
            os.rename(scratch, folder)  # onto an empty folder, which another program may have filled meanwhile
            sync(folder.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            if own is not None:
                os.close(own)


def _lock(folder: Path, how: int = 0) -> int | None:
    """A handle that holds the lock of a folder until it is closed; None if it cannot be had, also on a disk without such locks."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | how)
    except OSError:
        os.close(handle)
        return None
    return handle


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
