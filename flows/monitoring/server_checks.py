"""Is the Prefect API there, and does it hold what an installation needs? Pools, deployments, automations, workers."""

from collections.abc import Iterator
from importlib.metadata import version

from pydantic import Field

from coral_core.frozen import Frozen
from flows.installation.pool_status import PoolLook, WorkerLook, look_at_pools
from flows.installation.pool_templates import DEPLOYMENTS, POOLS, automation_files, difference
from flows.monitoring.finding import Check, first
from flows.prefect_api.api_errors import ApiError
from flows.prefect_api.client import ANSWER_SECONDS, Automation, Deployment, RestClient

FORGET_SECONDS = 1800.0
"""A silent worker beside others that serve its pool is bad for so long; later it was most likely replaced."""


class ServerLook(Frozen):
    """What the API told."""

    url: str
    problem: str = ""
    remedy: str = ""
    version: str = ""
    pools: tuple[PoolLook, ...] = ()
    deployments: dict[str, Deployment] = Field({})
    automations: dict[str, Automation] = Field({})
    ahead: float = 0.0


def look_at_server(url: str, answer_seconds: float = ANSWER_SECONDS) -> ServerLook:
    """Everything that the checks here need, in about fifteen short requests; never raises."""
    try:
        with RestClient(url, answer_seconds) as api:
            return ServerLook(
                url=url,
                version=api.version(),
                pools=tuple(look_at_pools(api)),
                deployments={name: found for name in DEPLOYMENTS if (found := api.deployment(name)) is not None},
                automations={automation.name: automation for automation in api.automations()},
                ahead=api.ahead,
            )
    except ApiError as error:
        return ServerLook(url=url, problem=error.problem, remedy=error.remedy)


def server_checks(look: ServerLook) -> Iterator[Check]:
    """All checks of this file; without an API there is the first one alone."""
    yield api(look)
    if look.problem:
        return
    yield versions(look.version)
    yield pools(look.pools)
    yield templates(look.pools)
    yield deployments(look.deployments)
    yield automations(look.automations)
    yield worker_responsiveness(look.pools)


def api(look: ServerLook) -> Check:
    """Does the API answer?"""
    if look.problem:
        text = "no lane can be started, nothing shows in the UI"
        return Check("api", "bad", look.problem, text, look.remedy)
    if abs(look.ahead) > 10:
        text = f"its clock is {abs(look.ahead):.0f} s {'ahead of' if look.ahead > 0 else 'behind'} this machine's"
        return Check("api", "note", look.url, text, "keep the clocks of all machines in step (NTP)")
    return Check("api", "ok", look.url, "answers")


def versions(server: str, client: str = "") -> Check:
    """Prefect's rule: the server is as new as its clients, or newer."""
    client = client or version("prefect")
    found = f"server {server}, here {client}"
    if not server:
        return Check("version match", "note", f"here {client}", "the server does not tell its version")
    if _number(server) < _number(client):
        return Check(
            "version match",
            "bad",
            found,
            "an older server does not know all that this client asks for",
            f"bring the server to {client}: pip install prefect=={client}, then restart it",
        )
    if server != client:
        text = "a newer server understands this client"
        return Check("version match", "note", found, text, "use one version when you can")
    return Check("version match", "ok", found)


def _number(text: str) -> tuple[int, ...]:
    digits = (part for part in text.split("+")[0].split("."))
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in digits)[:3]


def pools(looks: tuple[PoolLook, ...]) -> Check:
    """Are the pools there, and do they take work?"""
    missing = [look.name for look in looks if not look.present]
    paused = [look.name for look in looks if look.paused]
    if missing:
        return Check("pools", "bad", f"{first(missing)} missing", "its flow runs are never started", "coral setup")
    if paused:
        todo = "; ".join(f"prefect work-pool resume {name}" for name in paused)
        return Check("pools", "note", f"{first(paused)} paused", "no new lane starts there", todo)
    return Check("pools", "ok", first([look.name for look in looks], 9))


def templates(looks: tuple[PoolLook, ...]) -> Check:
    """Is each pool's base job template what this version renders for the options of its set-up? It fixes what a flow run may do."""
    specs = {spec.name: spec for spec in POOLS}
    found = {look.name: difference(specs[look.name], look.type, look.template) for look in looks if look.present}
    stale = {name: words for name, words in found.items() if words}
    if stale:
        return Check(
            "pool templates",
            "bad",
            first([f"{name} {words}" for name, words in stale.items()]),
            "lanes start otherwise than this version means them to, and perhaps with more rights",
            "coral setup with the options of your set-up"
            if any("record" in words for words in stale.values())
            else "look with coral setup --as-installed --dry-run, then: coral setup --as-installed",
        )
    return Check("pool templates", "ok", "as this version renders them for the options of coral setup")


def deployments(found: dict[str, Deployment]) -> Check:
    """Are the deployments there, each on its pool?"""
    missing = [name for name in DEPLOYMENTS if name not in found]
    astray = [
        f"{name} on {found[name].work_pool_name or 'no pool'}"
        for name, pool in DEPLOYMENTS.items()
        if name in found and found[name].work_pool_name != pool
    ]
    if missing:
        return Check("deployments", "bad", f"{first(missing)} missing", "no lane of it can start", "coral setup")
    if astray:
        text = "its lanes start elsewhere than the figures here look"
        return Check("deployments", "note", first(astray), text, "coral setup, unless you mean it")
    if paused := [name for name in DEPLOYMENTS if found[name].paused]:
        return Check(
            "deployments",
            "note",
            f"{first(paused)} paused",
            "no scheduled run of it starts",
            "switch it on in the Prefect UI, or: "
            + "; ".join(f"prefect api POST /deployments/{found[name].id}/resume_deployment" for name in paused),
        )
    return Check("deployments", "ok", first([name.split("/")[1] for name in DEPLOYMENTS], 9))


ZOMBIES = "coral: lost lanes"
"""Without this automation lanes of a dead machine stay Running for ever; the others only tell."""


def automations(found: dict[str, Automation]) -> Check:
    """Are the automations of `deployments/automations` there and switched on?"""
    wanted = [automation["name"] for automation in automation_files()]
    missing = [name for name in wanted if name not in found]
    off = [name for name in wanted if name in found and not found[name].enabled]
    if missing or off:
        words = [f"{name} missing" for name in missing] + [f"{name} switched off" for name in off]
        needed = bool(missing) or ZOMBIES in off
        return Check(
            "automations",
            "bad" if needed else "note",
            first(words),
            "lanes of a dead machine stay Running for ever, and notices do not come" if needed else "no such notices",
            "coral setup"
            if missing
            else f"switch it on in the Prefect UI (Automations){'' if needed else ', or leave it off'}",
        )
    return Check("automations", "ok", f"{len(wanted)} in place and enabled")


def worker_responsiveness(looks: tuple[PoolLook, ...]) -> Check:
    """Do the workers beat? Looks at the age of the last heartbeat: Prefect itself waits for 3 missing ones."""
    name = "worker responsiveness"
    bad: list[str] = []
    notes: list[str] = []
    for look in looks:
        if not look.present:
            continue
        silent = [worker for worker in look.workers if not worker.responsive]
        if not look.workers_online and not look.paused:
            newest = min(silent, key=lambda worker: worker.silent, default=None)
            bad.append(f"{look.name}: no worker" + (f", {_of(newest)}" if newest else " ever was"))
        elif look.workers_online:
            for worker in silent:
                (bad if worker.silent < FORGET_SECONDS else notes).append(f"{look.name}: {_of(worker)}")
    if bad:
        return Check(
            name,
            "bad",
            "; ".join(bad),
            "what waits for these pools is taken late or never",
            "restart it: prefect worker start --pool POOL (of a local installation: coral up); its log says why it ended",
        )
    online = ", ".join(f"{look.name} {look.workers_online}" for look in looks if look.present)
    if notes:
        text = f"answering: {online}; the silent ones were most likely replaced"
        return Check(name, "note", first(notes), text)
    slowest = max((worker.silent for look in looks for worker in look.workers if worker.responsive), default=0.0)
    return Check(name, "ok", online, f"oldest heartbeat {slowest:.0f} s ago")


def _of(worker: WorkerLook) -> str:
    return f"{worker.name} silent for {_span(worker.silent)}"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"
