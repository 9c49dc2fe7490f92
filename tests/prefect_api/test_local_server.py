"""One server on one database: whoever finds a server that lives and does not answer waits for it, and never starts a second."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.prefect_api import local_server
from flows.prefect_api.local_server import OWNER, ServerError, _LocalServer, own
from tests.rehearsal_runs import served

CODE = """
import sys
from flows.prefect_api import local_server
local_server.BUSY_SECONDS, local_server.ANSWER_SECONDS = float(sys.argv[1]), 1.0
with local_server.api() as url:
    print(url)
"""


def joined(home: Path, patience: float) -> "subprocess.Popen[str]":
    environment = {**os.environ, "CORAL_HOME": str(home)}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-c", CODE, str(patience)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read(file: Path) -> list[bytes]:
    return file.read_bytes().split(b"\0")


def servers(home: Path) -> list[int]:
    """Server processes of this home."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid, ours = int(entry.name), f"PREFECT_HOME={home / 'prefect'}"
        try:
            is_server = {b"-P", b"flows.prefect_api.local_server"} <= set(read(entry / "cmdline"))
            if is_server and ours.encode() in read(entry / "environ"):
                found.append(pid)
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A server of its own, which is stopped for a while."""
    with served(tmp_path_factory.mktemp("home")) as path:
        yield path


@pytest.fixture
def stopped(home: Path) -> Iterator[int]:
    """The server of `home`, which lives and answers nobody."""
    (pid,) = servers(home)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.slow(reason="a server of its own, which is stopped for a while")
@pytest.mark.server
def test_a_busy_server_is_waited_for_and_then_named(home: Path, stopped: int) -> None:
    url = json.loads((home / OWNER).read_text())["url"]
    waits = joined(home, 600)
    gives_up = joined(home, 3)
    _, error = gives_up.communicate(timeout=300)
    assert gives_up.returncode != 0 and waits.poll() is None
    assert f"the local Prefect server at {url} (process {stopped}) lives and has not answered" in error
    assert servers(home) == [stopped], "a second server on the same database"
    os.kill(stopped, signal.SIGCONT)
    out, error = waits.communicate(timeout=300)
    assert out.strip() == url, error
    assert servers(home) == [stopped]


@pytest.mark.slow(reason="a server of its own, which is stopped for a while")
@pytest.mark.server
def test_a_lost_note_brings_no_second_server(home: Path, stopped: int) -> None:
    """The lock says that a server lives, and not what is written in the file."""
    state = (home / OWNER).read_bytes()
    (home / OWNER).write_text("{")  # cut off by a full disk
    try:
        gives_up = joined(home, 2)
        _, error = gives_up.communicate(timeout=300)
        assert "does not say which it is" in error and servers(home) == [stopped]
    finally:
        (home / OWNER).write_bytes(state)


def test_the_lock_belongs_to_one_process_and_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_server, "LOCK_SECONDS", 0.2)
    monkeypatch.setattr(local_server, "ANSWER_SECONDS", 0.2)
    code = "import sys, pathlib\nfrom flows.prefect_api.local_server import own\nl = own(pathlib.Path(sys.argv[1]), 'http://u/api')\nprint('mine', flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path), "flows.prefect_api.local_server"]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline().strip() == "mine"
    assert _LocalServer(tmp_path).living() == "http://u/api"
    with pytest.raises(SystemExit, match="another Prefect server of this home lives"):
        own(tmp_path, "http://other/api")
    holder.kill()
    holder.communicate()
    assert _LocalServer(tmp_path).living() == ""
    held = own(tmp_path, "http://other/api")
    (tmp_path / OWNER).write_text("{")
    with pytest.raises(ServerError, match="does not say which it is"):
        _LocalServer(tmp_path).living()
    held.close()


def test_looks_do_not_keep_a_server_from_starting(tmp_path: Path) -> None:
    """Each look takes the lock for a moment; a start that meets one tries again."""
    (tmp_path / OWNER).touch()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            with (tmp_path / OWNER).open("rb") as file:
                local_server.fcntl.flock(file, local_server.fcntl.LOCK_SH)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        own(tmp_path, "http://u/api").close()
    finally:
        over.set()
        thread.join()


def test_settings_of_the_callers_folder_do_not_reach_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its database could be the team's: the server starts in its own folder."""
    seen: dict[str, object] = {}

    class Ended:
        pid, returncode = 1, 1

        def __init__(self, command: list[str], **options: object) -> None:
            seen.update(options, command=command)

        def poll(self) -> int:
            return 1

    monkeypatch.setattr(subprocess, "Popen", Ended)
    with pytest.raises(ServerError, match="ended at once"):
        _LocalServer(tmp_path)._start(0)
    assert seen["cwd"] == tmp_path and "-P" in seen["command"]  # type: ignore[operator]
