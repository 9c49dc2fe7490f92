"""`coral down` and `coral drain` say what they did, and leave nobody waiting for what they ended."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.installation import local_stack as daily
from flows.prefect_api import local_server
from tests.pools.conftest import Pools, alive, command, connected, kill, worker_pid
from tests.rehearsal_runs import Coral
from tests.waiting import until


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Pools]:
    """An installation that a test may end."""
    home = tmp_path / "home"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command(home, "up", "--port", str(port), cwd=tmp_path)
    made = Pools(home, tmp_path, json.loads((home / "up.json").read_text())["url"])
    yield made
    made.end()
    command(home, "down", cwd=tmp_path)


@pytest.mark.server
@pytest.mark.slow(reason="an installation of its own")
def test_down_ends_evolutions_in_other_terminals_too(own: Pools) -> None:
    """By its API's address, so that the server does not know whose it is, and as one that joined it: both need the pools."""
    joined = Coral(Path(own.environment["CORAL_HOME"]), own.folder / "joined")
    long = {"base_model__name": "rehearsal:train=4,evaluate=0.2"}
    runs = [own.start(**long), joined.start("--executor", "work-pools", **long)]
    local = Coral(Path(own.environment["CORAL_HOME"]), own.folder / "local")
    runs.append(local.start(base_model__name="rehearsal:train=30,evaluate=0.2"))
    until(lambda: own.working(), 120)
    until(lambda: list(joined.runs.glob("*/run.json")) and list(local.runs.glob("*/run.json")), 60)
    server = int(json.loads((own.runs.parents[0] / "home" / "server.json").read_text())["pid"])

    done = own.call("down")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("evolution quickstart was told to end. Go on with: coral up, coral resume RUN") == 2
    assert "the server stays for the commands that use it, and ends with the last" in done.stdout
    for run in runs[:2]:
        out, _ = run.communicate(timeout=200)
        assert run.returncode == 130 and "Go on with: coral resume" in out, out
    assert runs[2].poll() is None, "it needs no pool"
    local.end()
    until(lambda: not alive(server), 30, "the last to leave ends the server")


@pytest.mark.server
@pytest.mark.slow(reason="an installation of its own")
def test_down_ends_what_dead_workers_left(own: Pools) -> None:
    """Lanes outlive their worker, so they have no parent any more by which they could be found."""
    run = own.start(base_model__name="rehearsal:train=4,evaluate=0.2")
    until(lambda: own.working(), 120)
    for pool in ("coral-a100", "coral-a10g"):
        kill(worker_pid(own, pool))
    lanes = own.lanes()
    done = own.call("down")
    assert done.returncode == 0 and "ended the server" in done.stdout, done.stdout + done.stderr
    assert lanes
    assert not any(alive(note.pid) for note in lanes)
    out, _ = run.communicate(timeout=200)
    assert run.returncode == 130, out


def test_leaving_says_what_became_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORAL_HOME", str(tmp_path))
    assert local_server.leave() == "", "there was none"
    with subprocess.Popen([sys.executable, "-c", PRETENDED_SERVER, str(tmp_path)], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None and server.stdout.readline() == b"owner\n"
        (tmp_path / local_server.KEEP).touch()
        with (tmp_path / local_server.USERS).open("a") as user:
            fcntl.flock(user, fcntl.LOCK_SH)
            assert local_server.is_used()
            assert local_server.leave(patience=0.3).startswith("the server stays for the commands that use it")
        assert not (tmp_path / local_server.KEEP).exists() and server.poll() is None and not local_server.is_used()
        assert local_server.leave() == "ended the server" and server.wait(60) == -signal.SIGTERM
    assert local_server.leave() == ""


PRETENDED_SERVER = """
import pathlib, sys, threading
from flows.prefect_api.local_server import own
lock = own(pathlib.Path(sys.argv[1]), "http://127.0.0.1:9/api")
print("owner", flush=True)
threading.Event().wait()
"""


def pretended_worker(home: Path, pool: str, *, name: str = "") -> "subprocess.Popen[bytes]":
    """A process that looks like the worker of `pool` of the installation in `home`."""
    environment = {**os.environ, daily.WORKER: f"{name or pool} of {home}"}
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment)


def test_a_process_that_got_the_number_of_a_dead_worker_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORAL_HOME", str(tmp_path))
    strangers = [
        subprocess.Popen([sys.executable, "-c", "input()", "my-worker-script"], stdin=subprocess.PIPE),
        pretended_worker(tmp_path / "elsewhere", "coral-a100"),
        pretended_worker(tmp_path, "coral-a100", name="somebodys"),
    ]
    try:
        for stranger in strangers:
            known = {"pool": "coral-a100", "pid": stranger.pid, "log": ""}
            (tmp_path / "up.json").write_text(json.dumps({"url": "http://127.0.0.1:9/api", "workers": [known]}))
            assert not daily.is_worker(known)
            assert list(daily.end_workers()) == [] and stranger.poll() is None
    finally:
        for stranger in strangers:
            stranger.communicate(b"\n")


def test_workers_of_a_server_that_is_gone_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORAL_HOME", str(tmp_path))
    started: list[str] = []

    def start(pool: str, limit: int, url: str) -> dict[str, Any]:
        started.append(pool)
        return {"pool": pool, "pid": pretended_worker(tmp_path, pool).pid, "log": str(tmp_path / "log")}

    monkeypatch.setattr(daily, "_start", start)
    names = [pool.name for pool in daily.POOLS]
    first = daily.start_workers("http://127.0.0.1:9/api")
    try:
        assert daily.start_workers("http://127.0.0.1:9/api") == first and started == names
        second = daily.start_workers("http://127.0.0.1:10/api")
        assert started == [*names, *names]
        assert {w["pid"] for w in first}.isdisjoint(w["pid"] for w in second)
        assert not any(daily.is_worker(worker) for worker in first)
    finally:
        list(daily.end_workers(set(names)))
    assert daily.read_state() == {"url": "http://127.0.0.1:10/api", "workers": [], "workdir": ""}, (
        "drain --undo has to know the server"
    )
    assert list(daily.end_workers()) == [] and daily.read_state() == {}


@pytest.mark.slow(reason="two commands that drain a pool")
@pytest.mark.server
def test_a_drain_on_another_api_leaves_the_workers_of_coral_up(
    pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They serve another server: here one whose pool of that name is drained by its address."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("CORAL_HOME", str(tmp_path / "home"))
    worker = pretended_worker(tmp_path / "home", "coral-control")
    known = {"pool": "coral-control", "pid": worker.pid, "log": ""}
    state = {"url": "http://127.0.0.1:9/api", "workers": [known]}
    (tmp_path / "home" / "up.json").write_text(json.dumps(state))
    environment = pools.environment | {"CORAL_HOME": str(tmp_path / "home")}
    drain = [sys.executable, "-m", "flows.cli", "drain", "coral-control"]
    try:
        done = subprocess.run(drain, env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0 and "ended worker" not in done.stdout, done.stdout + done.stderr
        assert worker.poll() is None and daily.is_worker(known)
    finally:
        subprocess.run([*drain, "--undo"], env=environment, capture_output=True, text=True, timeout=400, check=True)
        worker.communicate(b"\n")


@pytest.mark.slow(reason="coral up once more")
@pytest.mark.server
def test_a_paused_pool_is_said_by_setup_and_resumed_by_up(pools: Pools) -> None:
    from prefect.client.schemas.actions import WorkPoolUpdate

    with connected(pools.url) as client:
        client.update_work_pool("coral-control", WorkPoolUpdate(is_paused=True))
        try:
            said = pools.call("setup", "--dry-run").stdout
            assert re.search(
                r"is paused\s+work pool coral-control: no lane starts before coral drain coral-control --undo", said
            )
            home = Path(pools.environment["CORAL_HOME"])
            port = pools.url.removesuffix("/api").rsplit(":", 1)[1]
            said = command(home, "up", "--port", port, cwd=pools.folder)
            assert re.search(r"resumed\s+work pool coral-control, which was paused", said), said
            assert not client.read_work_pool("coral-control").is_paused
        finally:
            client.update_work_pool("coral-control", WorkPoolUpdate(is_paused=False))
