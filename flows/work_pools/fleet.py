"""Starts and ends lanes through the Prefect API, and reads which are living and why others ended.

Lanes have slots, numbered from 0. The idempotency key of a start contains the slot and the previous flow run in it, so
that two evolutions that find the same slot empty start one lane. Lanes are found by tags (store and name of the
deployment), so that they are still found after their deployment was deleted and created again. A deployment is looked up
by name every `FIND_SECONDS`, and when the server no longer knows its id. Calls are short
(`flows.prefect_api.prefect_client`). While the API does not answer, one warning is logged and the last known state stays.
"""

import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Crashed

from coral_core.errors import ConfigError, CoralError
from coral_core.jobs.jobs import QueueName
from flows.installation.obstacles import POLLED_SECONDS, obstacles, read_deployment
from flows.prefect_api.client import RestClient, api_error, refuse_other_servers
from flows.prefect_api.prefect_client import (
    ANSWER_SECONDS,
    API_FAILURES,
    api_in_use,
    believed_lost,
    is_missing,
    read_flow_runs,
    retries,
    short_client,
)
from flows.prefect_api.settings import without_secrets
from flows.work_pools.code_version import code_version

log = logging.getLogger("coral.dispatch")

LIVING = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]
ENDED = [StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED]
NO_WORKER_SECONDS = 10.0
FIND_SECONDS = 10.0
"""Interval between two look-ups of a deployment by its name."""
WHY_SECONDS = 5.0
STARTING_SECONDS = 60.0
"""A lane that a worker has taken may need this long to begin, for example while its image is pulled."""
REPEAT_SECONDS = 300.0
"""Interval after which the same warning is logged again."""
LANE_TAG = "coral-lane"
UNKNOWN = "not known to this server"
"""In place of a state: the flow run was deleted, or belongs to another server (a store may be used with several)."""
FLOWS: dict[QueueName, str] = {"training": "train-adapters", "evaluation": "evaluate-genomes"}
"""Queue -> the flow whose runs are its lanes."""


class RepeatedLog:
    """Logs a lasting condition once, and again every few minutes.

    Args:
        log: Where warnings go.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._when: dict[tuple[str, str], float] = {}

    def warn(self, topic: str, key: str, text: str) -> None:
        """Log a warning, unless the same one was logged less than `REPEAT_SECONDS` ago.

        Args:
            topic: What the condition is about, for example one queue.
            key: Identifies the condition, whatever numbers `text` contains; "": log nothing.
            text: The warning.
        """
        now = time.monotonic()
        if key and now - self._when.get((topic, key), -REPEAT_SECONDS) >= REPEAT_SECONDS:
            self._when[topic, key] = now
            self._log.warning("%s", text)


class Notice(NamedTuple):
    """The reason why lanes do not start; empty when none is known."""

    key: str = ""
    """Identifies the reason; the same while it lasts, whatever numbers `text` contains."""
    text: str = ""


class EndedStart(NamedTuple):
    """A lane that was started here and has ended."""

    flow_run_id: str
    state: State[Any]
    started: float
    """Time of the start, in monotonic seconds."""


@dataclass
class _Group:
    """The lanes of one queue."""

    name: str
    """Full name of the deployment."""
    deployment_id: UUID | None = None
    """None: the server does not have it at the moment."""
    pool: str = ""
    queue_id: UUID | None = None
    """The work queue that its flow runs are put on."""
    living: list[FlowRun] = field(default_factory=list)
    started: dict[UUID, float] = field(default_factory=dict)
    """Lanes started here -> time of the start, in monotonic seconds."""
    looked_up: float = -FIND_SECONDS
    asked_why: float = -WHY_SECONDS
    notice: Notice = field(default_factory=Notice)


class Fleet:
    """Lanes of the two queues, through their deployments.

    Args:
        deployments: Queue -> full name (flow/deployment) of the deployment whose runs are its lanes.
        store: Path of the store, which lanes open.
        installation: Name of the store, which lanes check.
        linger: Seconds without a job after which a lane ends.

    Raises:
        ApiError: The API cannot be reached, or refuses the key.
        ConfigError: A deployment is missing, or belongs to another flow.
    """

    def __init__(self, deployments: dict[QueueName, str], store: str, installation: str, linger: float) -> None:
        self._parameters = {"store": store, "installation": installation, "code": code_version(), "linger": linger}
        self._installation = installation
        self._client: SyncPrefectClient = short_client()
        self._groups: dict[QueueName, _Group] = {}
        self._repeated_log = RepeatedLog(log)
        with retries(2):
            for queue, name in deployments.items():
                self._groups[queue] = self._find(queue, name)

    def _find(self, queue: QueueName, name: str) -> _Group:
        if name.partition("/")[0] != FLOWS[queue]:
            raise ConfigError(
                f"infra.{queue}.deployment: {name}: is a deployment of another flow than {FLOWS[queue]}, which is a {queue} lane",
                remedy=f"Name a deployment of that: {FLOWS[queue]}/...",
            )
        group = _Group(name)
        try:
            self._look_up(group)
        except API_FAILURES as error:
            raise api_error(error) or error from None
        if group.deployment_id is None:
            url = api_in_use()
            refuse_other_servers(url)
            raise ConfigError(
                f"infra.{queue}.deployment: {name}: no such deployment on {without_secrets(url)}",
                remedy="Start an installation of this machine with coral up, or make pools and deployments on that API with "
                "coral setup.",
            )
        return group

    def pool(self, queue: QueueName) -> str:
        """Name of the work pool behind a queue."""
        return self._groups[queue].pool

    def close(self) -> None:
        self._client.__exit__(None, None, None) if self._client._started else None

    # -- looking ---------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Read the living lanes. False when the API did not answer; the last known state then stays."""
        try:
            for group in self._groups.values():
                if time.monotonic() - group.looked_up > FIND_SECONDS:
                    self._look_up(group)
                group.living = read_flow_runs(self._client, LIVING, tags=self._tags(group))
                self._free_stranded(group)
        except API_FAILURES as error:
            self._failed("the API", "the Prefect API does not answer: lanes go on, and this waits", error)
            return False
        return True

    def _look_up(self, group: _Group) -> None:
        """Read the deployment by name: it may have been deleted, created again, or moved to another queue."""
        group.looked_up = time.monotonic()
        try:
            found = self._client.read_deployment_by_name(group.name)
        except ObjectNotFound:
            group.deployment_id = None
            return
        if group.pool and found.id != group.deployment_id:
            log.warning("deployment %s was made again: lanes are started from the new one", group.name)
        group.deployment_id, group.queue_id = found.id, found.work_queue_id
        group.pool = found.work_pool_name or group.pool

    def _free_stranded(self, group: _Group) -> None:
        """Cancel lanes that wait in a work queue that their deployment no longer uses, since no worker would take them."""
        if group.queue_id is None:
            return
        for run in group.living:
            if run.state_type == StateType.SCHEDULED and run.work_queue_id != group.queue_id:
                self.cancel(run, "its work queue was deleted, or its deployment moved to another")

    def living(self, queue: QueueName) -> list[FlowRun]:
        """Lanes that run, start or wait for a worker."""
        return self._groups[queue].living

    def serving(self, queue: QueueName) -> list[FlowRun]:
        """Lanes that take work now or soon: not those that are being cancelled."""
        return [run for run in self.living(queue) if run.state_type != StateType.CANCELLING]

    def ended_state(self, flow_run_id: str) -> str | None:
        """Name and message of a lane's final state.

        Args:
            flow_run_id: The lane's flow run.

        Returns:
            None while the lane lives or when the API does not answer; `UNKNOWN` where the server has no such flow run.
            A lane whose heartbeats were lost also gives None: it may live, and its note in the store shows that.
        """
        if any(str(run.id) == flow_run_id for group in self._groups.values() for run in group.living):
            return None
        try:
            state = self._final(flow_run_id)
        except ObjectNotFound:
            return UNKNOWN
        return None if state is None or believed_lost(state) else in_words(state)

    def _final(self, flow_run_id: str) -> State[Any] | None:
        try:
            state = self._client.read_flow_run(UUID(flow_run_id)).state
        except ObjectNotFound:
            raise
        except (*API_FAILURES, ValueError):
            return None
        return state if state is not None and state.is_final() else None

    def ended_starts(self, queue: QueueName) -> list[EndedStart]:
        """Lanes started here that ended since the last call, oldest first.

        Lanes that were deleted, or whose heartbeats were lost, are left out: they are no evidence about the machine.
        """
        group, ended = self._groups[queue], []
        for run_id in sorted(group.started.keys() - {run.id for run in group.living}, key=group.started.__getitem__):
            try:
                state = self._final(str(run_id))
            except ObjectNotFound:
                del group.started[run_id]
                continue
            if state is not None:
                started = group.started.pop(run_id)
                ended += [] if believed_lost(state) else [EndedStart(str(run_id), state, started)]
        return ended

    def notice(self, queue: QueueName) -> Notice:
        """The reason why lanes of a queue do not start; empty when none is known. Asks the API at most every `WHY_SECONDS`."""
        group = self._groups[queue]
        waiting = [run for run in group.living if run.state_type in (StateType.SCHEDULED, StateType.PENDING)]
        running = len(waiting) < len(group.living)
        waited = max((age(run) for run in waiting), default=0.0)
        closed = group.deployment_id is None or group.queue_id is None
        if not closed and (running or waited < NO_WORKER_SECONDS):
            group.notice = Notice()
        elif time.monotonic() - group.asked_why > WHY_SECONDS:
            group.asked_why = time.monotonic()
            group.notice = self._why_waiting(group, waiting)
        return group.notice

    def _why_waiting(self, group: _Group, waiting: list[FlowRun]) -> Notice:
        try:
            with RestClient(api_in_use(), ANSWER_SECONDS) as api:
                found = read_deployment(api, group.name)
        except CoralError as error:
            return Notice("not known", f"lanes wait, and why cannot be looked up: {error}")
        if reasons := obstacles(found):
            return Notice("; ".join(each.key for each in reasons), "; ".join(map(str, reasons)))
        longest = max(map(age, waiting), default=0.0)
        patience = NO_WORKER_SECONDS if any(r.state_type == StateType.SCHEDULED for r in waiting) else STARTING_SECONDS
        if longest < patience:
            return Notice()
        asked = found.queue.polled if found.queue is not None else None
        return Notice(
            f"not begun {group.pool}",
            f"a lane of {group.pool} has waited for {longest:.0f} s and has not begun. Deployment, pool and queue are open; a worker "
            f"last asked for work {POLLED_SECONDS if asked is None else asked:.0f} s ago. It may have been killed since, run all that "
            "its --limit allows, or fail to start the lane: see its log, and coral doctor",
        )

    # -- acting ----------------------------------------------------------------------------

    def start(self, queue: QueueName) -> None:
        """Start a lane in the first free slot, or adopt the one that another evolution has just started there."""
        group = self._groups[queue]
        deployment = group.deployment_id
        if deployment is None or group.queue_id is None:
            return  # `notice` reports it
        taken = {tag for run in group.living for tag in run.tags}
        slot = next(n for n in range(len(taken) + 1) if f"slot:{n}" not in taken)
        try:
            before = self._newest(group, slot)
            if before and before[0].state_type in LIVING:  # `refresh` has missed it
                group.living.append(before[0])
                return
            run = self._create(group, deployment, queue, slot, str(before[0].id) if before else "none")
        except API_FAILURES as error:
            if is_missing(error):
                group.looked_up = -FIND_SECONDS  # the next `refresh` looks it up by name
            self._failed(f"start {queue}", f"no {queue} lane could be started", error)
            return
        group.started[run.id] = time.monotonic()
        group.living.append(run)

    def _create(self, group: _Group, deployment: UUID, queue: QueueName, slot: int, before: str) -> FlowRun:
        """Create a lane that follows flow run `before` in its slot, or find the one that another evolution has created.

        The key contains the deployment, since keys are shared by all deployments of a flow and there may be several.
        """
        return self._client.create_flow_run_from_deployment(
            deployment,
            parameters={**self._parameters, "slot": slot},
            tags=[LANE_TAG, f"slot:{slot}", store_tag(self._installation), deployment_tag(group.name)],
            idempotency_key=f"{self._installation}-{queue}-{deployment}-{slot}-after-{before}",
            name=f"{queue} lane {slot}",
        )

    def cancel(self, run: FlowRun, why: str) -> None:
        """Ask Prefect to end a lane; a failure is logged.

        Args:
            run: The lane; one that no worker has taken is cancelled at once.
            why: Message of its new state.
        """
        waits = run.state_type == StateType.SCHEDULED
        self._set_state(run, Cancelled(message=why) if waits else Cancelling(message=why), force=False)

    def give_up(self, run: FlowRun, why: str) -> None:
        """Record as crashed a lane whose process has died without a report; a failure of the API is logged.

        `ended_starts` does not return it: a lost lane is no evidence about the machine.

        Args:
            run: The lane.
            why: Message of its state, and of the warning that is logged.
        """
        for group in self._groups.values():
            group.started.pop(run.id, None)
        self._repeated_log.warn(f"lost {run.id}", "lost", f"{run.name} is lost: {why}")
        self._set_state(run, Crashed(message=why), force=True)

    def _set_state(self, run: FlowRun, state: State[Any], force: bool) -> None:
        try:
            self._client.set_flow_run_state(run.id, state, force=force)
            run.state_type = StateType.CANCELLING  # until the next `refresh`
        except API_FAILURES as error:
            self._failed(f"end {run.id}", f"lane {run.name} could not be set to {state.name}", error)

    def _failed(self, topic: str, text: str, error: Exception) -> None:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        self._repeated_log.warn(topic, first, f"{text}: {first}")

    def _newest(self, group: _Group, slot: int) -> list[FlowRun]:
        """The last lane that was started in a slot: a list of one, or empty."""
        wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[*self._tags(group), f"slot:{slot}"]))
        return self._client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)

    def _tags(self, group: _Group) -> list[str]:
        return [store_tag(self._installation), deployment_tag(group.name)]


def in_words(state: State[Any]) -> str:
    """Name and message of a state."""
    return f"{state.name}: {state.message or 'no message'}"


def store_tag(installation: str) -> str:
    """Tag of the flow runs that are lanes of a store."""
    return f"store:{installation[:12]}"


def deployment_tag(name: str) -> str:
    """Tag of lanes started from a deployment of this full name; the same after the deployment was created again."""
    return f"deployment:{name}"


def age(run: FlowRun) -> float:
    """Seconds since a flow run was requested, by this machine's clock."""
    return max(0.0, (datetime.now(UTC) - run.created).total_seconds()) if run.created else 0.0
