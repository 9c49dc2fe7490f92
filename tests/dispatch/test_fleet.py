"""Which ends of lanes speak against their machine."""

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Crashed, Scheduled

from coral_core.errors import ConfigError
from flows.dispatch import fleet as fleet_module
from flows.dispatch.fleet import UNKNOWN, Fleet, _Group


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
    fleet._client = Api()
    fleet._groups = {"training": _Group(uuid4(), "pool", started={lost.id: 1.0, crashed.id: 2.0})}
    fleet.give_up(lost, "no sign of life within 25 s of its start")
    assert fleet._client.set == [(lost.id, "Crashed", True)]
    assert fleet.ended_starts("training") == [(str(crashed.id), "Crashed: image not found", 2.0)]
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
    old, new = _Group(uuid4(), "pool"), _Group(uuid4(), "pool")
    for group in (old, new, old):
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
        fleet._groups = {"training": _Group(deployment, "pool")}
        fleet.start("training")
        started += [run.id for run in fleet.living("training")]
    assert len(started) == 2 and len(set(started)) == 1


def test_lanes_of_another_flow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def read_deployment_by_name(self, name: str) -> Any:
            return SimpleNamespace(id=uuid4(), flow_id=uuid4(), work_pool_name="pool")

        def read_flow(self, flow_id: Any) -> Any:
            return SimpleNamespace(name="evaluate-genomes")

    monkeypatch.setattr(fleet_module, "short_client", Other)
    with pytest.raises(
        ConfigError, match=r"infra\.training\.deployment: mine/big: .*flow evaluate-genomes, and training"
    ):
        Fleet({"training": "mine/big"}, "store", "name", 30)


def test_a_flow_run_of_another_server_is_told_apart_from_one_that_ended() -> None:
    class Nothing:
        def read_flow_run(self, flow_run_id: Any) -> Any:
            raise ObjectNotFound(Exception())

    fleet: Any = object.__new__(Fleet)
    fleet._client, fleet._groups = Nothing(), {}
    assert fleet.ended_state(str(uuid4())) == UNKNOWN
