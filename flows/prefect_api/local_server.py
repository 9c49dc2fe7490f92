"""A Prefect server of one's own: started for a run where no server is configured, gone with it.

It listens on loopback only, keeps its database under CORAL_HOME (default ``~/.local/share/coral-x``) so that later
starts skip the migrations, and ends with the process that started it, even by kill -9. Several runs share one server:
the last to leave ends it. The server holds a lock on its home for as long as its process lives, so that no second one
is ever started on the same database, however slow the first one answers.

``coral up --auth`` gives the server a key, kept in ``CORAL_HOME/api-key`` and readable by its owner alone; whether that
file is there is the setting. Not covered: servers for teams (see docs/work-pools.md and `coral setup`).
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
"""Longest wait for the answer of a server that lives: it may be busy, or its machine."""
ANSWER_SECONDS = 10.0
LOCK_SECONDS = 10.0
"""A look at the lock takes it for a moment; a server that starts tries again for so long."""
OWNER = "server.owner"
"""The file that the server process locks while it lives; holds its pid and URL."""
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
"""Content of a key file: USER:PASSWORD in characters that need no quoting anywhere."""
KEY_BYTES = 1024


def coral_home() -> Path:
    """Where the local server keeps its database and log."""
    base = os.environ.get("CORAL_HOME")
    if base:
        return Path(base).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser().absolute() / "coral-x"


def usable_home() -> Path:
    """`coral_home`, made where it is missing. Raises `ServerError` when it is no folder that can be written."""
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


def prefect_home() -> Path:
    """PREFECT_HOME of the processes of a local installation, by which they are recognised."""
    return coral_home() / "prefect"


def worker_environment(url: str) -> dict[str, str]:
    """The environment of a worker of this machine: takes flow runs within about a second."""
    environment = {**os.environ, **SETTINGS, **identity_of(url), "PREFECT_WORKER_PREFETCH_SECONDS": "5"}
    environment.setdefault("PREFECT_WORKER_QUERY_SECONDS", "1")
    return environment


def identity_of(url: str) -> dict[str, str]:
    """The variables that all processes of the local installation at `url` have, and no others."""
    return {"PREFECT_HOME": str(prefect_home()), "PREFECT_API_URL": url}


@contextlib.contextmanager
def locked(home: Path, name: str = "server") -> Iterator[None]:
    """Be the only process that changes ``NAME.json`` in `home`."""
    with (home / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def api(port: int = 0, keep: bool = False) -> Iterator[str]:
    """The URL of a usable Prefect API; starts a local server where none is configured.

    Must be entered before `prefect` is imported, since Prefect reads its settings then.

    Args:
        port: Port of the local server; 0 takes a free one.
        keep: Leave the local server running afterwards.

    Raises:
        ServerError: The port is taken, or the server does not come up.
        ApiError: The configured API cannot be reached, or refuses the key.
    """
    from flows.prefect_api.client import RestClient  # late: these two look for this server's key
    from flows.prefect_api.credentials import use_credential

    export_defaults(SETTINGS)
    if url := configured_api():
        export_connection(url)
        use_credential(url)
        with RestClient(url) as client:
            client.version()
        yield url
        return
    home = usable_home()
    server = _LocalServer(home)
    url = server.join(port, keep)
    try:
        _use(url, home)
        yield url
    finally:
        server.leave(keep)


def join(port: int = 0) -> str:
    """Start (or find) the local server and leave it running; as `api`, without an end. See `leave`."""
    export_defaults(SETTINGS)
    home = usable_home()
    url = _LocalServer(home).join(port, keep=True)
    _use(url, home)
    return url


def _use(url: str, home: Path) -> None:
    """The local server of `home` is the API of this process and its children, with its key."""
    key = read_key(home)
    values = {"PREFECT_API_URL": url, "PREFECT_HOME": str(home / "prefect")}
    export(values | ({"PREFECT_API_AUTH_STRING": key} if key else {}))


def refuse_beside_configured(port: int) -> None:
    """Before a server is started on purpose: commands would use the configured API instead. Raises `ConfigError`."""
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
    """End the server that `join` left running, unless a process of this machine still uses it `patience` seconds from now.

    Returns:
        What was done, in words; empty where there was no server.
    """
    if not coral_home().is_dir():
        return ""
    server = _LocalServer(coral_home())
    deadline = time.monotonic() + patience
    while server.users() and time.monotonic() < deadline:
        time.sleep(0.2)
    return server.release()


def living() -> str:
    """URL of the local server, while it lives; else empty."""
    return _LocalServer(coral_home()).living()


def living_key() -> str | None:
    """`fingerprint` of the key that the living local server was started with; None while there is no server."""
    server = _LocalServer(coral_home())
    return str(server._read().get("key", "")) if server.living() else None


def users() -> list[int]:
    """Processes of this machine, other than this one, that use the local server as theirs."""
    return _LocalServer(coral_home()).users()


# -- its key -------------------------------------------------------------------------------


def key_file(home: Path) -> Path:
    """Where the key of the local server of `home` is, if it has one."""
    return home / KEY_FILE


def make_key(home: Path) -> Path:
    """Generate a key for the local server of `home` unless it has one; returns its file, which its owner alone can read.

    The file comes into being whole and with mode 600: it is written under another name that nobody else may open, and
    linked. Raises `KeyFileError`.
    """
    path = key_file(home)
    if read_key(home) is not None:
        return path
    scratch = home / f".{KEY_FILE}.{os.getpid()}.{secrets.token_hex(8)}"
    try:
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, f"{KEY_USER}:{secrets.token_urlsafe(32)}\n".encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        with contextlib.suppress(FileExistsError):  # made by another command at this moment
            os.link(scratch, path)
    except OSError as error:
        raise KeyFileError(
            f"{path}: the key cannot be written ({error.strerror})",
            remedy="Set CORAL_HOME to a folder of a local disk that you can write.",
        ) from None
    finally:
        scratch.unlink(missing_ok=True)
    if read_key(home) is None:
        raise KeyFileError(
            f"{path}: the key that was just written is not there", remedy="Is somebody else using this CORAL_HOME?"
        )
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
    """The local server of `home` has no key from its next start on."""
    key_file(home).unlink(missing_ok=True)


def fingerprint(key: str | None) -> str:
    """Tells two keys apart without telling either; empty for none."""
    return hashlib.sha256(key.encode()).hexdigest()[:16] if key else ""


def _unusable(path: Path, problem: str) -> KeyFileError:
    return KeyFileError(f"{path}: {problem}", remedy=f"Make another: coral down, rm {path}, coral up --auth")


# -- its process ---------------------------------------------------------------------------


class _LocalServer:
    """One local server for all processes that use this home; joined and left under a file lock."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state = home / "server.json"

    def living(self) -> str:
        """URL of the server, while it lives; else empty. Whether it answers is another question."""
        return str(self._server().get("url", ""))

    def join(self, port: int, keep: bool) -> str:
        """The URL of this home's server, which answers. Raises `ServerError`."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            with locked(self.home):
                found = self._server()
                state = self._read() if found else self._start(port)
                if state.get("key", "") != fingerprint(read_key(self.home)):
                    raise ServerError(
                        f"{self.home}: its server was started with another key, or with none",
                        remedy="End it with coral down (it also ends with the last process that uses it), then start it anew.",
                    )
                state |= {"pid": found.get("pid", state.get("pid")), "url": found.get("url", state.get("url"))}
                state["users"] = [pid for pid in state.get("users", []) if _alive(pid)] + [os.getpid()]
                state["keep"] = bool(state.get("keep")) or keep
                self.state.write_text(json.dumps(state))
            # without the lock: others who wait for a busy server need not stand in line
            url = str(state["url"])
            while self._server():
                if _ready(url, ANSWER_SECONDS):
                    return url
                if time.monotonic() > deadline:
                    self.leave(keep=True)
                    raise ServerError(
                        f"the local Prefect server at {url} (process {state['pid']}) lives and has not answered for "
                        f"{BUSY_SECONDS:.0f} s, so no second one is started on its database",
                        remedy="Wait until it is less busy and run the same command again, or end it with: kill "
                        f"{state['pid']}. Its log: {self.home / 'server.log'}",
                    )
                time.sleep(0.2)
            # it ended meanwhile: another look, and another start

    def _server(self) -> dict[str, Any]:
        """pid and URL of the server process of this home; empty when none lives."""
        try:
            with (self.home / OWNER).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except BlockingIOError:
            return self._owner()
        return {}

    def _owner(self) -> dict[str, Any]:
        """What the process that holds the lock has written; it does so right after it got it."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                found = json_object((self.home / OWNER).read_bytes())
                if found.get("url") and _alive(found.get("pid"), MODULE):  # else of the one before
                    return found
            time.sleep(0.05)
        raise ServerError(
            f"{self.home / OWNER}: a process holds the lock of this home's Prefect server and does not say which it is",
            remedy=f"End it (fuser {self.home / OWNER} names it), or set CORAL_HOME to another folder.",
        )

    def users(self) -> list[int]:
        return [pid for pid in self._read().get("users", []) if pid != os.getpid() and _alive(pid)]

    def leave(self, keep: bool) -> None:
        with locked(self.home):
            state = self._read()
            state["users"] = self.users()
            if not state["users"] and not state.get("keep") and not keep:
                _end(self._server().get("pid", 0))
                self.state.unlink(missing_ok=True)
            else:
                self.state.write_text(json.dumps(state))

    def release(self) -> str:
        """It need not be kept any longer; ends it when nobody uses it. Returns what came of it, in words."""
        with locked(self.home):
            state = self._read()
            if state:
                self.state.write_text(json.dumps(state | {"keep": False}))
        self.leave(keep=False)
        if using := self._read().get("users", []):
            who = ", ".join(map(str, using))
            return f"the server stays for those that use it (process {who}) and ends with the last of them"
        return "ended the server" if state else ""

    def _read(self) -> dict[str, Any]:
        try:
            return json_object(self.state.read_bytes())
        except (OSError, ValueError):
            return {}

    def _start(self, port: int) -> dict[str, Any]:
        port = _claim(port)
        url = f"http://127.0.0.1:{port}/api"
        log = self.home / "server.log"
        key = read_key(self.home)
        environment = {
            **os.environ,
            **SETTINGS,
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_API_URL": url,
            "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "flows.prefect_api.sqlite_retries",
        }
        # Prefect's default lets every page that a browser on this machine shows use the server
        environment.setdefault(
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS", f"http://127.0.0.1:{port},http://localhost:{port}"
        )
        if key:
            environment |= {"PREFECT_SERVER_API_AUTH_STRING": key, "PREFECT_API_AUTH_STRING": key}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, str(port)],
                env=environment,
                cwd=self.home,  # files of the caller's folder that set up Prefect may be about another server
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
        return {"pid": process.pid, "url": url, "users": [], "keep": False, "key": fingerprint(key)}


def _claim(port: int) -> int:
    """A free loopback port, or `port` itself when it is free."""
    if not 0 <= port <= 65535:
        raise ServerError(
            f"port {port} (--port): is no port", remedy="Give one of 1 to 65535; --port 0 takes a free one."
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerError(
                f"port {port} (--port) cannot be used: {error.strerror}",
                remedy="Choose another; --port 0 takes a free one.",
            ) from None
        return int(probe.getsockname()[1])


def _ready(url: str, seconds: float) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=seconds) as reply:
            return bool(reply.status == 200)
    except (OSError, ValueError):
        return False


def _alive(pid: object, command: str = "") -> bool:
    """Does a process of this number run, with `command` in its command line?"""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        return command.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _end(pid: object) -> None:
    if not isinstance(pid, int) or not _alive(pid, MODULE):
        return
    for sign, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError, OSError):
                os.waitpid(pid, os.WNOHANG)
            if not _alive(pid, MODULE):
                return
            time.sleep(0.05)


def _watch_users(state: Path) -> None:
    """End this server once every process that joined it is gone (they may have been killed)."""
    import threading

    def watch() -> None:
        known: dict[str, Any] = {}
        while True:
            time.sleep(2)
            try:
                known = json_object(state.read_bytes())
            except FileNotFoundError:  # its home is gone: nobody can find this server any more, nor end it
                over = bool(known)
            except (OSError, ValueError):
                continue
            else:
                users = known.get("keep") or any(map(_alive, known.get("users", [])))
                over = known.get("pid") == os.getpid() and not users
            if over:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
                os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def application() -> Any:
    """Prefect's server, with requests repeated where SQLite was too busy."""
    from prefect.server.api.server import create_app

    from flows.prefect_api.sqlite_retries import retrying

    return retrying(create_app())


def own(home: Path, url: str) -> IO[str]:
    """Take the lock of `home` for this process's life, before anything touches the database. Raises `SystemExit`."""
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
    file.write(json.dumps({"pid": os.getpid(), "url": url}))
    file.flush()
    return file


def main(port: int) -> None:
    """Serve until ended (the body of the server process)."""
    ctypes.CDLL(None).prctl(15, b"coral-server", 0, 0, 0)  # PR_SET_NAME: a name for ps and top
    lock = own(coral_home(), f"http://127.0.0.1:{port}/api")
    import uvicorn

    _watch_users(coral_home() / "server.json")
    uvicorn.run(
        f"{MODULE}:application",
        factory=True,
        host="127.0.0.1",
        port=port,
        timeout_keep_alive=5,
        log_level="warning",
    )
    del lock  # to here at least it is held


if __name__ == "__main__":
    main(int(sys.argv[1]))
