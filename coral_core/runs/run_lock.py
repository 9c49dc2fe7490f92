"""One session at a time: whoever works on a run holds the lock of its folder.

The kernel gives the lock back when the process ends, however it ends, so a run that was killed is free at once. Where a
file system has no such locks, sessions go on without.
"""

import contextlib
import errno
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from coral_core.errors import ConfigError, StoreError
from coral_core.json_object import json_object

NAME = "lock"
LONGEST = 4096
"""Characters of what the lock says of its holder."""
PATIENCE = 0.5
"""Seconds; whoever asks whether the lock is held holds it itself for a moment."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Be the only session of the run in `folder` within.

    Raises:
        ConfigError: another session works on it.
        StoreError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(_opened(folder, os.O_RDWR | os.O_APPEND | os.O_CREAT), "a+", encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"runs: {folder}: cannot be written ({error.strerror}). Choose another with --set runs=DIR"
        ) from error
    with file:
        if not _taken(file):
            raise _refusal(folder, file)
        with contextlib.suppress(OSError):  # only for who is refused
            file.truncate(0)
            file.write(json.dumps({"host": platform.node(), "pid": os.getpid()}))
            file.flush()
        yield


def is_held(folder: Path) -> bool | None:
    """Does a session work on the run in `folder`? None: there is no lock to tell by."""
    try:
        with os.fdopen(_opened(folder, os.O_RDONLY)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def refuse_if_held(folder: Path) -> None:
    """Raise `ConfigError` when a session works on the run in `folder`: before anything is started for another."""
    if is_held(folder):
        with os.fdopen(_opened(folder, os.O_RDONLY), encoding="utf-8", errors="replace") as file:
            raise _refusal(folder, file)


def _opened(folder: Path, flags: int) -> int:
    """The lock's file, without waiting for anybody, whatever lies there. Raises `OSError`."""
    return os.open(folder / NAME, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


def _taken(file: IO[str]) -> bool:
    """Take the lock; True also where there are no locks."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return True
            raise
        else:
            return True


def _refusal(folder: Path, file: IO[str]) -> ConfigError:
    try:
        file.seek(0)
        holder = json_object(file.read(LONGEST))
        who = f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return ConfigError(
        f"{folder.name} is running already: {who} works on it. Watch it with coral progress {folder.name}, stop it with coral cancel "
        f"{folder.name}, or start another with coral evolve CONFIG --again"
    )
