"""What attacks aim at: a secret, a file to harm, listeners, a bystander. And whether any of it was touched."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from coral_core.problems.problem import Case, Problem
from coral_core.problems.values import encode

SECRET = "the answer is 4711"
ADD_CASES = tuple(Case(arguments=(a, b), value=a + b) for a, b in ((1, 2), (3, 0), (5, 6), (-1, 4)))


class Scene:
    """Real targets on this machine; `untouched` tells whether they still are as they were."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret = folder / "secret.txt"
        self.secret.write_text(SECRET)
        self.victim = folder / "victim.txt"
        self.victim.write_text("unharmed")
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.udp.setblocking(False)
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(str(folder / "s"))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0coral-{os.getpid()}")
        for listener in (self.tcp, self.unix, self.abstract):
            listener.listen()
            listener.setblocking(False)
        self.bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(900)"])
        self.traces = (Path("/tmp/coral-attack"), Path("/dev/shm/coral-attack"))

    def facts(self) -> dict[str, object]:
        """What an attack is told: it need not search."""
        return {
            "secret": str(self.secret),
            "victim": str(self.victim),
            "folder": str(self.folder),
            "tcp": self.tcp.getsockname()[1],
            "udp": self.udp.getsockname()[1],
            "unix": str(self.folder / "s"),
            "abstract": f"\0coral-{os.getpid()}",
            "pid": self.bystander.pid,
        }

    def reset(self) -> None:
        """Repair what a weakened judge let happen."""
        self.victim.write_text("unharmed")
        self.victim.chmod(0o644)
        for trace in (*self.traces, self.folder / "made", self.folder / "moved"):
            with contextlib.suppress(OSError):
                trace.unlink()
        for listener in (self.tcp, self.unix, self.abstract):
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()
        with contextlib.suppress(OSError):
            while self.udp.recv(100):
                pass
        if self.bystander.poll() is not None:
            self.bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(900)"])

    def untouched(self) -> bool:
        """Nothing was changed, reached or ended."""
        for listener in (self.tcp, self.unix, self.abstract):
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
                return False
        with contextlib.suppress(BlockingIOError):
            self.udp.recv(100)
            return False
        names = sorted(path.name for path in self.folder.iterdir())
        return (
            names == ["s", "secret.txt", "victim.txt"]
            and self.victim.read_text() == "unharmed"
            and self.victim.stat().st_mode & 0o777 == 0o644
            and not any(trace.exists() for trace in self.traces)
            and self.bystander.poll() is None
        )

    def close(self) -> None:
        self.reset()
        for listener in (self.tcp, self.udp, self.unix, self.abstract):
            listener.close()
        self.bystander.kill()
        self.bystander.wait()


def add_problem() -> Problem:
    """Add two numbers: what a patch that only cheats gets wrong."""
    return _problem("add", "def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b", ADD_CASES)


def escape_problem(facts: dict[str, object]) -> Problem:
    """Passes when ``attack(facts)`` returns "escaped", which an attack does once it has what it wanted."""
    case = Case(arguments=(encode(facts),), value="escaped")
    return _problem("attack", "def attack(facts):\n    return 'escaped'", "def attack(facts):\n    return ''", (case,))


def _problem(name: str, reference: str, buggy: str, cases: tuple[Case, ...]) -> Problem:
    return Problem(
        problem_id=f"test/{name}",
        source="test",
        family=name,
        variant="0",
        entry_point=name,
        bug_class="unknown",
        buggy=buggy,
        reference=reference,
        cases=cases,
    )
