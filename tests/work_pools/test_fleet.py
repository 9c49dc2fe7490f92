"""Which ends of lanes speak against their machine."""

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Completed, Crashed, Scheduled

from coral_core.errors import ConfigError
from flows.work_pools import fleet as fleet_module
from flows.work_pools.fleet import UNKNOWN, Fleet, RepeatedLog, _Group, in_words


class Api:
    """Every run that is asked for has crashed."""

    def __init__(self) -> None:
        self.set: list[Any] = []

    def set_flow_run_state(self, flow_run_id: Any, state: Any, force: bool) -> None:
        self.set.append((flow_run_id, state.name, force))

    def read_flow_run(self, flow_run_id: Any) -> Any:
        return SimpleNamespace(state=Crashed(message="image not found"))


def test_a_lane_that_was_lost_is_no_failed_start_and_one_that_crashed_is() -> None:
    lost, crashed = (FlowRun(id=uuid4(), flow_id=uuid4(), name=name) for name in ("lost", "crashed"))
    fleet: Any = object.__new__(Fleet)
    fleet._client, fleet._repeated_log = Api(), RepeatedLog(fleet_module.log)
    fleet._groups = {"training": _Group("d", uuid4(), "pool", started={lost.id: 1.0, crashed.id: 2.0})}
    fleet.give_up(lost, "no sign of life within 25 s of its start")
    assert fleet._client.set == [(lost.id, "Crashed", True)]
    (ended,) = fleet.ended_starts("training")
    assert ended[::2] == (str(crashed.id), 2.0) and in_words(ended.state) == "Crashed: image not found"
    assert fleet.ended_starts("training") == []


class Keys:
    """Makes flow runs as Prefect does: a key that one of this flow was made with before gives that one."""

    def __init__(self) -> None:
        self.made: dict[str, FlowRun] = {}

    def read_flow_runs(self, **_: Any) -> list[FlowRun]:
        return []  # those of this deployment: it is a new one, or they were cleaned up

    def create_flow_run_from_deployment(self, deployment_id: Any, idempotency_key: str, name: str, **_: Any) -> FlowRun:
        fresh = FlowRun(id=uuid4(), flow_id=uuid4(), deployment_id=deployment_id, name=name)
        fresh.state = Scheduled()
        fresh.state_type = fresh.state.type
        return self.made.setdefault(idempotency_key, fresh)

    def end_all(self) -> None:
        for run in self.made.values():
            run.state = Completed()
            run.state_type = run.state.type


def test_a_deployment_that_was_made_anew_has_lanes_of_its_own() -> None:
    """Prefect's keys hold for all deployments of a flow, also for runs that are over."""
    fleet: Any = object.__new__(Fleet)
    fleet._client, fleet._parameters, fleet._installation = Keys(), {}, "store"
    fleet._repeated_log = RepeatedLog(fleet_module.log)
    old, new = _Group("d", uuid4(), "pool", queue_id=uuid4()), _Group("d", uuid4(), "pool", queue_id=uuid4())
    for group in (old, new):
        fleet._groups = {"training": group}
        group.living.clear()
        fleet.start("training")
        (lane,) = group.living
        assert lane.deployment_id == group.deployment_id and lane.state_type == Scheduled().type
        fleet._client.end_all()


def test_two_who_find_a_slot_empty_start_one_lane() -> None:
    client, deployment = Keys(), uuid4()
    started = []
    for _ in range(2):
        fleet: Any = object.__new__(Fleet)
        fleet._client, fleet._parameters, fleet._installation = client, {}, "store"
        fleet._repeated_log = RepeatedLog(fleet_module.log)
        fleet._groups = {"training": _Group("d", deployment, "pool", queue_id=uuid4())}
        fleet.start("training")
        started += [run.id for run in fleet.living("training")]
    assert len(started) == 2 and len(set(started)) == 1


def test_lanes_of_another_flow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "short_client", lambda: None)
    with pytest.raises(
        ConfigError, match=r"infra\.training\.deployment: evaluate-genomes/big: .*another flow than train"
    ):
        Fleet({"training": "evaluate-genomes/big"}, "store", "name", 30)


def test_a_flow_run_of_another_server_is_told_apart_from_one_that_ended() -> None:
    class Nothing:
        def read_flow_run(self, flow_run_id: Any) -> Any:
            raise ObjectNotFound(Exception())

    fleet: Any = object.__new__(Fleet)
    fleet._client, fleet._groups = Nothing(), {}
    assert fleet.ended_state(str(uuid4())) == UNKNOWN


class Server:
    """A deployment that can go and come again, and lanes; stands for Prefect's client."""

    def __init__(self, page: int = 200) -> None:
        self.deployment: Any = SimpleNamespace(id=uuid4(), work_pool_name="pool", work_queue_id=uuid4())
        self.runs: list[FlowRun] = []
        self.keys: dict[str, FlowRun] = {}
        self.page = page
        self.lookups = 0

    def read_deployment_by_name(self, name: str) -> Any:
        self.lookups += 1
        if self.deployment is None:
            raise ObjectNotFound(Exception())
        return self.deployment

    def read_flow_runs(self, flow_run_filter: Any, limit: int, offset: int = 0, **_: Any) -> list[FlowRun]:
        if limit is not None and limit > self.page:
            request = httpx.Request("POST", "http://x")
            raise PrefectHTTPStatusError("no", request=request, response=httpx.Response(422, request=request))
        wanted = set(flow_run_filter.tags.all_)
        states = flow_run_filter.state.type.any_ if flow_run_filter.state else list(StateType)
        found = [
            run.model_copy() for run in reversed(self.runs) if wanted <= set(run.tags) and run.state_type in states
        ]
        return found[offset : offset + (limit or self.page)]

    def create_flow_run_from_deployment(
        self, deployment: Any, *, tags: Any, name: str, idempotency_key: str, **_: Any
    ) -> Any:
        if self.deployment is None or deployment != self.deployment.id:
            request = httpx.Request("POST", "http://x")
            raise PrefectHTTPStatusError("gone", request=request, response=httpx.Response(404, request=request))
        if idempotency_key not in self.keys:
            run = FlowRun(id=uuid4(), flow_id=uuid4(), deployment_id=deployment, name=name, tags=tags)
            run.work_queue_id = self.deployment.work_queue_id
            run.state, run.state_type = Scheduled(), StateType.SCHEDULED
            self.keys[idempotency_key] = run
            self.runs.append(run)
        return self.keys[idempotency_key]

    def set_flow_run_state(self, flow_run_id: Any, state: Any, force: bool) -> None:
        for run in self.runs:
            if run.id == flow_run_id:
                run.state, run.state_type = state, state.type

    def remake(self) -> None:
        """Delete the deployment, with what waits to start, and make it again."""
        self.runs = [run for run in self.runs if run.state_type != StateType.SCHEDULED]
        self.deployment = SimpleNamespace(id=uuid4(), work_pool_name="pool", work_queue_id=uuid4())


def fleet_of(server: Server) -> Any:
    fleet: Any = object.__new__(Fleet)
    fleet._client, fleet._parameters, fleet._installation = server, {}, "store"
    fleet._repeated_log = RepeatedLog(fleet_module.log)
    made = server.deployment
    fleet._groups = {"training": _Group("train-adapters/mine", made.id, "pool", made.work_queue_id)}
    return fleet


def look(fleet: Any, wanted: int) -> None:
    """One look of the dispatcher: as many lanes as are wanted."""
    fleet.refresh()
    for _ in range(wanted - len(fleet.serving("training"))):
        fleet.start("training")


@pytest.mark.parametrize("page", [1, 7, 200])
@pytest.mark.parametrize("lanes", [3, 230])
def test_no_lane_is_started_twice_however_many_there_are(lanes: int, page: int) -> None:
    server = Server(page)
    fleet = fleet_of(server)
    for _ in range(4):
        look(fleet, lanes)
    slots = [tag for run in server.runs for tag in run.tags if tag.startswith("slot:")]
    assert len(slots) == len(set(slots)) == lanes


def test_a_deployment_made_again_is_found_by_its_name(caplog: pytest.LogCaptureFixture) -> None:
    """Lanes that work go on and are counted; those that waited went with it, and come again from the new one."""
    server = Server()
    fleet = fleet_of(server)
    look(fleet, 3)
    server.runs[0].state_type = StateType.RUNNING
    server.remake()
    for _ in range(300):  # a look each second
        look(fleet, 3)
    living = fleet.living("training")
    assert len(living) == 3 and server.runs[0].id in {run.id for run in living}
    assert {run.deployment_id for run in living if run.id != server.runs[0].id} == {server.deployment.id}
    assert [text for text in caplog.messages if "made again" in text] and len(caplog.records) <= 3


def test_a_deployment_that_is_missing_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    fleet = fleet_of(server)
    look(fleet, 1)
    server.remake()
    again, server.deployment = server.deployment, None
    for _ in range(300):
        fleet._groups["training"].looked_up -= 2  # as if seconds had passed
        look(fleet, 1)
    assert not fleet.living("training") and server.lookups < 100 and len(caplog.records) <= 2
    server.deployment = again
    fleet._groups["training"].looked_up -= fleet_module.FIND_SECONDS
    look(fleet, 1)
    assert len(fleet.living("training")) == 1


def test_lanes_that_wait_in_a_queue_that_is_gone_are_replaced() -> None:
    """No worker would ever take them: the pool was deleted and made again, or the deployment moved."""
    server = Server()
    fleet = fleet_of(server)
    look(fleet, 2)
    server.runs[0].state_type = StateType.RUNNING
    old = list(server.runs)
    for run in server.runs:
        run.work_queue_id = None
    server.deployment.work_queue_id = uuid4()
    fleet._groups["training"].looked_up -= fleet_module.FIND_SECONDS
    for _ in range(3):
        look(fleet, 2)
    assert old[1].state_type == StateType.CANCELLED and old[0].state_type == StateType.RUNNING
    assert [run.work_queue_id for run in fleet.serving("training") if run.id != old[0].id] == [
        server.deployment.work_queue_id
    ]


def test_a_lane_that_was_deleted_with_its_deployment_is_no_failed_start() -> None:
    class Nothing:
        def read_flow_run(self, flow_run_id: Any) -> Any:
            raise ObjectNotFound(Exception())

    fleet: Any = object.__new__(Fleet)
    fleet._client = Nothing()
    fleet._groups = {"training": _Group("d", uuid4(), "pool", started={uuid4(): 1.0})}
    assert fleet.ended_starts("training") == []
