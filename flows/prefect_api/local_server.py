"""A Prefect server of one's own: started for a run where no server is configured, gone with it.

It listens on loopback only, keeps its database under CORAL_HOME (default
``~/.local/share/coral-x``) so that later starts skip the migrations, and dies with the
process that started it, even by kill -9. Several runs at once share one server: the
last to leave ends it. The server holds a lock on its home for as long as its process lives, so
that no second one is ever started on the same database, however slow the first one answers.
Not covered: servers for teams (see docs and `coral setup`).
"""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from coral_core.errors import ConfigError, CoralError
from coral_core.json_object import json_object
from flows.prefect_api.api_errors import ApiError
from flows.prefect_api.api_settings import api_settings, configured_names, export, export_connection
from flows.prefect_api.credentials import KeyFileError, KeyRefusedError, fingerprint, read_key, use_credential

ROOT = Path(__file__).parents[1]
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


class ServerError(CoralError):
    """The local Prefect server cannot be started."""

    exit_code = 6


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
            f"CORAL_HOME: {home}: cannot be used ({error.strerror}). Set CORAL_HOME to a folder that you can write."
        ) from None


@contextlib.contextmanager
def locked(home: Path, name: str = "server") -> Iterator[None]:
    """Be the only process that changes ``NAME.json`` in `home`."""
    with (home / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def configured_api() -> str | None:
    """The API that Prefect's settings name, if any. Raises `ConfigError` when they cannot be read."""
    return api_settings().url or None


@contextlib.contextmanager
def api(port: int = 0, keep: bool = False) -> Iterator[str]:
    """The URL of a usable Prefect API; starts a local server where none is configured.

    Must be entered before `prefect` is imported, since Prefect reads its settings then.

    Args:
        port: Port of the local server; 0 takes a free one.
        keep: Leave the local server running afterwards.

    Raises:
        ServerError: the port is taken, or the server does not come up.
    """
    _set_defaults()
    if url := configured_api():
        export_connection(url)
        _reach(url)
        use_credential(url)
        refuse_wrong_key(url)
        yield url
        return
    home = usable_home()
    server = _Shared(home)
    url = server.join(port, keep)
    use_credential(url)  # before it is the configured one: what was configured for another API is not meant
    export({"PREFECT_API_URL": url, "PREFECT_HOME": str(home / "prefect")})
    try:
        yield url
    finally:
        server.leave(keep)


def join(port: int = 0) -> str:
    """Start (or find) the local server and leave it running; as `api`, without an end. See `leave`."""
    _set_defaults()
    home = usable_home()
    url = _Shared(home).join(port, keep=True)
    use_credential(url)
    export({"PREFECT_API_URL": url, "PREFECT_HOME": str(home / "prefect")})
    return url


def refuse_beside_configured(port: int) -> None:
    """Before a server is started on purpose: commands would use the configured API instead. Raises `ConfigError`."""
    url = (configured_api() or "").rstrip("/")
    own = {f"http://127.0.0.1:{port}/api", f"http://localhost:{port}/api", living()}
    if url and url not in own:
        raise ConfigError(
            f"Prefect's settings name the API {url} (prefect config view says where), and every command here would use that "
            "instead of the server that coral up starts. To use it: coral setup. To have an installation of this machine beside "
            f"it: export PREFECT_API_URL=http://127.0.0.1:{port or 4200}/api, then coral up --port {port or 4200}"
        )


def _set_defaults() -> None:
    """`SETTINGS` for this process, where nobody has set them otherwise, be it in a file or a profile."""
    configured = configured_names()
    export({name: value for name, value in SETTINGS.items() if name not in configured | os.environ.keys()})


def leave(patience: float = 0.0) -> str:
    """End the server that `join` left running, unless a process of this machine still uses it `patience` seconds from now.

    Returns:
        What was done, in words; empty where there was no server.
    """
    if not coral_home().is_dir():
        return ""
    server = _Shared(coral_home())
    deadline = time.monotonic() + patience
    while server.users() and time.monotonic() < deadline:
        time.sleep(0.2)
    return server.release()


def living() -> str:
    """URL of the local server, while it lives; else empty."""
    return _Shared(coral_home()).living()


def living_key() -> str | None:
    """`fingerprint` of the key that the living local server was started with; None while there is no server."""
    server = _Shared(coral_home())
    return str(server._read().get("key", "")) if server.living() else None


def users() -> list[int]:
    """Processes of this machine, other than this one, that use the local server as theirs."""
    return _Shared(coral_home()).users()


class _Shared:
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
                        f"{self.home}: its server was started with another key, or with none. End it with coral down (it also ends "
                        "with the last process that uses it), then start it anew."
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
                        f"{BUSY_SECONDS:.0f} s, so no second one is started on its database. Wait until it is less busy and run "
                        f"the same command again, or end it with: kill {state['pid']}. Its log: {self.home / 'server.log'}"
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
        # a server of an earlier version holds no lock
        state = self._read()
        return (
            state
            if _alive(state.get("pid", 0), "flows.prefect_api.local_server", f"PREFECT_HOME={self.home / 'prefect'}")
            else {}
        )

    def _owner(self) -> dict[str, Any]:
        """What the process that holds the lock has written; it does so right after it got it."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                found = json_object((self.home / OWNER).read_bytes())
                if found.get("url") and _alive(
                    found.get("pid"), "flows.prefect_api.local_server"
                ):  # else of the one before
                    return found
            time.sleep(0.05)
        raise ServerError(
            f"{self.home / OWNER}: a process holds the lock of this home's Prefect server and does not say which it is. End it "
            f"(fuser {self.home / OWNER} names it), or set CORAL_HOME to another folder."
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
            "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "flows.prefect_api.patient_broker",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        }
        # Prefect's default lets every page that a browser on this machine shows use the server
        environment.setdefault(
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS", f"http://127.0.0.1:{port},http://localhost:{port}"
        )
        if key:
            environment |= {"PREFECT_SERVER_API_AUTH_STRING": key, "PREFECT_API_AUTH_STRING": key}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.prefect_api.local_server", str(port)],
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
                    f"the local Prefect server did not answer at {url} within {START_SECONDS:.0f} s. See its log: {log}"
                )
            time.sleep(0.1)
        return {"pid": process.pid, "url": url, "users": [], "keep": False, "key": fingerprint(key)}


def _claim(port: int) -> int:
    """A free loopback port, or `port` itself when it is free."""
    if not 0 <= port <= 65535:
        raise ServerError(f"port {port} (--port): is no port. Give one of 1 to 65535; --port 0 takes a free one.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerError(
                f"port {port} (--port) cannot be used: {error.strerror}. Choose another; --port 0 takes a free one."
            ) from None
        return int(probe.getsockname()[1])


def _reach(url: str) -> None:
    """Refuse an API that does not answer; one that answers with an error is told by who uses it."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10):
            return
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ServerError(
            f"PREFECT_API_URL: {url} cannot be reached ({reason}). Start it (coral up), set another, or unset it to have a server "
            "started for the run."
        ) from None


def refuse_wrong_key(url: str) -> None:
    """Before anything is begun: /health answers without a key, all else may not. Raises `KeyRefusedError`."""
    from flows.prefect_api.rest_client import PlainApi  # it needs what is defined here

    try:
        with PlainApi(url) as plain:
            plain.get("admin/version")
    except (KeyRefusedError, KeyFileError):
        raise
    except ApiError:
        return  # said by who uses it


def _ready(url: str, seconds: float) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=seconds) as reply:
            return bool(reply.status == 200)
    except (OSError, ValueError):
        return False


def _alive(pid: object, command: str = "", variable: str = "") -> bool:
    """Does a process of this number run, with `command` in its command line and `variable` in its environment?"""
    if not isinstance(pid, int) or pid <= 0:
        return False
    process = Path(f"/proc/{pid}")
    try:
        if command.encode() not in (process / "cmdline").read_bytes():
            return False
        return not variable or variable.encode() in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _end(pid: object) -> None:
    if not isinstance(pid, int) or not _alive(pid, "flows.prefect_api.local_server"):
        return
    for sign, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError, OSError):
                os.waitpid(pid, os.WNOHANG)
            if not _alive(pid, "flows.prefect_api.local_server"):
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
    """Prefect's server, asked again where SQLite was too busy."""
    from prefect.server.api.server import create_app

    from flows.prefect_api.busy_database import ask_again

    return ask_again(create_app())


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
        "flows.prefect_api.local_server:application",
        factory=True,
        host="127.0.0.1",
        port=port,
        timeout_keep_alive=5,
        log_level="warning",
    )
    del lock  # to here at least it is held


if __name__ == "__main__":
    main(int(sys.argv[1]))
