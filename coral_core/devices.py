"""GPUs of this machine: lists them, finds those visible to a process, and reserves one for a lane.

Neither Docker nor a process pool reserves a GPU for one lane, so lanes do it themselves: a lane holds a lock file in the
store for the GPU that it uses. The kernel releases the lock when the process ends, also by kill -9. Lanes that compete for
a GPU run on one machine and thus under one kernel, whose locks also hold between containers and on a shared mount. Not
covered: lanes of two stores on one machine, which do not see each other's locks.
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
_NUMBER = re.compile(r"\d+(\.\d+)?")
_EVERY = ("", "all", "void", "none")


class Gpu(NamedTuple):
    """One GPU as nvidia-smi lists it."""

    uuid: str
    name: str


@lru_cache(maxsize=1)
def gpus() -> tuple[Gpu, ...]:
    """All GPUs of this machine or container; empty if nvidia-smi is missing or does not answer within 30 seconds."""
    return tuple(Gpu(uuid, name) for uuid, name in _by_uuid("name").items())


@lru_cache(maxsize=1)
def compute_capabilities() -> tuple[float, ...]:
    """CUDA compute capability of each GPU that `visible_gpus` lists; 0.0 where nvidia-smi does not tell it."""
    found = _by_uuid("compute_cap")
    return tuple(float(value) if _NUMBER.fullmatch(value := found.get(gpu.uuid, "")) else 0.0 for gpu in visible_gpus())


def _by_uuid(field: str) -> dict[str, str]:
    """UUID of each GPU -> its `field`, as nvidia-smi names it; empty where nvidia-smi does not answer."""
    try:
        reply = subprocess.run(
            ["nvidia-smi", f"--query-gpu=uuid,{field}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = (line.partition(",") for line in reply.stdout.splitlines() if "," in line)
    return {uuid.strip(): value.strip() for uuid, _, value in lines}


def visible_gpus(environment: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows to a process with this `environment`, in the order of CUDA_VISIBLE_DEVICES.

    All GPUs are returned if the variable is not set, or if it names one that is unknown.
    """
    named = environment.get(VISIBLE)
    if named is None:
        return gpus()
    chosen = [_named(entry.strip()) for entry in named.split(",")]
    if named and None in chosen:  # for example a MIG slice, which `gpus` does not list
        return gpus()
    return tuple(gpu for gpu in chosen if gpu is not None)


def _named(entry: str) -> Gpu | None:
    if entry.isascii() and entry.isdecimal() and len(entry) < 6:
        return gpus()[int(entry)] if int(entry) < len(gpus()) else None
    return next((gpu for gpu in gpus() if entry and gpu.uuid.startswith(entry)), None)


def is_given_one(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a GPU was already chosen for a process with this `environment`.

    CUDA_VISIBLE_DEVICES must name at most one GPU or, if it is not set, NVIDIA_VISIBLE_DEVICES (of container runtimes) one.
    """
    named = environment.get(VISIBLE)
    if named is not None:
        return "," not in named
    given = environment.get("NVIDIA_VISIBLE_DEVICES", "")
    return given not in _EVERY and "," not in given


def fits(name: str, kind: str) -> bool:
    """Whether the name of a GPU contains all parts of a kind, in any order and case.

    Args:
        name: Name of the GPU, as nvidia-smi prints it.
        kind: Kind that is asked for; its parts are separated by hyphens or spaces.

    Example:
        >>> fits("NVIDIA A100-SXM4-40GB", "A100-40GB"), fits("NVIDIA A10G", "A100-40GB")
        (True, False)
    """
    parts = set(re.split(r"[\s-]+", name.casefold()))
    return set(re.split(r"[\s-]+", kind.casefold())) <= parts


def to_choose_from(kind: str) -> tuple[Gpu, ...]:
    """The visible GPUs of `kind`, or all visible GPUs if there is none of that kind."""
    visible = visible_gpus()
    return tuple(gpu for gpu in visible if fits(gpu.name, kind)) or visible


class Taken(NamedTuple):
    """A GPU that is reserved until this process ends or calls `give_back`."""

    gpu: Gpu
    lock: int
    """Descriptor of the locked file."""

    def give_back(self) -> None:
        """Release the GPU for other lanes."""
        os.close(self.lock)


def take_one(choice: Sequence[Gpu], folder: Path) -> Taken | None:
    """Reserve the first free GPU.

    Args:
        choice: Candidates, in the order of preference.
        folder: Folder of the lock files, which all lanes of the store share; it must exist.

    Returns:
        None when all are taken.

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
    """Open a lock file with the permissions of its folder, since lanes of one machine may run as different users."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(PermissionError):  # the file of another user, who has set its permissions
        os.fchmod(lock, path.parent.stat().st_mode & 0o666)
    return lock
