"""Confines the process that runs a project's tests: no network, no writes outside its folders, limits.

Milder than the confinement of a patch (`judge.sandbox`), since tests may start processes and threads and read files. In
order: namespaces where the machine has them (processes, loopback-only network, mounts), rlimits, Landlock (writes only
below the given folders), a filter of system calls. Each layer that is missing is reported, not fatal: the tests are the
user's own.

Standard library only: `run_tests` loads this file by its path, in the project's own interpreter.
"""

import contextlib
import ctypes
import os
import platform
import resource
import signal
import socket
import struct
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
NEW = {"mount": 0x20000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000}
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 38, 22
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 16384, 1 << 18
FILE_BYTES = 64 << 20
"""Largest file that a test may write, captured output included."""
MEMORY_BYTES = 8 << 30
READ_AND_EXECUTE = (1 << 0) | (1 << 2) | (1 << 3)
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm")
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000
# socket; then ptrace process_vm_readv process_vm_writev mount umount2 pivot_root unshare setns bpf keyctl add_key
# perf_event_open userfaultfd io_uring_setup
CALLS = {
    "x86_64": (0xC000003E, 41, (101, 310, 311, 165, 166, 155, 272, 308, 321, 250, 248, 298, 323, 425)),
    "aarch64": (0xC00000B7, 198, (117, 270, 271, 40, 39, 41, 97, 268, 280, 219, 217, 241, 282, 425)),
}


def confine(writable: list[str], layers: Any) -> list[str]:
    """Confine this process and those that it starts, for good.

    Args:
        writable: Folders below which files may be written.
        layers: The module `judge.sandbox.layers`, loaded from its file.

    Returns:
        Names of the layers in force: pid, net, ipc, mount, limits, landlock, seccomp. With ``pid`` the caller goes on in
        another process, whose end this one passes on.
    """
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    names = _namespaces()
    for kind, most in (
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    names.append("limits")
    with contextlib.suppress(OSError):  # a layer on top
        layers.drop_capabilities()
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    devices = [os.path.join("/dev", name) for name in DEVICES if name != "shm" or "mount" in names]
    if _landlock([*writable, *devices], layers.landlock_abi(), "net" in names):
        names.append("landlock")
    if platform.machine() in CALLS and _filter("net" in names):
        names.append("seccomp")
    return names


def _namespaces() -> list[str]:
    uid, gid = os.getuid(), os.getgid()
    wanted = ("user", "net", "ipc", "pid", "mount")
    for names in (wanted, wanted[1:]):
        if LIBC.unshare(sum(NEW[name] for name in names)) == 0:
            break
    else:
        return []
    if "user" in names:
        for path, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            try:
                with open(f"/proc/self/{path}", "w") as file:
                    file.write(text)
            except OSError:
                continue
    _loopback()
    _in_another_process()  # the first in its namespace, which only waits
    _in_another_process()
    entered = ["pid", "net", "ipc"]
    quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC
    if LIBC.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None) == 0:
        LIBC.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(quiet), None)
        if LIBC.mount(b"tmpfs", b"/dev/shm", b"tmpfs", ctypes.c_ulong(quiet), b"size=64m") == 0:
            entered.append("mount")
    return entered


def _in_another_process() -> None:
    """Go on in a child; the caller waits for it and ends as it does."""
    child = os.fork()
    if not child:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        return
    while True:
        try:
            pid, status = os.wait()
        except InterruptedError:
            continue
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _loopback() -> None:
    """Switch on the loopback interface of a new network namespace: tests may talk to themselves."""
    with contextlib.suppress(OSError, ImportError):
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            fcntl.ioctl(handle, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING


def _landlock(writable: list[str], abi: int, network: bool) -> bool:
    """Forbid changes of files outside `writable`; without a network of its own, also TCP."""
    if abi < 1:
        return False
    accesses = (1 << 13) - 1
    for since, bit in ((2, 13), (3, 14)):
        accesses |= (1 << bit) if abi >= since else 0
    accesses &= ~READ_AND_EXECUTE
    attributes = struct.pack("<QQQ", accesses, 3 if abi >= 4 and not network else 0, 0)
    rules = int(LIBC.syscall(444, attributes, 8 if abi < 4 else 16, 0))
    if rules < 0:
        return False
    for path in writable:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        files = (1 << 1) | ((1 << 14) if abi >= 3 else 0)
        LIBC.syscall(
            445, rules, 1, struct.pack("<Qi", accesses if os.path.isdir(path) else accesses & files, handle), 0
        )
        os.close(handle)
    done = int(LIBC.syscall(446, rules, 0)) == 0
    os.close(rules)
    return done


def _filter(network: bool) -> bool:
    """Refuse system calls that reach other processes or the kernel's configuration, and sockets that reach outside.

    Args:
        network: The process has a network of its own: internet sockets are allowed.
    """
    architecture, socket_call, refused = CALLS[platform.machine()]
    families = (socket.AF_INET, socket.AF_INET6, 16) if network else ()
    code = [_step(0x20, 0, 0, 4), _step(0x15, 1, 0, architecture), _step(0x06, 0, 0, KILL), _step(0x20, 0, 0, 0)]
    code += [_step(0x35, 0, 1, 0x40000000), _step(0x06, 0, 0, REFUSE)]  # numbers of another calling convention
    for number in refused:
        code += [_step(0x15, 0, 1, number), _step(0x06, 0, 0, REFUSE)]
    block = [_step(0x20, 0, 0, 16)]
    for family in families:
        block += [_step(0x15, 0, 1, int(family)), _step(0x06, 0, 0, ALLOW)]
    code += [_step(0x15, 0, len(block) + 1, socket_call), *block, _step(0x06, 0, 0, REFUSE), _step(0x06, 0, 0, ALLOW)]

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    program = Program(len(code), b"".join(code))
    return int(LIBC.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0)) == 0


def _step(operation: int, if_so: int, if_not: int, value: int) -> bytes:
    return struct.pack("<HBBI", operation, if_so, if_not, value)
