"""What a lane is told to do, by what the API answers."""

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Crashed, Running

from flows.work_pools import lane_commands
from flows.work_pools.lane_commands import LaneCommands


class Api:
    """Stands for Prefect's client: one flow run on one pool."""

    def __init__(self) -> None:
        self.state: Any = Running()
        self.pool: Any = SimpleNamespace(name="coral-a100", is_paused=False)
        self.gone: Exception | None = None

    def read_flow_run(self, _: Any) -> Any:
        if self.gone:
            raise self.gone
        return SimpleNamespace(id=uuid4(), state=self.state, work_pool_name="coral-a100")

    def read_work_pool(self, _: str) -> Any:
        return self.pool

    def set_flow_run_state(self, _: Any, state: Any, force: bool) -> None:
        self.state = state


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    made = Api()
    monkeypatch.setattr(lane_commands, "short_client", lambda: made)
    return made


def lane() -> LaneCommands:
    return LaneCommands(str(uuid4()))


def test_cancelled_and_deleted_lanes_stop(api: Api) -> None:
    assert lane()() == "go on"
    for state in (Cancelling(), Cancelled(), Crashed(message="Flow run infrastructure exited")):
        api.state = state
        assert lane()() == "stop"
    api.state, api.gone = Running(), ObjectNotFound(Exception("404"))
    assert lane()() == "stop"


def test_outside_of_a_flow_run_a_lane_goes_on(api: Api) -> None:
    api.gone = RuntimeError("away")
    assert LaneCommands(None)() == "go on"


def test_an_api_that_is_away_changes_nothing(api: Api) -> None:
    mine = lane()
    api.gone = RuntimeError("away")
    assert mine() == "go on"
    api.gone, api.pool.is_paused = None, True
    assert mine() == "finish"
    api.gone = RuntimeError("away")
    assert mine() == "finish"


def test_a_lane_that_lives_puts_its_record_right(api: Api) -> None:
    api.state = Crashed(
        name="Lost", message="No heartbeat for 90 seconds: the process, its worker or its machine is gone."
    )
    assert lane()() == "go on"
    assert api.state.type == StateType.RUNNING
