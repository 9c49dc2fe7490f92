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
from flows.prefect_api.local_server import coral_home, identity_of, living, locked, prefect_home, worker_environment
from flows.prefect_api.settings import STARTED_BY_WORKER, configured_api, export_connection

if TYPE_CHECKING:
    from coral_core.config import RunConfig

STOP_SECONDS = 30.0


class WorkerError(CoralError):
    """A worker cannot be started."""

    exit_code = 6


def state_file() -> Path:
    return coral_home() / "up.json"


def read_state() -> dict[str, Any]:
    """URL, workers and working directory of `coral up`; empty when nothing is up."""
    try:
        return json_object(state_file().read_bytes())
    except (OSError, ValueError):
        return {}


def _write_state(state: dict[str, Any]) -> None:
    from coral_core.atomic_write import write_atomic  # late: most commands write nothing

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
    use_credential(url)  # before it is the configured one: what was configured for another API is not meant
    export_connection(url)
    return url


def refuse_without_installation() -> None:
    """Refuse work pools of a server that is started for one evolution: it has no workers. Raises `ConfigError`."""
    if configured_api() or (living() and read_state().get("url") == living()):
        return
    raise ConfigError(
        "infra.executor: work-pools: nothing is up on this machine, so no worker would take the work",
        remedy="Run coral up first, or set PREFECT_API_URL to the API that has the pools.",
    )


def refuse_what_lanes_refuse(config: "RunConfig", store: Path) -> None:
    """Refuse at once what each lane of `coral up` would refuse: paths outside its roots. Raises `ConfigError`."""
    from coral_core.lanes.allowed_paths import Roots  # late: commands that only look need no sources of problems

    state = read_state()
    if not state.get("workdir") or state.get("url") != known_api():
        return
    for worker in state.get("workers", []):
        if not is_worker(worker):
            continue
        with contextlib.suppress(OSError):
            read = Path(f"/proc/{worker['pid']}/environ").read_bytes().decode(errors="surrogateescape").split("\0")
            environment = dict(item.split("=", 1) for item in read if "=" in item)
            Roots.of_environment(environment, Path(state["workdir"])).check_lanes(config, str(store))


def start_workers(url: str, workdir: Path | None = None) -> list[dict[str, Any]]:
    """Start a process worker for each pool that has none; workers of another server are ended first.

    Args:
        url: API of the workers.
        workdir: Where their flow runs start; None: as recorded.

    Returns:
        Pool, pid and log of each worker.

    Raises:
        WorkerError: a worker ended at once.
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
    environment = worker_environment(url) | {"NO_COLOR": "1"}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "--limit", str(limit), "--name", _name(pool)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    return {"pool": pool, "pid": process.pid, "log": str(log)}


def is_worker(worker: dict[str, Any]) -> bool:
    """Does this worker of `read_state` still run, rather than another process with its pid?"""
    process = Path(f"/proc/{worker['pid']}")
    try:
        arguments, environment = ((process / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
    except OSError:
        return False
    wanted = {b"worker", b"--pool", worker["pool"].encode(), _name(worker["pool"]).encode()}
    return wanted <= set(arguments) and f"PREFECT_HOME={prefect_home()}".encode() in environment


def _name(pool: str) -> str:
    return f"{pool}-local"


def end_workers(pools: set[str] | None = None) -> Iterator[str]:
    """End the workers of `pools` with everything that they started; yields what was ended.

    Without `pools`, end all workers, and flow runs whose worker died before.
    """
    with locked(coral_home(), "up"):
        yield from _end_workers(pools)


def _end_workers(pools: set[str] | None) -> Iterator[str]:
    state = read_state()
    chosen = [w for w in state.get("workers", []) if pools is None or w["pool"] in pools]
    families = {w["pool"]: [w["pid"], *descendants(w["pid"])] for w in chosen if is_worker(w)}
    for worker in chosen:
        _signal([worker["pid"]] if is_worker(worker) else [], signal.SIGTERM)
    for pool, family in families.items():
        _end(family)
        yield f"worker of {pool}"
    if pools is None and (left := _flow_runs(state.get("url", ""))):
        _signal(left, signal.SIGTERM)
        _end(left)
        yield f"what dead workers had left, process {', '.join(map(str, left))}"
    others = [w for w in state.get("workers", []) if w not in chosen]
    if others or pools is not None:  # drained pools go on with `coral drain --undo`, until `coral down`
        _write_state({**state, "workers": others})
    else:
        state_file().unlink(missing_ok=True)


def _end(family: list[int]) -> None:
    """Wait for processes to end; kill the rest after `STOP_SECONDS`."""
    deadline = time.monotonic() + STOP_SECONDS
    while any(_alive(pid) for pid in family) and time.monotonic() < deadline:
        _reap()
        time.sleep(0.1)
    _signal([pid for pid in family if _alive(pid)], signal.SIGKILL)


def _flow_runs(url: str) -> list[int]:
    """Processes that a worker of this installation started for a flow run, whatever their parent is now."""
    of_ours = {f"{name}={value}".encode() for name, value in identity_of(url).items()}
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes().split(b"\0")
            if of_ours <= set(environment) and any(v.startswith(f"{STARTED_BY_WORKER}=".encode()) for v in environment):
                found.append(int(entry.name))
    return [pid for pid in found if _alive(pid)]


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            parents.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    queue = [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
