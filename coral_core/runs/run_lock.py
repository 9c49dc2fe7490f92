"""The lock of a run's folder, which lets one session at a time work on the run.

The kernel releases the lock when the process ends, also by a kill. On a file system without such locks, sessions run
without one.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from coral_core.atomic_write import refused_writes
from coral_core.bounded_read import read_model
from coral_core.errors import ConfigError
from coral_core.runs.records import RunFacts

NAME = "lock"
PATIENCE = 0.5
"""Seconds to wait for the lock, because `is_held` takes it for a moment."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the lock of the run in `folder` inside a ``with`` block; the folder is created if missing.

    Raises:
        ConfigError: another session works on it.
        StoreError: the folder cannot be written.
    """
    with refused_writes(folder, "Choose another with --set runs=DIR."):
        folder.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(_opened(folder, os.O_RDWR | os.O_CREAT))
    with file:
        if not _taken(file.fileno()):
            raise _refusal(folder)
        yield


def is_held(folder: Path) -> bool | None:
    """Whether a session holds the lock of the run in `folder`; None when it has no usable lock."""
    try:
        with os.fdopen(_opened(folder, os.O_RDONLY)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def refuse_if_held(folder: Path) -> None:
    """Raise `ConfigError` if a session holds the lock of the run in `folder`; a check before a session is prepared."""
    if is_held(folder):
        raise _refusal(folder)


def _opened(folder: Path, flags: int) -> int:
    """Descriptor of the lock's file; never blocks, also not on a FIFO. Raises `OSError`."""
    return os.open(folder / NAME, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


def _taken(file: int) -> bool:
    """Take the lock; True also on a file system without locks."""
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


def _refusal(folder: Path) -> ConfigError:
    try:
        facts = read_model(folder / "run.json", RunFacts)
        who = f"process {facts.pid} on {facts.host}"
    except (OSError, ValueError):
        who = "another process"
    return ConfigError(
        f"{folder.name} is running already: {who} works on it",
        remedy=f"Watch it with coral progress {folder.name}, stop it with coral cancel {folder.name}, or start another "
        "with coral evolve CONFIG --again.",
    )
