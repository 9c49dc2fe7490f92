"""Checks of the Prefect server: API, pools, deployments, automations, workers."""

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version

from pydantic import Field

from coral_core.frozen import Frozen
from flows.installation.obstacles import LANE_STARTS, DeploymentStatus, Obstacle, Reason, obstacles, read_deployments
from flows.installation.pool_status import QUEUES, PoolStatus, read_pools
from flows.installation.pool_templates import DEPLOYMENTS, POOLS, Drift, automation_files, drift
from flows.installation.queue_status import QueueStatus
from flows.monitoring.finding import Check, first
from flows.prefect_api.client import RestClient, Worker, flow_run_query

FORGET_SECONDS = 1800.0
"""A silent worker beside others of its pool is bad for this long; after that it was most likely replaced."""
LOST_LANES = "coral: lost lanes"
"""Without this automation lanes of a dead machine stay Running for ever; the others only notify."""


class LaneRun(Frozen):
    """A lane's flow run that is Running."""

    flow_run_id: str
    name: str
    queue: str
    store: str = Field(description="Path of the store that it was started with.")
    installation: str = Field(description="First digits of the store's name.")
    seconds: float = Field(description="Since it began to run.")


class ServerStatus(Frozen):
    """State of an installation, as its API reports it."""

    url: str
    version: str
    ahead: float = Field(description="Seconds that its clock is ahead of this machine's.")
    pools: tuple[PoolStatus, ...]
    deployments: tuple[DeploymentStatus, ...]
    automations: dict[str, bool] = Field(description="Name -> whether it is switched on.")
    lanes: tuple[LaneRun, ...]


def read_server(api: RestClient) -> ServerStatus:
    """Read everything that the checks of an installation need. Raises `ApiError`."""
    return ServerStatus(
        url=api.url,
        version=api.version(),
        pools=read_pools(api),
        deployments=read_deployments(api, DEPLOYMENTS),
        automations={automation.name: automation.enabled for automation in api.automations()},
        lanes=tuple(_lanes(api)),
        ahead=api.ahead,
    )


def _lanes(api: RestClient) -> Iterator[LaneRun]:
    for run in api.flow_runs(flow_run_query(states=["RUNNING"], tags=["coral-lane"], pools=list(QUEUES))):
        tags = dict(tag.split(":", 1) for tag in run.tags if ":" in tag)
        yield LaneRun(
            flow_run_id=run.id,
            name=run.name,
            queue=QUEUES.get(run.work_pool_name or "", "training"),
            store=str(run.parameters.get("store", "")),
            installation=tags.get("store", ""),
            seconds=api.age(run.start_time) if run.start_time is not None else 0.0,
        )


def server_checks(status: ServerStatus) -> Iterator[Check]:
    """All checks of this module but `lane_starts`."""
    yield api(status)
    yield versions(status.version)
    yield pools(status.pools)
    yield templates(status.pools)
    yield deployments(status.deployments)
    yield automations(status.automations)
    yield worker_responsiveness(status.pools)


def api(status: ServerStatus) -> Check:
    """Checks that the server's clock agrees with this machine's within 10 seconds."""
    if abs(status.ahead) > 10:
        text = f"its clock is {abs(status.ahead):.0f} s {'ahead of' if status.ahead > 0 else 'behind'} this machine's"
        return Check("api", "note", status.url, text, "keep the clocks of all machines in step (NTP)")
    return Check("api", "ok", status.url, "answers")


def versions(server: str, client: str = version("prefect")) -> Check:
    """Checks Prefect's rule that the server is as new as its clients, or newer.

    Args:
        server: Version of the server; "" where it does not report one.
        client: Version of Prefect on this machine.

    Example:
        >>> versions("3.4.0", "3.8.8").state, versions("3.9.0", "3.8.8").state
        ('bad', 'note')
    """
    name, found = "version match", f"server {server or 'does not tell its version'}, here {client}"
    if server == client:
        return Check(name, "ok", found)
    if _number(server) > _number(client) or not server:
        return Check(name, "note", found, "a newer server understands this client", "use one version when you can")
    text = "an older server does not know all that this client asks for"
    return Check(
        name, "bad", found, text, f"bring the server to {client}: pip install prefect=={client}, then restart it"
    )


def _number(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)[:3]]


def pools(found: Sequence[PoolStatus]) -> Check:
    """Checks that the pools exist and are not paused."""
    missing = [pool.name for pool in found if not pool.present]
    paused = [pool.name for pool in found if pool.is_paused]
    if missing:
        return Check("pools", "bad", f"{first(missing)} missing", "its flow runs are never started", "coral setup")
    if paused:
        todo = "; ".join(f"prefect work-pool resume {name}" for name in paused)
        return Check("pools", "note", f"{first(paused)} paused", "no new lane starts there", todo)
    return Check("pools", "ok", first([pool.name for pool in found], 9))


def templates(found: Sequence[PoolStatus]) -> Check:
    """Checks that each pool's base job template is what this version renders for the recorded options.

    The template fixes what a flow run may do, so a changed one may give it more rights.
    """
    specs = {spec.name: spec for spec in POOLS}
    drifts = {pool.name: drift(specs[pool.name], pool.type, pool.base_job_template) for pool in found if pool.present}
    changed = {name: kind for name, kind in drifts.items() if kind is not None}
    if not changed:
        return Check("pool templates", "ok", "as this version renders them for the options of coral setup")
    text = "lanes start otherwise than this version means them to, and perhaps with more rights"
    todo = "look with coral setup --as-installed --dry-run, then: coral setup --as-installed"
    if Drift.NO_RECORD in changed.values():
        todo = "coral setup with the options of your set-up"
    return Check("pool templates", "bad", first([f"{name} {kind}" for name, kind in changed.items()]), text, todo)


def deployments(found: Sequence[DeploymentStatus]) -> Check:
    """Checks that the deployments exist and that their schedules are not paused."""
    name = "deployments"
    if missing := [each.name for each in found if not each.present]:
        return Check(name, "bad", f"{first(missing)} missing", "no lane of it can start", "coral setup")
    if paused := [each for each in found if each.paused]:
        todo = "; ".join(f"prefect api POST /deployments/{each.id}/resume_deployment" for each in paused)
        todo = f"switch it on in the Prefect UI, or: {todo}"
        return Check(name, "note", f"{first([each.name for each in paused])} paused", "no scheduled run of it starts", todo)  # fmt: skip
    return Check(name, "ok", first([each.name.split("/")[1] for each in found], 9))


def automations(found: dict[str, bool]) -> Check:
    """Checks that the automations of `deployments/automations` exist and are switched on.

    Args:
        found: Name of each automation on the server -> whether it is switched on.
    """
    wanted = [automation["name"] for automation in automation_files()]
    missing = [name for name in wanted if name not in found]
    off = [name for name in wanted if found.get(name) is False]
    words = first([f"{name} missing" for name in missing] + [f"{name} switched off" for name in off])
    if missing or LOST_LANES in off:
        text = "lanes of a dead machine stay Running for ever, and notices do not come"
        todo = "coral setup" if missing else "switch it on in the Prefect UI (Automations)"
        return Check("automations", "bad", words, text, todo)
    if off:
        todo = "switch it on in the Prefect UI (Automations), or leave it off"
        return Check("automations", "note", words, "no such notices", todo)
    return Check("automations", "ok", f"{len(wanted)} in place and enabled")


def worker_responsiveness(found: Sequence[PoolStatus]) -> Check:
    """Checks the age of each worker's last heartbeat; Prefect itself reports a worker only after 3 missing ones."""
    name, bad, notes = "worker responsiveness", list[str](), list[str]()
    for pool in found:
        silent = [worker for worker in pool.workers if not worker.is_online]
        if pool.workers_online:
            for worker in silent:
                (bad if worker.silent < FORGET_SECONDS else notes).append(f"{pool.name}: {_silence(worker)}")
        elif pool.present and not pool.is_paused:
            newest = min(silent, key=lambda worker: worker.silent, default=None)
            bad.append(f"{pool.name}: no worker" + (f", {_silence(newest)}" if newest else " ever was"))
    if bad:
        return Check(
            name,
            "bad",
            "; ".join(bad),
            "what waits for these pools is taken late or never",
            "restart it: prefect worker start --pool POOL (of a local installation: coral up); its log says why it ended",
        )
    online = ", ".join(f"{pool.name} {pool.workers_online}" for pool in found if pool.present)
    if notes:
        return Check(name, "note", first(notes), f"answering: {online}; the silent ones were most likely replaced")
    slowest = max((worker.silent for pool in found for worker in pool.workers if worker.is_online), default=0.0)
    return Check(name, "ok", online, f"oldest heartbeat {slowest:.0f} s ago")


def _silence(worker: Worker) -> str:
    seconds = worker.silent
    span = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    return f"{worker.name} silent for {span if seconds < 7200 else f'{seconds / 3600:.0f} hours'}"


def lane_starts(found: Sequence[DeploymentStatus], queues: Sequence[QueueStatus]) -> Check:
    """Checks that lanes and evolutions can start; missing workers are left to `worker_responsiveness`.

    Args:
        found: The deployments, with pool, queue and limits.
        queues: The queues of the store.

    Returns:
        A check that is bad where jobs wait for lanes that cannot start, a note where lanes cannot start and no job waits.
    """
    name, waiting = "lane starts", {queue.name for queue in queues if queue.waiting_runs}
    reasons: dict[str, Obstacle] = {}
    stopped: set[str] = set()
    present = [each for each in found if each.present and each.name in LANE_STARTS]
    for deployment in present:
        for obstacle in obstacles(deployment):
            if obstacle.reason not in (Reason.BUSY, Reason.NO_WORKER):
                reasons[obstacle.key] = obstacle
                stopped |= {QUEUES.get(DEPLOYMENTS[deployment.name], "")} & waiting
    if not reasons:
        words = "deployment, pool, queue and limits let them start"
        return Check(name, "ok", first([each.name for each in present], 9) or "no deployment", words)
    return Check(
        name,
        "bad" if stopped else "note",
        first([each.problem for each in reasons.values()]),
        f"{' and '.join(sorted(stopped))} jobs wait for it" if stopped else "no job waits for it now",
        "; ".join(dict.fromkeys(each.remedy for each in reasons.values())),
    )
