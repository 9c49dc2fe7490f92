"""An installation whose API asks for a key: every command works with it, none without, and it stands nowhere else."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import warm_commands
from tests.pools.conftest import Pools, command, descendants
from tests.waiting import until

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow(
        reason="an installation of its own; tests/prefect_api holds the key's file and what requests carry"
    ),
]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pools]:
    home, work = tmp_path_factory.mktemp("key-home"), tmp_path_factory.mktemp("key-work")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = command(home, "up", "--auth", "--port", str(port), cwd=work)
    url = json.loads((home / "up.json").read_text())["url"]
    pools = Pools(home, work, url, few_lanes=True)
    secret = key(home)
    assert secret not in said and f"key          {home / 'api-key'}" in said
    yield pools
    pools.end()
    command(home, "down", cwd=work)


def key(home: Path) -> str:
    return (home / "api-key").read_text().strip().partition(":")[2]


def home_of(pools: Pools) -> Path:
    return Path(pools.environment["CORAL_HOME"])


def called(pools: Pools, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return warm_commands.run([*arguments], environment=pools.environment | environment, cwd=pools.folder)


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_server_answers_nobody_without_the_key(locked: Pools) -> None:
    assert status(f"{locked.url}/admin/version") == 401
    assert status(f"{locked.url}/health") == 200
    assert stat.S_IMODE((home_of(locked) / "api-key").stat().st_mode) == 0o600


@pytest.mark.parametrize(("origin", "allowed"), [("own", True), ("http://evil.example", False), ("null", False)])
def test_pages_of_other_origins_may_not_use_it(locked: Pools, origin: str, allowed: bool) -> None:
    own = locked.url.removesuffix("/api")
    asked = {"Origin": own if origin == "own" else origin, "Access-Control-Request-Method": "POST"}
    request = urllib.request.Request(f"{locked.url}/flow_runs/", headers=asked, method="OPTIONS")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            permitted = answer.headers.get("Access-Control-Allow-Origin")
    except urllib.error.HTTPError as error:
        permitted = error.headers.get("Access-Control-Allow-Origin")
    assert (permitted in (own, "*")) is allowed


@pytest.mark.slow(reason="a run and ten commands")
def test_an_evolution_on_its_pools_and_every_command_that_looks_at_it(locked: Pools) -> None:
    seen: set[str] = set()
    process = locked.start(base_model__name="rehearsal:train=0.3,evaluate=0.1")
    secret = key(home_of(locked))

    def over() -> bool:  # what `ps` shows everybody, of all that the installation runs
        workers = [w["pid"] for w in json.loads((home_of(locked) / "up.json").read_text())["workers"]]
        pids = [process.pid, *(pid for root in (process.pid, *workers) for pid in (root, *descendants(root)))]
        for pid in pids:
            try:
                seen.add(Path(f"/proc/{pid}/cmdline").read_text())
            except OSError:
                continue
        return process.poll() is not None

    until(over, 120)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert any("prefect.engine" in line for line in seen), "a lane was seen at work"
    assert not any(secret in line for line in seen) and secret not in said
    for arguments in (
        ("status", "--json"),
        ("logs", "latest", "--json"),
        ("progress", "latest", "--json"),
        ("report", "latest", "--json"),
        ("jobs", "--json"),
        ("setup", "--only-notices"),
        ("drain", "coral-control", "--undo"),
        ("cancel", "latest"),
        ("health",),
    ):
        done = called(locked, *arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        assert secret not in done.stdout + done.stderr, arguments
    assert json.loads(called(locked, "logs", "latest", "--json").stdout)["lines"]


@pytest.mark.slow(reason="three commands")
def test_without_any_setting_the_api_of_coral_up_is_found_with_its_key(locked: Pools) -> None:
    for arguments in (("status",), ("health",), ("submit", "test", "missing.yaml", "x", "y")):
        environment = {name: value for name, value in locked.environment.items() if name != "PREFECT_API_URL"}
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            env=environment,
            cwd=locked.folder,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert "refuses the key" not in done.stdout + done.stderr
        assert done.returncode == (2 if arguments[0] == "submit" else 0), done.stdout + done.stderr


@pytest.mark.slow(reason="seven commands; make test has a wrong key in test_bad_weather.py")
@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("health",),
        ("setup", "--dry-run"),
        ("logs", "latest"),
        ("cancel", "latest"),
        ("drain", "coral-a100"),
        (
            "evolve",
            str(Path(__file__).parents[2] / "configs" / "quickstart.yaml"),
            "--set",
            "base_model.name=rehearsal",
        ),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_wrong_key_is_told_with_where_it_came_from(locked: Pools, arguments: tuple[str, ...]) -> None:
    done = called(locked, *arguments, PREFECT_API_AUTH_STRING="coral:not-the-key-at-all")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert f"{locked.url} refuses the key (401)" in said, said
    assert "It was sent that of PREFECT_API_AUTH_STRING" in said, said
    assert "not-the-key-at-all" not in said and "bug of CORAL-X" not in said


def test_without_the_key_file_the_way_out_is_named(locked: Pools, tmp_path: Path) -> None:
    """Another user of the machine, who knows the address."""
    done = called(locked, "setup", "--dry-run", CORAL_HOME=str(tmp_path))
    assert done.returncode == 6
    assert f"{locked.url} asks for a key (401), and none is configured for it." in done.stderr
    assert "PREFECT_API_AUTH_STRING" in done.stderr and "PREFECT_API_KEY" in done.stderr


@pytest.mark.slow(reason="says nothing before the run of this file")
def test_the_key_stands_in_its_file_and_nowhere_else(locked: Pools) -> None:
    """Database, logs, runs, reports, job variables, parameters."""
    secret = key(home_of(locked)).encode()
    found = [
        path
        for root in (home_of(locked), locked.folder)
        for path in root.rglob("*")
        if path.is_file() and secret in path.read_bytes()
    ]
    assert found == [home_of(locked) / "api-key"]


@pytest.mark.slow(reason="six times coral up")
def test_up_again_keeps_it_and_it_can_be_rotated_and_switched_off(locked: Pools) -> None:
    home, work, port = home_of(locked), locked.folder, locked.url.rsplit(":", 1)[1].split("/")[0]
    first = key(home)
    command(home, "up", "--port", port, cwd=work)
    assert key(home) == first and status(f"{locked.url}/admin/version") == 401
    refused = called(locked, "up", "--no-auth", "--port", port)
    assert refused.returncode == 2 and "started with a key. Run coral down, then coral up --no-auth" in refused.stderr
    assert key(home) == first
    command(home, "down", cwd=work)
    assert key(home) == first
    command(home, "up", "--port", port, cwd=work)
    assert status(f"{locked.url}/admin/version") == 401
    (home / "api-key").unlink()  # half of a rotation: what lives still knows the old one
    changed = called(locked, "up", "--port", port)
    assert (
        changed.returncode == 6 and "started with another key, or with none. End it with coral down" in changed.stderr
    )
    assert "asks for a key (401)" in command(home, "down", cwd=work)
    command(home, "up", "--auth", "--port", port, cwd=work)
    assert key(home) != first and called(locked, "setup", "--dry-run").returncode == 0
    command(home, "down", cwd=work)
    said = command(home, "up", "--no-auth", "--port", port, cwd=work)
    assert status(f"{locked.url}/admin/version") == 200 and re.search(r"key +none: every user", said)
    assert not (home / "api-key").exists()
    assert not any("AUTH_STRING" in name for name in os.environ)
