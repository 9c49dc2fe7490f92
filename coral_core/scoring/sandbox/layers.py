"""What the kernel offers to contain a child: Landlock, seccomp, prctl, rlimits. Standard library only.

Loaded by the zygote from its file, since the zygote has no import path; imported by the
parent to see what this machine has. x86-64 is tested; the arm64 numbers are written from
the kernel's table and are untested.
"""

import ctypes
import os
import platform
import resource
import signal
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
FS_READ_FILE, FS_READ_DIR = 1 << 2, 1 << 3
NOT_READABLE = ("site-packages", "dist-packages", "test", "ctypes", "lib-dynload")

# fmt: off
ALLOWED: dict[str, tuple[int, set[int]]] = {
    "x86_64": (
        0xC000003E,
        {  # read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
            # ioctl pread64 access select sched_yield mremap madvise nanosleep getitimer setitimer getpid exit uname fcntl
            16, 17, 21, 23, 24, 25, 28, 35, 36, 38, 39, 60, 63, 72,
            # getcwd readlink gettimeofday getrlimit getrusage sysinfo times getuid getgid geteuid getegid sigaltstack
            79, 89, 96, 97, 98, 99, 100, 102, 104, 107, 108, 131,
            # gettid time futex getdents64 clock_gettime clock_getres clock_nanosleep exit_group
            186, 201, 202, 217, 228, 229, 230, 231,
            # openat newfstatat getrandom statx rseq
            257, 262, 318, 332, 334,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 29, 67, 124, 216, 233, 101, 102, 103, 172, 93, 160, 25,
            17, 78, 169, 163, 165, 179, 153, 174, 176, 175, 177, 132, 178, 98, 61, 113, 114, 115, 94, 56, 79, 278, 291, 293,
            48, 73, 72,
        },
    ),
}
# fmt: on


def landlock_abi() -> int:
    """Version of Landlock here, 0 when there is none."""
    return max(0, int(LIBC.syscall(LANDLOCK_CREATE, None, 0, 1)))


def seccomp_known() -> bool:
    """Filters are supported, and this machine's system calls are known."""
    return os.path.exists("/proc/sys/kernel/seccomp/actions_avail") and platform.machine() in ALLOWED


def landlock_rules(readable: list[str]) -> int:
    """File descriptor of a rule set that handles every kind of access and allows reading `readable`."""
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
    """What a patch may read: the standard library, without installed packages and without ctypes."""
    root = os.path.dirname(os.__file__)
    paths = [os.path.join(root, name) for name in os.listdir(root) if name not in NOT_READABLE]
    dynload = os.path.join(root, "lib-dynload")
    if os.path.isdir(dynload):
        paths += [os.path.join(dynload, name) for name in os.listdir(dynload) if "ctypes" not in name]
    return paths


def seccomp_program() -> tuple[bytes, int]:
    """BPF bytes and length: the right architecture and an allowed call, else EPERM."""
    architecture, calls = ALLOWED[platform.machine()]
    instructions = [
        struct.pack("<HBBI", 0x20, 0, 0, 4),  # load the architecture
        struct.pack("<HBBI", 0x15, 1, 0, architecture),
        struct.pack("<HBBI", 0x06, 0, 0, 0x80000000),  # another one: kill the process
        struct.pack("<HBBI", 0x20, 0, 0, 0),  # load the call's number
    ]
    ordered = sorted(calls)
    for position, number in enumerate(ordered):
        instructions.append(struct.pack("<HBBI", 0x15, len(ordered) - position, 0, number))
    instructions.append(struct.pack("<HBBI", 0x06, 0, 0, 0x00050000 | 1))  # EPERM
    instructions.append(struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000))  # allow
    return b"".join(instructions), len(instructions)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install_seccomp(program: bytes, length: int) -> None:
    """From here on only allowed system calls."""
    if LIBC.prctl(PR_SET_SECCOMP, 2, ctypes.byref(_Program(length, program)), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def die_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def lock_down(limits: dict[str, float], rules: int | None, program: tuple[bytes, int] | None, zygote: int) -> None:
    """Everything that must hold before a line of the patch runs."""
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
        resource.setrlimit(kind, (value, value))
    die_with_parent()
    if os.getppid() != zygote:
        os._exit(1)
    LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if rules is not None and LIBC.syscall(LANDLOCK_RESTRICT, rules, 0) != 0:
        os._exit(1)
    if program is not None:
        install_seccomp(*program)
