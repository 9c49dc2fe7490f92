"""Confinement of every child other than the filter of system calls: rlimits, Landlock, capabilities.

A patch can write nothing at all: no path is writable (Landlock) and no file may grow (RLIMIT_FSIZE 0), so there is no
scratch directory to limit. Standard library only: the zygote has no import path and loads this module from its file. The
parent imports it to detect the layers of this machine.
"""

import ctypes
import os
import resource
import signal
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
FS_READ_FILE, FS_READ_DIR = 1 << 2, 1 << 3
CAPABILITY_VERSION_3 = 0x20080522
NOT_READABLE = ("site-packages", "dist-packages", "test", "ctypes", "lib-dynload")


def landlock_abi() -> int:
    """Version of the Landlock ABI of this kernel; 0 when there is none."""
    return max(0, int(LIBC.syscall(LANDLOCK_CREATE, None, 0, 1)))


def landlock_rules(readable: list[str]) -> int:
    """File descriptor of a rule set that handles every kind of access and allows reading `readable`.

    Raises:
        OSError: the kernel refuses.
    """
    abi = landlock_abi()
    accesses = (1 << 13) - 1
    for since, bit in ((2, 13), (3, 14), (5, 15)):
        accesses |= (1 << bit) if abi >= since else 0
    attributes = struct.pack("<QQQ", accesses, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    rules = int(LIBC.syscall(LANDLOCK_CREATE, attributes, size, 0))
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    for path in readable:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        allowed = FS_READ_FILE | (FS_READ_DIR if os.path.isdir(path) else 0)
        LIBC.syscall(LANDLOCK_ADD, rules, 1, struct.pack("<Qi", allowed, handle), 0)
        os.close(handle)
    return rules


def standard_library() -> list[str]:
    """Paths that a patch may read: the standard library, without installed packages and without ctypes."""
    root = os.path.dirname(os.__file__)
    paths = [os.path.join(root, name) for name in os.listdir(root) if name not in NOT_READABLE]
    dynload = os.path.join(root, "lib-dynload")
    if os.path.isdir(dynload):
        paths += [os.path.join(dynload, name) for name in os.listdir(dynload) if "ctypes" not in name]
    return paths


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def drop_capabilities() -> None:
    """Keep no capability, not even as the superuser. Raises `OSError`."""
    header = struct.pack("<Ii", CAPABILITY_VERSION_3, 0)
    if LIBC.capset(header, b"\0" * 24) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def lock_down(limits: dict[str, float], rules: int | None, zygote: int) -> None:
    """Apply rlimits and Landlock to this process; the caller installs the filter of system calls afterwards.

    Ends the process when its parent is no longer the zygote, or when Landlock refuses.

    Args:
        limits: ``memory_mb`` (MiB of address space) and ``total_cpu_seconds``; other keys are ignored.
        rules: File descriptor of the Landlock rules; None: without Landlock.
        zygote: Process id that the parent must have.
    """
    megabyte = 1 << 20
    for kind, wanted in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, int(limits["memory_mb"]) * megabyte),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CPU, int(limits["total_cpu_seconds"])),
        (resource.RLIMIT_STACK, 64 * megabyte),
    ):
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        # SIGXCPU at the soft limit identifies the cause; SIGKILL at the hard limit would not
        most = value + 1 if kind == resource.RLIMIT_CPU and hard == resource.RLIM_INFINITY else value
        resource.setrlimit(kind, (value, most))
    die_with_parent()
    if os.getppid() != zygote:
        os._exit(1)
    LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if rules is not None and LIBC.syscall(LANDLOCK_RESTRICT, rules, 0) != 0:
        os._exit(1)
