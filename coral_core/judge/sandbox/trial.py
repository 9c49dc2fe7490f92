"""Runs a trial patch that attempts to escape, in an ordinary child, to test whether this machine contains patches."""

import json

from coral_core.errors import JudgeError
from coral_core.judge.sandbox.child_clock import Allowance
from coral_core.judge.sandbox.zygote_pool import BASE_LAYERS, Pool, detect_layers

MEANING = {
    "landlock": "a patch can read the standard library and write nothing",
    "seccomp": "a patch starts no process or thread, opens no socket, sends no signal",
    "no-capabilities": "not even the superuser's patch has privileges",
    "user": "the judge's own set-up needs no privilege, and keeps none",
    "net": "there is no network interface to reach, not even loopback",
    "ipc": "no shared memory or message queues of others",
    "pid": "no process outside can be named; all children die with the zygote",
    "mount": "names and sizes of files cannot be learned; without it `stat` can",
}
"""Layer -> what it means. The first two are the base; the others come on top where the machine gives them."""
ATTEMPTS = (
    ("open a socket", "import socket\nsocket.socket()"),
    ("read /etc/passwd", "open('/etc/passwd').read()"),
    ("start a process", "import os\nif os.fork() == 0:\n    os._exit(0)"),
    ("start a thread", "import threading\nthreading.Thread(target=print).start()"),
    ("write a file", "open('/tmp/coral-doctor-trial', 'w').close()"),
    ("signal a process", "import os\nos.kill(os.getppid(), 0)"),
    ("read the judge's environment", "import os\nopen(f'/proc/{os.getppid()}/environ', 'rb').read()"),
)
SOURCE = """\
def trial(attempts):
    done = []
    for name, code in attempts:
        try:
            exec(code, {})
            done.append(name)
        except BaseException:
            pass
    return done
"""
LIMITS = {
    "work_lines": 1_000_000,
    "cpu_seconds": 5.0,
    "total_cpu_seconds": 20,
    "memory_mb": 256,
    "items": 1000,
    "recursion": 1000,
    "slow": {"work_lines": 1, "cpu_seconds": 1.0},
}


def trial(layers: tuple[str, ...] | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Run the trial patch.

    Args:
        layers: Layers to ask for; None: all that this machine has.

    Returns:
        Names of the active layers, and of the attempts that succeeded; with none, patches are contained.

    Raises:
        JudgeError: no child could be started, or it did not answer.
    """
    available = detect_layers()
    requested = (*(name for name in BASE_LAYERS if available[name]), "namespaces") if layers is None else layers
    pool = Pool(1, requested)
    try:
        arguments = ["l", [["l", list(attempt)] for attempt in ATTEMPTS]]
        case = {"arguments": [arguments], "mutated": False}
        request = {"source": SOURCE, "entry_point": "trial", "cases": [case], "limits": LIMITS}
        answer = pool.run(request, Allowance(30.0), 1 << 16)
        try:
            through = json.loads(answer.lines[1])["value"][1]
        except (IndexError, KeyError, ValueError):
            raise JudgeError(
                f"sandbox: the trial patch gave no answer (wait status {answer.status}, {answer.lines[:2]})",
                remedy="Try python -s -S -P on this machine.",
            ) from None
        return pool.active_layers(), tuple(map(str, through))
    finally:
        pool.close()
