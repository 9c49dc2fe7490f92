"""The zygote: a bare interpreter that forks a locked-down child for each patch.

Run as ``python -I -S zygote.py CONTROL_FD VALUES_FILE LAYERS``. Standard library only. It
receives, over its control socket, one byte and two file descriptors per patch (request
in, results out) and hands them to a forked child unread: the zygote never sees a patch,
an argument or a result, so no child can find those of another in its memory. It answers
with the child's pid, waits for the byte ``k``, kills the child's process group, reaps it
and answers with the wait status. The parent owns the clock.

Layers of the child, in order: own session, death with its parent, rlimits, no new
privileges, Landlock (read the standard library, nothing else), seccomp (a list of
allowed system calls; no processes, threads, sockets or signals to others).
x86-64 is tested; the arm64 numbers are written from the kernel's table and untested.
"""

import array
import ctypes
import json
import os
import platform
import resource
import signal
import socket
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE = 1, 22, 38, 4

# -- Landlock ------------------------------------------------------------------------------

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
FS_READ_FILE, FS_READ_DIR = 1 << 2, 1 << 3


def landlock_abi():
    """Version of Landlock here, 0 when there is none."""
    version = LIBC.syscall(LANDLOCK_CREATE, None, 0, 1)
    return max(0, version)


def landlock_rules(readable):
    """File descriptor of a rule set that handles every access and allows reading `readable`."""
    abi = landlock_abi()
    accesses = (1 << 13) - 1
    if abi >= 2:
        accesses |= 1 << 13
    if abi >= 3:
        accesses |= 1 << 14
    if abi >= 5:
        accesses |= 1 << 15
    network = 3 if abi >= 4 else 0
    scope = 3 if abi >= 6 else 0
    attributes = struct.pack("<QQQ", accesses, network, scope)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    rules = LIBC.syscall(LANDLOCK_CREATE, attributes, size, 0)
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


def standard_library():
    """What a patch may read: the standard library, without installed packages and without ctypes."""
    root = os.path.dirname(os.__file__)
    paths = [
        os.path.join(root, name)
        for name in os.listdir(root)
        if name not in ("site-packages", "dist-packages", "test", "ctypes", "lib-dynload")
    ]
    dynload = os.path.join(root, "lib-dynload")
    if os.path.isdir(dynload):
        paths += [os.path.join(dynload, name) for name in os.listdir(dynload) if "ctypes" not in name]
    return paths


# -- seccomp -------------------------------------------------------------------------------

ALLOWED = {
    "x86_64": (
        0xC000003E,
        {  # read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn ioctl pread64
            0,
            1,
            3,
            5,
            8,
            9,
            10,
            11,
            12,
            13,
            14,
            15,
            16,
            17,
            # sched_yield mremap madvise nanosleep getitimer setitimer getpid exit uname fcntl getcwd readlink
            24,
            25,
            28,
            35,
            36,
            38,
            39,
            60,
            63,
            72,
            79,
            89,
            # gettimeofday getrlimit getrusage sysinfo times getuid getgid geteuid getegid sigaltstack gettid time futex
            96,
            97,
            98,
            99,
            100,
            102,
            104,
            107,
            108,
            131,
            186,
            201,
            202,
            # getdents64 clock_gettime clock_getres clock_nanosleep exit_group openat newfstatat getrandom statx rseq access stat lstat poll select
            217,
            228,
            229,
            230,
            231,
            257,
            262,
            318,
            332,
            334,
            21,
            4,
            6,
            7,
            23,
            2,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            63,
            64,
            57,
            80,
            62,
            222,
            226,
            215,
            214,
            134,
            135,
            139,
            29,
            67,
            124,
            216,
            233,
            101,
            102,
            103,
            172,
            93,
            160,
            25,
            17,
            78,
            169,
            163,
            165,
            179,
            153,
            174,
            176,
            175,
            177,
            132,
            178,
            98,
            61,
            113,
            114,
            115,
            94,
            56,
            79,
            278,
            291,
            293,
            48,
            73,
            72,
        },
    ),
}


def seccomp_program():
    """BPF bytes and length: right architecture and an allowed call, or EPERM."""
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


def install_seccomp(program, length):
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    if LIBC.prctl(PR_SET_SECCOMP, 2, ctypes.byref(Program(length, program)), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


# -- the child -----------------------------------------------------------------------------


def lock_down(limits, rules, program, zygote):
    """Everything that must hold before a line of the patch runs."""
    megabyte = 1 << 20
    for name, value in (
        ("RLIMIT_CORE", 0),
        ("RLIMIT_AS", limits["memory_mb"] * megabyte),
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_NPROC", 0),
        ("RLIMIT_CPU", limits["total_cpu_seconds"]),
        ("RLIMIT_STACK", 64 * megabyte),
    ):
        kind = getattr(resource, name)
        value = (
            min(value, resource.getrlimit(kind)[1]) if resource.getrlimit(kind)[1] != resource.RLIM_INFINITY else value
        )
        resource.setrlimit(kind, (value, value))
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != zygote:
        os._exit(1)
    LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if rules is not None and LIBC.syscall(LANDLOCK_RESTRICT, rules, 0) != 0:
        os._exit(1)
    if program is not None:
        install_seccomp(*program)


def child(request_fd, result_fd, rules, program, zygote, values):
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    with os.fdopen(request_fd, "rb") as stream:
        request = json.loads(stream.read())
    os.closerange(3, result_fd)
    if rules is not None and rules > result_fd:
        os.closerange(result_fd + 1, rules)
        os.closerange(rules + 1, 256)
    else:
        os.closerange(result_fd + 1, 256)
    kept = rules
    if rules is not None and rules < result_fd:
        kept = None  # closed above; taken again below
    lock_down(request["limits"], kept, program, zygote)
    run_patch(request, result_fd, values)


def run_patch(request, result_fd, values):
    """Define the patch, call it case by case, write one JSON line per case."""
    limits = request["limits"]
    write, leave, dumps = os.write, os._exit, json.dumps

    def say(record):
        data = dumps(record).encode() + b"\n"
        while data:
            data = data[write(result_fd, data) :]

    sys.setrecursionlimit(limits["recursion"])
    budget = Budget(limits, say, leave)
    space = {"__name__": "patch", "__builtins__": __builtins__}
    # the child's own machinery is out of easy reach; it holds no secrets
    for name in ("__main__", "ctypes", "_ctypes", "socket", "_socket", "array"):
        sys.modules.pop(name, None)
    budget.start(-1)
    try:
        exec(compile(request["source"], "<patch>", "exec", dont_inherit=True), space)
        function = space[request["entry_point"]]
        if not callable(function):
            raise KeyError
    except BaseException as error:
        budget.stop()
        say(
            {
                "setup": "no-function"
                if isinstance(error, KeyError) and error.args in ((), (request["entry_point"],))
                else type(error).__name__
            }
        )
        leave(0)
    budget.stop()
    for number, case in enumerate(request["cases"]):
        say(one_case(number, case, function, budget, values, limits))
    say({"done": len(request["cases"])})
    leave(0)


def one_case(number, case, function, budget, values, limits):
    arguments = [values.decode(item) for item in case["arguments"]]
    record = {"case": number}
    budget.start(number)
    try:
        value = function(*arguments)
        if hasattr(type(value), "__next__"):  # a generator is drained within the limits
            drained = []
            for item in value:
                drained.append(item)
                if len(drained) > limits["items"]:
                    raise values.ValueOutside("a generator of too many items")
            value = drained
        budget.stop()
        record["value"] = values.encode(value, limits["items"])
        if case["mutated"]:
            record["mutated"] = [values.encode(item, limits["items"]) for item in arguments]
    except values.ValueOutside as error:
        budget.stop()
        record.pop("value", None)
        record["outside"] = str(error)[:200]
    except BaseException as error:
        budget.stop()
        record.pop("value", None)
        record["exception"] = str(type(error).__name__)[:100]
    record["lines"] = budget.lines
    return record


class Budget:
    """Counts executed lines (the deterministic limit) and CPU time (the backstop for C code)."""

    def __init__(self, limits, say, leave):
        self.lines = 0
        self._limit = limits["work_lines"]
        self._cpu = limits["cpu_seconds"]
        self._say = say
        self._leave = leave
        self._case = -1

    def start(self, case):
        self.lines = 0
        self._case = case
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the kernel ends the child, in the middle of C code too
        signal.setitimer(signal.ITIMER_PROF, self._cpu)
        sys.settrace(self._trace)

    def stop(self):
        sys.settrace(None)
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _trace(self, frame, event, argument):
        if event == "line":
            self.lines += 1
            if self.lines > self._limit:
                self._end("work")
        elif event == "call" and self.lines > self._limit:
            self._end("work")
        return self._trace

    def _end(self, why):
        sys.settrace(None)
        self._say({"case": self._case, "timeout": why})
        self._leave(0)


# -- the zygote ----------------------------------------------------------------------------


def serve(control, rules, program, values):
    me = os.getpid()
    while True:
        handles = array.array("i")
        data, extra, _, _ = control.recvmsg(1, socket.CMSG_LEN(2 * handles.itemsize))
        if not data:
            return
        for _, kind, content in extra:
            if kind == socket.SCM_RIGHTS:
                handles.frombytes(content[: len(content) - len(content) % handles.itemsize])
        pid = os.fork()
        if pid == 0:
            try:
                control.close()
                child(handles[0], handles[1], rules, program, me, values)
            finally:
                os._exit(1)
        for handle in handles:
            os.close(handle)
        control.sendall(struct.pack("<i", pid))
        if control.recv(1) != b"k":
            return
        for kill in (os.killpg, os.kill):
            try:
                kill(pid, signal.SIGKILL)
            except OSError:
                continue
        _, status = os.waitpid(pid, 0)
        control.sendall(struct.pack("<i", status))


def load_values(path):
    import types

    module = types.ModuleType("values")
    with open(path, encoding="utf-8") as file:
        exec(compile(file.read(), path, "exec"), module.__dict__)
    return module


def main():
    control = socket.socket(fileno=int(sys.argv[1]))
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    layers = sys.argv[3].split(",")
    values = load_values(sys.argv[2])
    for name in (
        "bisect",
        "collections",
        "copy",
        "dataclasses",
        "decimal",
        "fractions",
        "functools",
        "heapq",
        "itertools",
        "math",
        "operator",
        "random",
        "re",
        "statistics",
        "string",
        "typing",
    ):
        __import__(name)
    rules = landlock_rules(standard_library()) if "landlock" in layers else None
    if rules is not None:
        high = 200  # above every descriptor a child opens before it is locked down
        os.dup2(rules, high)
        os.close(rules)
        rules = high
    program = seccomp_program() if "seccomp" in layers else None
    import gc

    gc.collect()
    gc.freeze()
    control.sendall(b"r")
    serve(control, rules, program, values)


if __name__ == "__main__":
    main()
