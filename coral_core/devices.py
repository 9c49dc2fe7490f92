"""GPUs of this machine: which there are, which a process sees, and one for itself alone.

Neither Docker nor a process pool gives a GPU to one lane only, so lanes share them out among themselves: a lane holds a
lock on the store for the one it uses. The lock dies with its process, also by kill -9. Who contends for one GPU is on
one machine, and so under one kernel, which keeps such locks also between containers and on a shared mount. Not covered:
lanes of two stores on one machine, which do not see each other's locks.
"""

import contextlib
import fcntl
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

VISIBLE = "CUDA_VISIBLE_DEVICES"
_EVERY = ("", "all", "void", "none")


class Gpu(NamedTuple):
    """One GPU as nvidia-smi lists it."""

    uuid: str
    name: str


@lru_cache(maxsize=1)
def gpus() -> tuple[Gpu, ...]:
    """All GPUs of this machine or container; none where nvidia-smi is not there or does not answer."""
    try:
        reply = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid,name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    lines = (line.partition(",") for line in reply.stdout.splitlines() if "," in line)
    return tuple(Gpu(uuid.strip(), name.strip()) for uuid, _, name in lines)


def visible_gpus(environment: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """Those that CUDA shows to a process, in its order: nvidia-smi lists them all, whatever CUDA_VISIBLE_DEVICES says."""
    named = environment.get(VISIBLE)
    if named is None:
        return gpus()
    found = [_named(entry.strip()) for entry in named.split(",")]
    if named and None in found:  # a slice of a GPU, say: nvidia-smi does not list those here
        return gpus()
    return tuple(gpu for gpu in found if gpu is not None)


def _named(entry: str) -> Gpu | None:
    if entry.isascii() and entry.isdecimal() and len(entry) < 6:
        return gpus()[int(entry)] if int(entry) < len(gpus()) else None
    return next((gpu for gpu in gpus() if entry and gpu.uuid.startswith(entry)), None)


def is_given_one(environment: Mapping[str, str] = os.environ) -> bool:
    """Has somebody chosen already: a person by CUDA_VISIBLE_DEVICES, or a container runtime by NVIDIA_VISIBLE_DEVICES?"""
    named = environment.get(VISIBLE)
    if named is not None:
        return "," not in named
    given = environment.get("NVIDIA_VISIBLE_DEVICES", "")
    return given not in _EVERY and "," not in given


def fits(name: str, kind: str) -> bool:
    """Is a GPU of this name of this kind? All parts of the kind are in the name: A100-40GB is NVIDIA A100-SXM4-40GB."""
    parts = set(re.split(r"[\s-]+", name.casefold()))
    return set(re.split(r"[\s-]+", kind.casefold())) <= parts


def to_choose_from(kind: str) -> tuple[Gpu, ...]:
    """GPUs that a lane which wants `kind` may use: those of the kind, or all where there is none."""
    seen = visible_gpus()
    return tuple(gpu for gpu in seen if fits(gpu.name, kind)) or seen


class Taken(NamedTuple):
    """A GPU that is this process's own until it ends, or `give_back`."""

    gpu: Gpu
    lock: int
    """Descriptor of the locked file."""

    def give_back(self) -> None:
        """Let others have it."""
        os.close(self.lock)


def take_one(choice: Sequence[Gpu], folder: Path) -> Taken | None:
    """The first of `choice` that nobody has, by a lock in `folder`; None when all are taken.

    Raises:
        OSError: `folder` cannot hold locks.
    """
    for gpu in choice:
        lock = _open(folder / f"{gpu.uuid}.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Taken(gpu, lock)
        except OSError as error:
            os.close(lock)
            if not isinstance(error, BlockingIOError):
                raise
    return None


def _open(path: Path) -> int:
    """Open to whom the folder is open: lanes of one machine may be different users."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(PermissionError):  # another user's, who has opened it
        os.fchmod(lock, path.parent.stat().st_mode & 0o666)
    return lock
