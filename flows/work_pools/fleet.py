"""Lanes as the Prefect API sees them: which live, which ended and why; starts and ends them.

A lane's place is its slot, numbered from 0. The idempotency key of a start names the slot and
the run that was there before, so that two evolutions that find the same slot empty start one
lane. Lanes are found by tags (store and name of the deployment), so that they are still known
when their deployment was deleted and made again; a deployment is looked up by name again from
time to time, and when the server does not know it any more. Calls are short
(`flows.prefect_api.prefect_client`); an API that is away is told once, and what was known stays known.
"""

import logging
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Crashed

from coral_core.config import InfraConfig
from coral_core.errors import ConfigError, CoralError
from coral_core.queue import QueueName
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
from flows.work_pools.lane_commands import LANE_TAG, age, deployment_tag, store_tag

log = logging.getLogger("coral.dispatch")

LIVING = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]
ENDED = [StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED]
MOST_ENDED = 5
"""Lanes of the past that a start may come upon, one after the other, before it is given up until the next look."""
NO_WORKER_SECONDS = 10.0
FIND_SECONDS = 10.0
"""Between two looks at whether a deployment is still the same, and where it is missing."""
WHY_SECONDS = 5.0
STARTING_SECONDS = 60.0
"""A worker has taken a lane and it has not begun: an image is fetched, say."""
HEARTBEATS_LOST_SECONDS = 30.0
SETTLE_SECONDS = 10.0
REPEAT_SECONDS = 300.0
"""Between two lines that say the same."""
CHANGE_SECONDS = 60.0
"""Between two lines that say the same with another one in between: what goes back and forth must not fill a log."""
UNKNOWN = "not known to this server"
"""In place of a state: the flow run was deleted, or is another server's (a store may be used with several)."""
FLOWS: dict[QueueName, str] = {"training": "train-adapters", "evaluation": "evaluate-genomes"}
"""The flow that is a lane of a queue."""


class RepeatedLog:
    """Logs a lasting condition once, again when it changes, and otherwise every few minutes.

    Args:
        log: Where warnings go.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._last: dict[str, str] = {}
        self._when: dict[tuple[str, str], float] = {}

    def warn(self, topic: str, key: str, text: str) -> None:
        """Log `text`, unless what `key` stands for was said of `topic` a moment ago; an empty key: there is nothing to say."""
        if not key:
            if self._last.pop(topic, ""):
                self._log.info("%s: nothing stands in the way any more", topic)
            return
        now, same = time.monotonic(), self._last.get(topic) == key
        since = now - self._when.get((topic, key), -REPEAT_SECONDS)
        self._last[topic] = key
        if since >= (REPEAT_SECONDS if same else CHANGE_SECONDS):
            self._when[topic, key] = now
            self._log.warning("%s", text)


class Notice(NamedTuple):
    """What keeps lanes from starting; empty when nothing is known to."""

    key: str = ""
    """The same for as long as the reason is, whatever numbers the text has."""
    text: str = ""


class _Final(NamedTuple):
    """The final state of a lane."""

    text: str
    """Name and message of the state."""
    lost: bool = False
    """Its heartbeats did not arrive; it may live."""
    known: bool = True
    """False: the server has no such flow run."""


@dataclass
class _Group:
    """The lanes of one queue."""

    deployment_id: UUID | None
    """None: it is not there at the moment."""
    pool: str
    name: str = ""
    """Full name of the deployment."""
    queue_id: UUID | None = None
    """The work queue that its flow runs are put on."""
    living: list[FlowRun] = field(default_factory=list)
    started: dict[UUID, float] = field(default_factory=dict)
    """Lanes started here, and when (monotonic seconds)."""
    looked_up: float = -FIND_SECONDS
    asked_why: float = -WHY_SECONDS
    notice: Notice = field(default_factory=Notice)


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
        self._plain: RestClient | None = None
        self._said = RepeatedLog(log)
        self._away_since: float | None = None
        self._settled = 0.0
        with retries(2):
            for queue, name in deployments.items():
                self._groups[queue] = self._find(queue, name)

    def _find(self, queue: QueueName, name: str) -> _Group:
        url = api_in_use()
        try:
            found = self._client.read_deployment_by_name(name)
        except ObjectNotFound:
            refuse_other_servers(url)
            raise ConfigError(
                f"infra.{queue}.deployment: {name}: no such deployment on {without_secrets(url)}",
                remedy="Start an installation of this machine with coral up, or make pools and deployments on that API with "
                "coral setup.",
            ) from None
        except API_FAILURES as error:
            raise api_error(error) or error from None
        flow = self._client.read_flow(found.flow_id).name
        if flow != FLOWS[queue]:
            raise ConfigError(
                f"infra.{queue}.deployment: {name}: is a deployment of the flow {flow}, and {queue} lanes are runs of {FLOWS[queue]}",
                remedy=f"Name a deployment of that: {FLOWS[queue]}/...",
            )
        if not found.work_pool_name:
            raise ConfigError(
                f"infra.{queue}.deployment: {name} has no work pool, so no worker takes it", remedy="Run: coral setup"
            )
        return _Group(found.id, found.work_pool_name, name, found.work_queue_id, looked_up=time.monotonic())

    def pool(self, queue: QueueName) -> str:
        """Name of the work pool behind a queue."""
        return self._groups[queue].pool

    def close(self) -> None:
        if self._plain is not None:
            self._plain.close()
        self._client.__exit__(None, None, None) if self._client._started else None

    # -- looking ---------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Read the living lanes; False when the API did not answer (what was known stays), and for a moment after it was away
        for long: lanes that live and were taken for lost put their records right first."""
        try:
            for group in self._groups.values():
                if time.monotonic() - group.looked_up > FIND_SECONDS:
                    self._look_up(group)
                group.living = read_flow_runs(self._client, LIVING, tags=self._tags(group))
                self._free_stranded(group)
        except API_FAILURES as error:
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

    def _look_up(self, group: _Group) -> None:
        """Find the deployment by name, as it is now: it may have been deleted, made again, or put on another queue."""
        group.looked_up = time.monotonic()
        try:
            found = self._client.read_deployment_by_name(group.name)
        except ObjectNotFound:
            group.deployment_id = None
            return
        if found.id != group.deployment_id:
            log.warning("deployment %s was made again: lanes are started from the new one", group.name)
        group.deployment_id, group.queue_id = found.id, found.work_queue_id
        group.pool = found.work_pool_name or group.pool

    def _free_stranded(self, group: _Group) -> None:
        """Cancel lanes that wait in a queue that is gone, or that the deployment has left: no worker would ever take them."""
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
        """Name and message of a lane's final state, or `UNKNOWN`; None while it lives, or when the API does not answer. One that
        is believed lost may live: its own beats say more."""
        if any(str(run.id) == flow_run_id for group in self._groups.values() for run in group.living):
            return None
        final = self._final(flow_run_id)
        return None if final is None or final.lost else final.text

    def _final(self, flow_run_id: str) -> _Final | None:
        try:
            state = self._client.read_flow_run(UUID(flow_run_id)).state
        except ObjectNotFound:
            return _Final(UNKNOWN, known=False)
        except (*API_FAILURES, ValueError):
            return None
        if state is None or not state.is_final():
            return None
        hidden = "TaskGroup" in (
            state.message or ""
        )  # what happened is in its sub-exceptions, which the message does not name
        more = ". The log of its worker says more" if hidden else ""
        return _Final(f"{state.name}: {state.message or 'no message'}{more}", lost=believed_lost(state))

    def ended_starts(self, queue: QueueName) -> list[tuple[str, str, float]]:
        """Lanes started here that ended since the last call, oldest first: flow run id, final state, when it was started."""
        group = self._groups[queue]
        gone = group.started.keys() - {run.id for run in group.living}
        ended = {run_id: final for run_id in gone if (final := self._final(str(run_id))) is not None}
        starts = sorted((group.started.pop(run_id), str(run_id), final) for run_id, final in ended.items())
        # what was deleted, alone or with its deployment, says nothing about the machine
        return [(run_id, final.text, started) for started, run_id, final in starts if final.known and not final.lost]

    def notice(self, queue: QueueName) -> Notice:
        """What keeps lanes from starting; empty when nothing is known to."""
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
            if self._plain is None:
                self._plain = RestClient(api_in_use(), ANSWER_SECONDS)
            found = read_deployment(self._plain, group.name)
        except CoralError as error:
            return Notice("not known", f"lanes wait, and why cannot be looked up: {error}")
        if reasons := obstacles(found):
            turns = "; lanes take turns" if all(each.is_busy for each in reasons) else ""
            return Notice("; ".join(each.key for each in reasons), "; ".join(map(str, reasons)) + turns)
        if not waiting:
            return Notice()
        longest = max(map(age, waiting))
        if all(run.state_type == StateType.PENDING for run in waiting):
            if longest < STARTING_SECONDS:
                return Notice()
            text = f"a worker of {group.pool} has taken a lane and it has not begun for {longest:.0f} s. See the worker's log"
            return Notice(f"not begun {group.pool}", text)
        asked = found.queue.polled if found.queue is not None else None
        return Notice(
            f"not taken {group.pool}",
            f"no worker of {group.pool} has taken a lane that has waited for {longest:.0f} s. Deployment, pool and queue are open; a "
            f"worker last asked for work {POLLED_SECONDS if asked is None else asked:.0f} s ago. It may have been killed since, run all "
            "that its --limit allows, or fail to start the lane: see its log, and coral doctor",
        )

    # -- acting ----------------------------------------------------------------------------

    def start(self, queue: QueueName) -> None:
        """Start a lane in the first free slot (or find that another evolution just did)."""
        group = self._groups[queue]
        deployment = group.deployment_id
        if deployment is None or group.queue_id is None:
            return  # `notice` says so
        taken = {tag for run in group.living for tag in run.tags}
        slot = next(n for n in range(len(taken) + 1) if f"slot:{n}" not in taken)
        try:
            before = self._newest(group, slot)
            if before and before[0].state_type in LIVING:  # the look at all of them has missed it
                group.living.append(before[0])
                return
            run = self._create(group, deployment, queue, slot, str(before[0].id) if before else "none")
            for _ in range(MOST_ENDED):
                if run.state_type not in ENDED:
                    break
                run = self._create(
                    group, deployment, queue, slot, str(run.id)
                )  # that one was there before, and was not found
        except API_FAILURES as error:
            if is_missing(error):
                group.looked_up = -FIND_SECONDS  # found by name at the next look, or said to be missing
            first = (str(error).splitlines() or [type(error).__name__])[0]
            self._said.warn(f"start {queue}", first, f"no {queue} lane could be started: {first}")
            return
        self._said.warn(f"start {queue}", "", "")
        group.started[run.id] = time.monotonic()
        group.living.append(run)

    def _create(self, group: _Group, deployment: UUID, queue: QueueName, slot: int, before: str) -> FlowRun:
        """A lane after the one that was there `before`, or the one that another evolution has started after it.

        Keys hold for all deployments of a flow, and there may be several: lanes of two kinds of GPU, or one made anew.
        """
        return self._client.create_flow_run_from_deployment(
            deployment,
            parameters={**self._parameters, "slot": slot},
            tags=[LANE_TAG, f"slot:{slot}", store_tag(self._installation), deployment_tag(group.name)],
            idempotency_key=f"{self._installation}-{queue}-{deployment}-{slot}-after-{before}",
            name=f"{queue} lane {slot}",
        )

    def cancel(self, run: FlowRun, why: str) -> None:
        """Ask Prefect to end a lane."""
        try:
            waits = run.state_type == StateType.SCHEDULED
            state: State[Any] = Cancelled(message=why) if waits else Cancelling(message=why)
            self._client.set_flow_run_state(run.id, state, force=False)
            run.state_type = StateType.CANCELLING  # until the next look
        except API_FAILURES as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            self._said.warn(f"cancel {run.id}", first, f"lane {run.name} could not be cancelled: {first}")

    def give_up(self, run: FlowRun, why: str) -> None:
        """Put on record that a lane is gone, when nobody is left who would. What was lost says nothing about the machine, so
        it is no start that failed (`ended_starts`)."""
        for group in self._groups.values():
            group.started.pop(run.id, None)
        self._said.warn(f"lost {run.id}", "lost", f"{run.name} is lost: {why}")
        try:
            lost: State[Any] = Crashed(message=why)
            self._client.set_flow_run_state(run.id, lost, force=True)
            run.state_type = StateType.CANCELLING  # until the next look
        except API_FAILURES as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            self._said.warn(f"mark {run.id}", first, f"lane {run.name} could not be marked as lost: {first}")

    def not_started(self, queue: QueueName) -> list[FlowRun]:
        """Lanes that no worker has taken yet."""
        return [run for run in self.living(queue) if run.state_type == StateType.SCHEDULED]

    def _newest(self, group: _Group, slot: int) -> list[FlowRun]:
        """The last lane that was started in a slot, if there was one."""
        wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[*self._tags(group), f"slot:{slot}"]))
        return self._client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)

    def _tags(self, group: _Group) -> list[str]:
        return [store_tag(self._installation), deployment_tag(group.name)]


def warn_of_limits(infra: InfraConfig) -> None:
    """Compare `infra.*.lanes` with the limits of the pools behind them; an API that does not answer is told of elsewhere."""
    both = (("training", infra.training), ("evaluation", infra.evaluation))
    pools: dict[str, dict[str, int]] = {}
    try:
        with retries(0), short_client() as client:
            for queue, asked in both:
                pool = client.read_deployment_by_name(asked.deployment).work_pool_name
                pools.setdefault(pool or "", {})[queue] = asked.lanes
            for pool, lanes in pools.items():
                _warn(client, pool, lanes)
    except API_FAILURES as error:
        log.debug("limits of pools are not known: %s", error)


def _warn(client: SyncPrefectClient, pool: str, lanes: dict[str, int]) -> None:
    limit, wanted = client.read_work_pool(pool).concurrency_limit, sum(lanes.values())
    if limit is None or wanted <= limit:
        return
    keys = " and ".join(f"infra.{queue}.lanes: {number}" for queue, number in lanes.items())
    log.warning(
        "%s, and work pool %s runs %d at a time: no more than that will work. Lower it, or raise the pool's with: prefect "
        "work-pool set-concurrency-limit %s %d (and --limit of its workers)",
        keys,
        pool,
        limit,
        pool,
        wanted,
    )
