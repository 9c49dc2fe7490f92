"""The system calls that a patch may make; for `ioctl` and `fcntl`, the commands that it may use.

Not allowed: processes, threads, sockets, signals to others, timers of others and changes of files. `fcntl` is restricted
to the commands that Python needs, since F_SETOWN with F_SETSIG makes the kernel send a signal on behalf of the caller,
and F_SETPIPE_SZ takes kernel memory. x86-64 is tested. The arm64 numbers are taken from the kernel's table and are
untested. Standard library only: the zygote loads this file by its path.
"""

import ctypes
import os
import platform
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_SECCOMP = 22
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000

# fmt: off
ALLOWED: dict[str, tuple[int, set[int]]] = {
    "x86_64": (
        0xC000003E,
        {  # read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
            # pread64 access select sched_yield mremap madvise nanosleep getitimer setitimer getpid exit uname
            17, 21, 23, 24, 25, 28, 35, 36, 38, 39, 60, 63,
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
            63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 67, 124, 216, 233, 101, 102, 103, 172, 93, 160,
            17, 78, 169, 163, 165, 179, 153, 174, 176, 175, 177, 132, 178, 98, 61, 113, 114, 115, 94, 56, 79, 278, 291, 293,
            48, 73, 72,
        },
    ),
}
BY_COMMAND: dict[str, dict[int, set[int]]] = {  # ioctl: TCGETS TIOCGWINSZ FIONCLEX FIOCLEX; fcntl: F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_DUPFD_CLOEXEC
    "x86_64": {16: {0x5401, 0x5413, 0x5450, 0x5451}, 72: {0, 1, 2, 3, 4, 1030}},
    "aarch64": {29: {0x5401, 0x5413, 0x5450, 0x5451}, 25: {0, 1, 2, 3, 4, 1030}},
}
# fmt: on


def known() -> bool:
    """True when the kernel supports filters and the system calls of this architecture are listed here."""
    return os.path.exists("/proc/sys/kernel/seccomp/actions_avail") and platform.machine() in ALLOWED


def program() -> tuple[bytes, int]:
    """The BPF instructions and their number: kill on another architecture, allow listed calls, else EPERM."""
    architecture, calls = ALLOWED[platform.machine()]
    code = [_load(4), _equal(architecture, 1, 0), _return(KILL), _load(0)]
    for number in sorted(calls):
        code += _allow(number)
    for number, commands in sorted(BY_COMMAND[platform.machine()].items()):
        block = [_load(24)]  # second argument, low half
        for command in sorted(commands):
            block += _allow(command)
        code += [_equal(number, 0, len(block) + 1), *block, _return(REFUSE)]
    code.append(_return(REFUSE))
    return b"".join(code), len(code)


def _allow(value: int) -> list[bytes]:
    """Allow the call when what was loaded last is `value`."""
    return [_equal(value, 0, 1), _return(ALLOW)]


def _load(offset: int) -> bytes:
    return struct.pack("<HBBI", 0x20, 0, 0, offset)


def _equal(value: int, if_so: int, if_not: int) -> bytes:
    return struct.pack("<HBBI", 0x15, if_so, if_not, value)


def _return(value: int) -> bytes:
    return struct.pack("<HBBI", 0x06, 0, 0, value)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install(code: bytes, length: int) -> None:
    """Restrict this process to the allowed system calls, for good. Needs PR_SET_NO_NEW_PRIVS.

    Args:
        code: BPF instructions, as `program` gives them.
        length: Number of instructions.

    Raises:
        OSError: the kernel refuses the filter.
    """
    if LIBC.prctl(PR_SET_SECCOMP, 2, ctypes.byref(_Program(length, code)), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")
