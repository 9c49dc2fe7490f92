"""The local Prefect server: started for a run where no API is configured, and ended with it.

It listens on loopback only. Its database stays under CORAL_HOME (default ``~/.local/share/coral-x``), so that later starts
skip the migrations. It ends with the process that started it, even after kill -9. Several runs share one server; the last
one ends it. The server process holds a lock on its home while it lives, so that no second server is started on the same
database, however slowly the first one answers.

``coral up --auth`` gives the server a key in ``CORAL_HOME/api-key``, readable by its owner only. The server asks for a key
if that file exists. Not covered: servers for teams (see docs/work-pools.md and `coral setup`).
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import re
import secrets
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from coral_core.errors import ConfigError
from coral_core.json_object import json_object
from flows.prefect_api.api_errors import KeyFileError, ServerError
from flows.prefect_api.settings import configured_api, export, export_connection, export_defaults

MODULE = "flows.prefect_api.local_server"
START_SECONDS = 180.0
BUSY_SECONDS = 120.0
"""Longest wait for the answer of a living server: it or its machine may be busy."""
ANSWER_SECONDS = 10.0
LOCK_SECONDS = 10.0
"""Longest time that a starting server tries to get the lock; other processes hold it for a moment to test it."""
END_SECONDS = 5.0
"""Longest wait for a server that got SIGTERM, before it is killed."""
OWNER, USERS, KEEP = "server.json", "server.users", "server.keep"
"""Files of a home. The server locks OWNER, each of its users locks USERS; KEEP keeps it alive without users."""
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "600",
    "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_CLIENT_MAX_RETRIES": "12",
    "DO_NOT_TRACK": "1",
}
KEY_FILE = "api-key"
KEY_USER = "coral"
KEY_FORM = re.compile(r"[\w.-]+:[\w.~-]{16,}")
"""Content of a key file: USER:PASSWORD, in characters that never need quoting."""
KEY_BYTES = 1024


def coral_home() -> Path:
    """Folder of the local server's database and log: CORAL_HOME, else ``coral-x`` below XDG_DATA_HOME or ~/.local/share."""
    base = os.environ.get("CORAL_HOME")
    if base:
        return Path(base).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser().absolute() / "coral-x"


def usable_home() -> Path:
    """`coral_home`, created where it is missing. Raises `ServerError` when it cannot be written."""
    home = coral_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with locked(home):
            return home
    except OSError as error:
        raise ServerError(
            f"CORAL_HOME: {home}: cannot be used ({error.strerror})",
            remedy="Set CORAL_HOME to a folder that you can write.",
        ) from None


def worker_environment(url: str) -> dict[str, str]:
    """Environment of a worker of this machine, for the API at `url`; it polls every second unless set otherwise."""
    environment = {**os.environ, **SETTINGS, **identity_of(url), "PREFECT_WORKER_PREFETCH_SECONDS": "5"}
    environment.setdefault("PREFECT_WORKER_QUERY_SECONDS", "1")
    return environment


def identity_of(url: str) -> dict[str, str]:
    """The environment variables that mark the processes of the local installation at `url`."""
    return {"PREFECT_HOME": str(coral_home() / "prefect"), "PREFECT_API_URL": url}


@contextlib.contextmanager
def locked(home: Path, name: str = "server") -> Iterator[None]:
    """Hold an exclusive lock while the body runs; waits until it is free.

    Args:
        home: Folder of the lock file.
        name: The file is ``NAME.lock``; it protects ``NAME.json``.
    """
    with (home / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def api(port: int = 0, keep: bool = False) -> Iterator[str]:
    """Make a Prefect API available while the body runs; starts a local server where none is configured.

    Must be entered before `prefect` is imported, since Prefect reads its settings then.

    Args:
        port: Port of the local server, 0 to 65535; 0 takes a free one.
        keep: Leave the local server running afterwards.

    Yields:
        URL of the API, which has answered.

    Raises:
        ServerError: The port is taken, or the server does not come up.
        ApiError: The configured API cannot be reached, or refuses the key.
    """
    from flows.prefect_api.client import RestClient  # late: both import this module, for the server's key
    from flows.prefect_api.credentials import use_credential

    export_defaults(SETTINGS)
    if url := configured_api():
        export_connection(url)
        use_credential(url)
        with RestClient(url) as client:
            client.version()
        yield url
        return
    server = _LocalServer(usable_home())
    url = server.join(port, keep)
    try:
        _use(url, server.home)
        yield url
    finally:
        server.leave()


def join(port: int = 0) -> str:
    """Start (or find) the local server and leave it running until `leave`. Otherwise as `api`.

    Args:
        port: Port of the local server, 0 to 65535; 0 takes a free one.

    Returns:
        URL of the API.
    """
    export_defaults(SETTINGS)
    server = _LocalServer(usable_home())
    url = server.join(port, keep=True)
    _use(url, server.home)
    return url


def _use(url: str, home: Path) -> None:
    """Make the local server of `home` the API of this process and its children, with its key."""
    key = read_key(home)
    export(identity_of(url) | ({"PREFECT_API_AUTH_STRING": key} if key else {}))


def refuse_beside_configured(port: int) -> None:
    """Refuse to start a server where another API is configured, since commands would use that instead.

    Args:
        port: Port of the server to be started.

    Raises:
        ConfigError: Another API is configured.
    """
    url = (configured_api() or "").rstrip("/")
    own = {f"http://127.0.0.1:{port}/api", f"http://localhost:{port}/api", living()}
    if url and url not in own:
        raise ConfigError(
            f"Prefect's settings name the API {url} (prefect config view says where), and every command here would use that "
            "instead of the server that coral up starts",
            remedy="To use it: coral setup. To have an installation of this machine beside it: export "
            f"PREFECT_API_URL=http://127.0.0.1:{port or 4200}/api, then coral up --port {port or 4200}",
        )


def leave(patience: float = 0.0) -> str:
    """End the server that `join` left running, unless other processes use it.

    Args:
        patience: Seconds to wait for these processes to end.

    Returns:
        What was done, in words; "" where there was no server.
    """
    server = _LocalServer(coral_home())
    (server.home / KEEP).unlink(missing_ok=True)
    if not server.living():
        return ""
    deadline = time.monotonic() + patience
    while not server.leave():
        if time.monotonic() > deadline:
            return "the server stays for the commands that use it, and ends with the last of them"
        time.sleep(0.2)
    return "ended the server"


def living() -> str:
    """URL of the local server while it lives; else ""."""
    return _LocalServer(coral_home()).living()


def living_key() -> str | None:
    """`fingerprint` of the key that the living local server was started with; None while there is no server."""
    return _LocalServer(coral_home()).owner().get("key")


def is_used() -> bool:
    """Whether another process of this machine has joined the local server."""
    with _unused(coral_home()) as unused:
        return not unused


# -- its key -------------------------------------------------------------------------------


def key_file(home: Path) -> Path:
    """Path of the key file of the local server of `home`; the file may be missing."""
    return home / KEY_FILE


def make_key(home: Path) -> Path:
    """Generate a key for the local server of `home` unless it has one, and return the path of its file.

    The file is created with mode 600 and renamed when it is complete. Raises `KeyFileError`.
    """
    path = key_file(home)
    with locked(home):
        if read_key(home) is not None:
            return path
        try:
            with tempfile.NamedTemporaryFile("w", dir=home, prefix=f".{KEY_FILE}.", delete=False) as scratch:
                scratch.write(f"{KEY_USER}:{secrets.token_urlsafe(32)}\n")
            os.replace(scratch.name, path)
        except OSError as error:
            raise KeyFileError(
                f"{path}: the key cannot be written ({error.strerror})",
                remedy="Set CORAL_HOME to a folder of a local disk that you can write.",
            ) from None
    return path


def read_key(home: Path) -> str | None:
    """USER:PASSWORD of the local server of `home`; None where there is no key file.

    Raises:
        KeyFileError: the file is no regular file of ours, others may read it, or it holds something else.
    """
    path = key_file(home)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, f"cannot be read ({error.strerror})") from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise _unusable(path, "is no file")
        if found.st_uid != os.geteuid() and os.geteuid() != 0:
            raise _unusable(path, f"belongs to user number {found.st_uid}, not to you")
        if found.st_mode & 0o077:
            mode = f"{stat.S_IMODE(found.st_mode):03o}"
            raise _unusable(path, f"others can read or write it (mode {mode}), so it is no secret any more")
        text = os.read(handle, KEY_BYTES + 1).decode("utf-8", "replace").strip()
    finally:
        os.close(handle)
    if len(text) > KEY_BYTES or not KEY_FORM.fullmatch(text):
        raise _unusable(path, "holds no USER:PASSWORD")
    return text


def remove_key(home: Path) -> None:
    """Delete the key of the local server of `home`; takes effect at its next start."""
    key_file(home).unlink(missing_ok=True)


def fingerprint(key: str | None) -> str:
    """First 16 hex digits of a key's SHA-256, for comparing keys without showing them; "" for None."""
    return hashlib.sha256(key.encode()).hexdigest()[:16] if key else ""


def _unusable(path: Path, problem: str) -> KeyFileError:
    return KeyFileError(f"{path}: {problem}", remedy=f"Make another: coral down, rm {path}, coral up --auth")


# -- its process ---------------------------------------------------------------------------


class _LocalServer:
    """The one local server of all processes that use a home.

    The server process locks ``server.json`` (its pid, URL and the fingerprint of its key) while it lives. Each user
    holds a shared lock on ``server.users``. Locks end with their process, also by kill -9, so nothing is counted.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._membership: IO[str] | None = None

    def living(self) -> str:
        """URL of the server while its process lives, whether it answers or not; else ""."""
        return self.owner().get("url", "")

    def join(self, port: int, keep: bool) -> str:
        """Use this home's server, started where none lives; returns its URL, which answers. Raises `ServerError`."""
        self._membership = (self.home / USERS).open("a")
        fcntl.flock(self._membership, fcntl.LOCK_SH)  # waits for a server that is shutting down
        if keep:
            (self.home / KEEP).touch()
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            with locked(self.home):
                if not self.owner():
                    self._start(port)
            # without the lock, so that several processes can wait for a busy server at once
            while found := self.owner():
                if found.get("key", "") != fingerprint(read_key(self.home)):
                    raise ServerError(
                        f"{self.home}: its server was started with another key, or with none",
                        remedy="End it with coral down (it also ends with the last process that uses it), then start it anew.",
                    )
                if _ready(found["url"], ANSWER_SECONDS):
                    return found["url"]
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"the local Prefect server at {found['url']} (process {found['pid']}) lives and has not answered for "
                        f"{BUSY_SECONDS:.0f} s, so no second one is started on its database",
                        remedy="Wait until it is less busy and run the same command again, or end it with: kill "
                        f"{found['pid']}. Its log: {self.home / 'server.log'}",
                    )
                time.sleep(0.2)

    def leave(self) -> bool:
        """Stop using the server, and end it unless it is kept or others use it. Returns whether it has ended."""
        if self._membership is not None:
            self._membership.close()
        with _unused(self.home) as unused:
            if not unused or (self.home / KEEP).exists():
                return False
            for number in (signal.SIGTERM, signal.SIGKILL):
                if pid := int(self.owner().get("pid", 0)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                deadline = time.monotonic() + END_SECONDS
                while self.owner() and time.monotonic() < deadline:
                    time.sleep(0.05)
        return True

    def owner(self) -> dict[str, str]:
        """`pid`, `url` and `key` (its fingerprint) of the server process of this home; empty when none lives."""
        try:
            with (self.home / OWNER).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except BlockingIOError:
            return self._written_by_owner()
        return {}

    def _written_by_owner(self) -> dict[str, str]:
        """Content of OWNER, which the process that holds the lock writes right after it got it."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError, KeyError):
                found = json_object((self.home / OWNER).read_bytes())
                return {name: str(found[name]) for name in ("pid", "url", "key")}
            time.sleep(0.05)
        raise ServerError(
            f"{self.home / OWNER}: a process holds the lock of this home's Prefect server and does not say which it is",
            remedy=f"End it (fuser {self.home / OWNER} names it), or set CORAL_HOME to another folder.",
        )

    def _start(self, port: int) -> None:
        """Start a server process and wait until it answers. Raises `ServerError`."""
        port = _free_port(port)
        url = f"http://127.0.0.1:{port}/api"
        log = self.home / "server.log"
        environment = {
            **os.environ,
            **SETTINGS,
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_API_URL": url,
            "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "flows.prefect_api.sqlite_retries",
        }
        # Prefect's default allows any web page in a browser of this machine to use the server
        environment.setdefault(
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS", f"http://127.0.0.1:{port},http://localhost:{port}"
        )
        if key := read_key(self.home):
            environment |= {"PREFECT_SERVER_API_AUTH_STRING": key, "PREFECT_API_AUTH_STRING": key}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, str(port)],
                env=environment,
                cwd=self.home,  # settings files of Prefect in the caller's folder may name another server
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal is for the run, which then ends the server
            )
        deadline = time.monotonic() + START_SECONDS
        while not _ready(url, 2):
            if process.poll() is not None:
                tail = " | ".join(log.read_text("utf-8", "replace").strip().splitlines()[-3:])
                raise ServerError(
                    f"the local Prefect server ended at once (exit code {process.returncode}). Its log {log} ends: {tail}"
                )
            if time.monotonic() > deadline:
                process.kill()
                raise ServerError(
                    f"the local Prefect server did not answer at {url} within {START_SECONDS:.0f} s",
                    remedy=f"See its log: {log}",
                )
            time.sleep(0.1)


@contextlib.contextmanager
def _unused(home: Path) -> Iterator[bool]:
    """Whether no process uses the server of `home`. If so, no process can join it before the end of the block."""
    try:
        users = (home / USERS).open("a")
    except (FileNotFoundError, NotADirectoryError):  # there was no server yet
        yield True
        return
    with users:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _free_port(port: int) -> int:
    """A free loopback port, or `port` itself when it is free. Raises `ServerError`."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise ServerError(
            f"port {port} (--port): cannot be used: {getattr(error, 'strerror', None) or 'it is not in 1 to 65535'}",
            remedy="Choose another; --port 0 takes a free one.",
        ) from None


def _ready(url: str, seconds: float) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=seconds) as reply:
            return bool(reply.status == 200)
    except (OSError, ValueError):
        return False


def application() -> Any:
    """Application of Prefect's server that repeats requests where SQLite was busy."""
    from prefect.server.api.server import create_app

    from flows.prefect_api.sqlite_retries import retrying

    return retrying(create_app())


def own(home: Path, url: str) -> IO[str]:
    """Take the server's lock on a home, before the database is opened, and record this process in the locked file.

    Args:
        home: Folder of the server.
        url: Its URL.

    Returns:
        The locked file; the lock lasts until it is closed or the process ends.

    Raises:
        SystemExit: Another server of this home lives.
    """
    file = (home / OWNER).open("a+")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"{home}: another Prefect server of this home lives; two would damage its database"
                ) from None
            time.sleep(0.1)
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "url": url, "key": fingerprint(read_key(home))}))
    file.flush()
    return file


def _end_when_unused(home: Path) -> None:
    """End this server process when no process uses it and it is not kept, or when its home was removed."""
    while True:
        time.sleep(2)
        with _unused(home) as unused:
            if unused and not (home / KEEP).exists():
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(END_SECONDS)
                os._exit(0)


def main(port: int) -> None:
    """Serve until ended (the body of the server process)."""
    ctypes.CDLL(None).prctl(15, b"coral-server", 0, 0, 0)  # PR_SET_NAME: a name for ps and top
    home = coral_home()
    lock = own(home, f"http://127.0.0.1:{port}/api")
    import uvicorn

    threading.Thread(target=_end_when_unused, args=(home,), daemon=True).start()
    uvicorn.run(
        f"{MODULE}:application",
        factory=True,
        host="127.0.0.1",
        port=port,
        timeout_keep_alive=5,
        log_level="warning",
    )
    del lock  # keeps the lock until the server has ended


if __name__ == "__main__":
    main(int(sys.argv[1]))
