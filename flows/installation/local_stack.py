"""The workers of `coral up`: a process worker for each pool, recorded in ``CORAL_HOME/up.json``.

Workers start in sessions of their own, so that Ctrl-C in a terminal does not reach them, and with the default handling of
SIGINT: a shell ignores it for background jobs, and a worker that inherits this never stops.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coral_core.errors import ConfigError, CoralError
from coral_core.json_object import json_object
from flows.installation.pool_templates import POOLS
from flows.prefect_api.credentials import use_credential
from flows.prefect_api.local_server import coral_home, living, locked, worker_environment
from flows.prefect_api.settings import configured_api, export_connection

if TYPE_CHECKING:
    from coral_core.config import RunConfig

STOP_SECONDS = 30.0
"""Longest wait for workers and flow runs that got SIGTERM, before they are killed."""
KILL_SECONDS = 10.0
WORKER = "CORAL_WORKER"
"""Environment variable of a worker and its flow runs: their pool and CORAL_HOME. It identifies their processes."""


class WorkerError(CoralError):
    """A worker cannot be started."""

    exit_code = 6


def state_file() -> Path:
    return coral_home() / "up.json"


def read_state() -> dict[str, Any]:
    """Content of ``up.json``: `url`, `workers` and `workdir` of `coral up`; empty when nothing is up."""
    try:
        return json_object(state_file().read_bytes())
    except (OSError, ValueError):
        return {}


def _write_state(state: dict[str, Any]) -> None:
    from coral_core.atomic_write import write_atomic  # late, since most commands write nothing

    write_atomic(state_file(), json.dumps(state).encode())


class NoApiError(ConfigError):
    """No API is configured and nothing is up."""


def known_api() -> str:
    """The configured API, else the one of `coral up`.

    Raises:
        NoApiError: there is none.
        ConfigError: Prefect's settings cannot be used.
    """
    url = configured_api() or read_state().get("url")
    if not url:
        raise NoApiError(
            "no Prefect API is configured and nothing is up", remedy="Run coral up, or set PREFECT_API_URL."
        )
    return str(url)


def use_api() -> str:
    """Use `known_api` for Prefect in this process and its children. Raises `ConfigError`."""
    url = known_api()
    use_credential(url)  # before the export: until then, settings made for another API are not taken for this one
    export_connection(url)
    return url


def refuse_without_installation() -> None:
    """Refuse an evolution on work pools where its server would be started for it alone and so have no workers.

    Raises:
        ConfigError: No API is configured, and `coral up` is not running.
    """
    if configured_api() or (living() and read_state().get("url") == living()):
        return
    raise ConfigError(
        "infra.executor: work-pools: nothing is up on this machine, so no worker would take the work",
        remedy="Run coral up first, or set PREFECT_API_URL to the API that has the pools.",
    )


def refuse_what_lanes_refuse(config: "RunConfig", store: Path) -> None:
    """Refuse, before lanes start, paths that the lanes of `coral up` would refuse: those outside their roots.

    Does nothing where the API in use is not that of `coral up`.

    Args:
        config: Names the paths that lanes read.
        store: Directory of the store.

    Raises:
        ConfigError: A path lies outside the roots of a worker.
    """
    from coral_core.lanes.allowed_paths import Roots  # late: it imports all sources of problems

    state = read_state()
    if not state.get("workdir") or state.get("url") != known_api():
        return
    for worker in filter(is_worker, state.get("workers", [])):
        roots = Roots.of_environment(_environment(worker["pid"]), Path(state["workdir"]))
        roots.check_lanes(config, str(store))


def start_workers(url: str, workdir: Path | None = None) -> list[dict[str, Any]]:
    """Start a process worker for each pool that has none; workers of another server are ended first.

    Args:
        url: API of the workers.
        workdir: Working directory of their flow runs; None: as recorded in ``up.json``.

    Returns:
        For each pool a dict with `pool`, `pid` and `log` (path) of its worker.

    Raises:
        WorkerError: A worker ended within a second.
    """
    with locked(coral_home(), "up"):
        if read_state().get("url", url) != url:
            for _ in _end_workers(None):
                pass
        known = {w["pool"]: w for w in read_state().get("workers", []) if is_worker(w)}
        workers = [known.get(pool.name) or _start(pool.name, pool.limit, url) for pool in POOLS]
        workdir = workdir or read_state().get("workdir", "")
        _write_state({"url": url, "workers": workers, "workdir": str(workdir)})
    time.sleep(1.0)
    for worker in workers:
        if not is_worker(worker):
            tail = " | ".join(Path(worker["log"]).read_text("utf-8", "replace").strip().splitlines()[-3:])
            raise WorkerError(
                f"the worker of pool {worker['pool']} ended at once. Its log {worker['log']} ends: {tail}"
            )
    return workers


def _start(pool: str, limit: int, url: str) -> dict[str, Any]:
    log = coral_home() / f"worker-{pool}.log"
    environment = worker_environment(url) | {"NO_COLOR": "1", WORKER: _mark(pool)}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "--limit", str(limit), "--name", f"{pool}-local"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    return {"pool": pool, "pid": process.pid, "log": str(log)}


def is_worker(worker: dict[str, Any]) -> bool:
    """Whether a worker of `read_state` still runs; another process with its pid does not count."""
    return worker["pid"] in _processes(worker["pool"])


def end_workers(pools: set[str] | None = None) -> Iterator[str]:
    """End workers and their flow runs, including flow runs whose worker has died.

    Args:
        pools: Names of their pools; None: all.

    Yields:
        What was ended, in words.
    """
    with locked(coral_home(), "up"):
        yield from _end_workers(pools)


def _end_workers(pools: set[str] | None) -> Iterator[str]:
    state = read_state()
    workers = {worker["pool"]: worker["pid"] for worker in state.get("workers", [])}
    chosen = {spec.name for spec in POOLS} if pools is None else pools
    families = {pool: family for pool in sorted(chosen) if (family := _processes(pool))}
    for pool, family in families.items():  # a worker ends its flow runs; without one each gets the signal
        _signal([workers[pool]] if workers.get(pool) in family else family, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for pool in families:
        while (left := _processes(pool)) and time.monotonic() < deadline + KILL_SECONDS:
            if time.monotonic() > deadline:
                _signal(left, signal.SIGKILL)
            time.sleep(0.1)
        yield f"worker of {pool}"
    if pools is None:
        state_file().unlink(missing_ok=True)
    else:  # the rest stays on record: `coral drain --undo` starts workers from it
        _write_state(state | {"workers": [w for w in state.get("workers", []) if w["pool"] not in pools]})


def _processes(pool: str) -> list[int]:
    """Pids of the worker of `pool` of this installation and of its flow runs, whatever their parent process is now."""
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if _environment(pid).get(WORKER) == _mark(pool)]


def _mark(pool: str) -> str:
    return f"{pool} of {coral_home()}"


def _environment(pid: int) -> dict[str, str]:
    """Environment that a process was started with; empty when it has ended or belongs to another user."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="surrogateescape")
    except OSError:
        return {}
    return dict(item.split("=", 1) for item in text.split("\0") if "=" in item)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
