"""Lanes as the Prefect API sees them: which live, which ended and why; starts and ends them.

A lane's place is its slot, numbered from 0. The idempotency key of a start names the slot and
the run that was there before, so that two evolutions that find the same slot empty start one
lane. Calls are short (`flows.short_calls`); an API that is away is told once, and what was
known stays known.
"""

import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Cancelling, Crashed

from coral_core.errors import ConfigError
from coral_core.queue import QueueName
from flows.api import api_error
from flows.dispatch.version import code_version
from flows.installation.plain_api import refuse_what_is_no_api
from flows.lost import NO_HEARTBEAT
from flows.orders import LANE_TAG, age, in_pool, store_tag
from flows.short_calls import retries, short_client

log = logging.getLogger("coral.dispatch")

LIVING = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]
ENDED = [StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED]
MOST_ENDED = 5
"""Lanes of the past that a start may come upon, one after the other, before it is given up until the next look."""
NO_WORKER_SECONDS = 10.0
STARTING_SECONDS = 60.0
"""A worker has taken a lane and it has not begun: an image is fetched, say."""
HEARTBEATS_LOST_SECONDS = 30.0
SETTLE_SECONDS = 10.0
UNKNOWN = "not known to this server"
"""In place of a state: the flow run was deleted, or is another server's (a store may be used with several)."""
FLOWS: dict[QueueName, str] = {"training": "train-adapters", "evaluation": "evaluate-genomes"}
"""The flow that is a lane of a queue."""


@dataclass
class _Group:
    """The lanes of one queue."""

    deployment_id: UUID
    pool: str
    living: list[FlowRun] = field(default_factory=list)
    started: dict[UUID, float] = field(default_factory=dict)
    """Lanes started here, and when (monotonic seconds)."""
    asked_workers: float = 0.0
    notice: str = ""


class Fleet:
    """Lanes of the two queues, through their deployments.

    Args:
        deployments: Queue -> full name of the deployment that is a lane of it.
        store: Path of the store, as lanes are to open it.
        installation: Name of the store.
        linger: Seconds that an idle lane waits.

    Raises:
        ApiError: the API cannot be reached, or refuses the key.
        ConfigError: a deployment is missing.
    """

    def __init__(self, deployments: dict[QueueName, str], store: str, installation: str, linger: float) -> None:
        self._parameters = {"store": store, "installation": installation, "code": code_version(), "linger": linger}
        self._installation = installation
        self._client: SyncPrefectClient = short_client()
        self._groups: dict[QueueName, _Group] = {}
        self._away_since: float | None = None
        self._settled = 0.0
        with retries(2):
            for queue, name in deployments.items():
                self._groups[queue] = self._find(queue, name)

    def _find(self, queue: QueueName, name: str) -> _Group:
        url = PREFECT_API_URL.value()
        try:
            found = self._client.read_deployment_by_name(name)
        except ObjectNotFound:
            refuse_what_is_no_api(str(url))
            raise ConfigError(
                f"infra.{queue}.deployment: {name}: no such deployment on {url}. Start an installation of this machine "
                "with coral up, or make pools and deployments on that API with coral setup."
            ) from None
        except (httpx.HTTPError, RuntimeError) as error:
            raise api_error(error) or error from None
        flow = self._client.read_flow(found.flow_id).name
        if flow != FLOWS[queue]:
            raise ConfigError(
                f"infra.{queue}.deployment: {name}: is a deployment of the flow {flow}, and {queue} lanes are runs of {FLOWS[queue]}. "
                f"Name a deployment of that: {FLOWS[queue]}/..."
            )
        if not found.work_pool_name:
            raise ConfigError(
                f"infra.{queue}.deployment: {name} has no work pool, so no worker takes it. Run: coral setup"
            )
        return _Group(deployment_id=found.id, pool=found.work_pool_name)

    def pool(self, queue: QueueName) -> str:
        """Name of the work pool behind a queue."""
        return self._groups[queue].pool

    def close(self) -> None:
        self._client.__exit__(None, None, None) if self._client._started else None

    # -- looking ---------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Read the living lanes; False when the API did not answer (what was known stays), and for a moment after it was away
        for long: lanes that live and were taken for lost put their records right first."""
        try:
            for group in self._groups.values():
                group.living = self._runs(group, LIVING)
        except (httpx.HTTPError, PrefectHTTPStatusError, RuntimeError) as error:
            if self._away_since is None:
                self._away_since = time.monotonic()
                log.warning("the Prefect API does not answer (%s): lanes go on, and this waits", type(error).__name__)
            return False
        if self._away_since is not None:
            log.warning("the Prefect API answers again after %.0f s", time.monotonic() - self._away_since)
            if time.monotonic() - self._away_since > HEARTBEATS_LOST_SECONDS:
                self._settled = time.monotonic() + SETTLE_SECONDS
            self._away_since = None
        return time.monotonic() >= self._settled

    def living(self, queue: QueueName) -> list[FlowRun]:
        """Lanes that run, start or wait for a worker."""
        return self._groups[queue].living

    def serving(self, queue: QueueName) -> list[FlowRun]:
        """Lanes that take work now or soon: not those that are being cancelled."""
        return [run for run in self.living(queue) if run.state_type != StateType.CANCELLING]

    def ended_state(self, flow_run_id: str) -> str | None:
        """Name and message of a lane's final state, or `UNKNOWN`; None while it lives, or when the API does not answer. One that
        is believed lost may live: its own beats say more."""
        if any(str(run.id) == flow_run_id for group in self._groups.values() for run in group.living):
            return None
        state = self._final(flow_run_id)
        return None if state is None or state.startswith(f"Crashed: {NO_HEARTBEAT}") else state

    def _final(self, flow_run_id: str) -> str | None:
        try:
            state = self._client.read_flow_run(UUID(flow_run_id)).state
        except ObjectNotFound:
            return UNKNOWN
        except (httpx.HTTPError, PrefectHTTPStatusError, RuntimeError, ValueError):
            return None
        if state is None or not state.is_final():
            return None
        hidden = "TaskGroup" in (
            state.message or ""
        )  # what happened is in its sub-exceptions, which the message does not name
        return f"{state.name}: {state.message or 'no message'}{'. The log of its worker says more' if hidden else ''}"

    def ended_starts(self, queue: QueueName) -> list[tuple[str, str, float]]:
        """Lanes started here that ended since the last call, oldest first: flow run id, final state, when it was started."""
        group = self._groups[queue]
        gone = group.started.keys() - {run.id for run in group.living}
        ended = {run_id: state for run_id in gone if (state := self._final(str(run_id))) is not None}
        starts = sorted((group.started.pop(run_id), str(run_id), state) for run_id, state in ended.items())
        return [(run_id, state, started) for started, run_id, state in starts if NO_HEARTBEAT not in state]

    def notice(self, queue: QueueName) -> str:
        """What keeps lanes from starting, in words; empty when nothing does."""
        group = self._groups[queue]
        waiting = [run for run in group.living if run.state_type in (StateType.SCHEDULED, StateType.PENDING)]
        running = len(waiting) < len(group.living)
        waited = max((age(run) for run in waiting), default=0.0)
        if running or waited < NO_WORKER_SECONDS:
            group.notice = ""
        elif time.monotonic() - group.asked_workers > 5:
            group.asked_workers = time.monotonic()
            group.notice = self._why_waiting(group, waiting)
        return group.notice

    def _why_waiting(self, group: _Group, waiting: list[FlowRun]) -> str:
        try:
            pool = self._client.read_work_pool(group.pool)
            workers = self._client.read_workers_for_work_pool(group.pool)
        except ObjectNotFound:
            return f"work pool {group.pool} is gone. Run: coral setup"
        except (httpx.HTTPError, PrefectHTTPStatusError, RuntimeError):
            return ""
        if pool.is_paused:
            return f"work pool {group.pool} is paused. Resume it with: prefect work-pool resume {group.pool}"
        online = [worker for worker in workers if worker.status == "ONLINE"]
        if not online:
            return (
                f"work pool {group.pool} has no worker online. Start one with: prefect worker start --pool {group.pool}"
            )
        own = {run.id for run in group.living}
        places = pool.concurrency_limit
        others = [
            r for r in in_pool(self._client, group.pool, [StateType.PENDING, StateType.RUNNING]) if r.id not in own
        ]
        if places is not None and len(others) >= places:
            return f"all {places} places of work pool {group.pool} are taken by others; lanes take turns"
        if all(run.state_type == StateType.PENDING for run in waiting):
            slow = min(age(run) for run in waiting) > STARTING_SECONDS
            return (
                f"a worker of {group.pool} has taken a lane and it does not begin. See the worker's log" if slow else ""
            )
        beats = [worker.last_heartbeat_time for worker in online if worker.last_heartbeat_time]
        ago = min(((datetime.now(UTC) - beat).total_seconds() for beat in beats), default=float("inf"))
        return f"no worker of {group.pool} has taken a waiting lane yet (last sign of one {ago:.0f} s ago). Look with: coral doctor"

    # -- acting ----------------------------------------------------------------------------

    def start(self, queue: QueueName) -> None:
        """Start a lane in the first free slot (or find that another evolution just did)."""
        group = self._groups[queue]
        taken = {tag for run in group.living for tag in run.tags}
        slot = next(n for n in range(len(taken) + 1) if f"slot:{n}" not in taken)
        try:
            before = self._runs(group, None, tag=f"slot:{slot}", limit=1)
            run = self._create(group, queue, slot, str(before[0].id) if before else "none")
            for _ in range(MOST_ENDED):
                if run.state_type not in ENDED:
                    break
                run = self._create(group, queue, slot, str(run.id))  # that one was there before, and was not found
        except (httpx.HTTPError, PrefectHTTPStatusError, RuntimeError) as error:
            log.warning("no %s lane could be started: %s", queue, str(error).splitlines()[0])
            return
        group.started[run.id] = time.monotonic()
        group.living.append(run)

    def _create(self, group: _Group, queue: QueueName, slot: int, before: str) -> FlowRun:
        """A lane after the one that was there `before`, or the one that another evolution has started after it.

        Keys hold for all deployments of a flow, and there may be several: lanes of two kinds of GPU, or one made anew.
        """
        return self._client.create_flow_run_from_deployment(
            group.deployment_id,
            parameters={**self._parameters, "slot": slot},
            tags=[LANE_TAG, f"slot:{slot}", store_tag(self._installation)],
            idempotency_key=f"{self._installation}-{queue}-{group.deployment_id}-{slot}-after-{before}",
            name=f"{queue} lane {slot}",
        )

    def cancel(self, run: FlowRun, why: str) -> None:
        """Ask Prefect to end a lane."""
        try:
            waits = run.state_type == StateType.SCHEDULED
            state: State[Any] = Cancelled(message=why) if waits else Cancelling(message=why)
            self._client.set_flow_run_state(run.id, state, force=False)
            run.state_type = StateType.CANCELLING  # until the next look
        except (httpx.HTTPError, PrefectHTTPStatusError, RuntimeError, ObjectNotFound) as error:
            log.warning("lane %s could not be cancelled: %s", run.name, str(error).splitlines()[0])

    def give_up(self, run: FlowRun, why: str) -> None:
        """Put on record that a lane is gone, when nobody is left who would. What was lost says nothing about the machine, so
        it is no start that failed (`ended_starts`)."""
        for group in self._groups.values():
            group.started.pop(run.id, None)
        log.warning("%s is lost: %s", run.name, why)
        try:
            lost: State[Any] = Crashed(message=why)
            self._client.set_flow_run_state(run.id, lost, force=True)
            run.state_type = StateType.CANCELLING  # until the next look
        except (httpx.HTTPError, PrefectHTTPStatusError, RuntimeError, ObjectNotFound) as error:
            log.warning("lane %s could not be marked as lost: %s", run.name, str(error).splitlines()[0])

    def not_started(self, queue: QueueName) -> list[FlowRun]:
        """Lanes that no worker has taken yet."""
        return [run for run in self.living(queue) if run.state_type == StateType.SCHEDULED]

    def _runs(
        self, group: _Group, states: list[StateType] | None, tag: str | None = None, limit: int = 200
    ) -> list[FlowRun]:
        tags = [store_tag(self._installation), *([tag] if tag else [])]
        wanted: dict[str, Any] = {"tags": FlowRunFilterTags(all_=tags)}
        if states is not None:
            wanted["state"] = FlowRunFilterState(type=FlowRunFilterStateType(any_=states))
        return self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(**wanted),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[group.deployment_id])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=limit,
        )
