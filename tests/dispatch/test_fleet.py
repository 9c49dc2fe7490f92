"""Which ends of lanes speak against their machine."""

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed

from flows.dispatch.fleet import Fleet, _Group


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
