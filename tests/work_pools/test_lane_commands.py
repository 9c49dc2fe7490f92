"""What a lane is told to do, by what the API answers."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Crashed, Running

from flows.work_pools import lane_commands as orders
from flows.work_pools.lane_commands import Orders, being_cancelled


class Api:
    """Stands for Prefect's client: one flow run on one pool."""

    def __init__(self) -> None:
        self.state: Any = Running()
        self.pool: Any = SimpleNamespace(name="coral-a100", is_paused=False, concurrency_limit=2)
        self.taken = 2
        self.waiting: list[Any] = []
        self.gone: Exception | None = None

    def read_flow_run(self, _: Any) -> Any:
        if self.gone:
            raise self.gone
        return SimpleNamespace(id=uuid4(), state=self.state, work_pool_name="coral-a100")

    def read_work_pool(self, _: str) -> Any:
        return self.pool

    def set_flow_run_state(self, _: Any, state: Any, force: bool) -> None:
        self.state = state

    def read_flow_runs(self, flow_run_filter: Any, limit: int | None, offset: int, **_: Any) -> list[Any]:
        waiting = StateType.SCHEDULED in flow_run_filter.state.type.any_
        found = self.waiting if waiting else [SimpleNamespace(id=number) for number in range(self.taken)]
        return found[offset : offset + min(limit or 200, 200)]


def lane_of(store: str, seconds: float) -> Any:
    created = datetime.now(UTC) - timedelta(seconds=seconds)
    return SimpleNamespace(id=uuid4(), name="lane", tags=["coral-lane", orders.store_tag(store)], created=created)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    made = Api()
    monkeypatch.setattr(orders, "short_client", lambda: made)
    monkeypatch.setattr(orders, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(orders, "OTHERS_SECONDS", 0.0)
    return made


def lane(turn: float = 0.0) -> Orders:
    return Orders(str(uuid4()), "mine", turn)


def test_cancelled_and_deleted_lanes_stop(api: Api) -> None:
    assert lane()() == "go on"
    for state in (Cancelling(), Cancelled(), Crashed(message="Flow run infrastructure exited")):
        api.state = state
        assert lane()() == "stop"
    api.state, api.gone = Running(), ObjectNotFound(Exception("404"))
    assert lane()() == "stop"


def test_a_cancel_that_arrives_as_the_lane_ends_is_seen(api: Api) -> None:
    assert not being_cancelled(str(uuid4())) and not being_cancelled(None)
    for state, seen in ((Cancelling(), True), (Cancelled(), False)):
        api.state = state
        assert being_cancelled(str(uuid4())) is seen
    api.gone = RuntimeError("away")
    assert not being_cancelled(str(uuid4()))


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


@pytest.mark.parametrize("places", [50, 51, 200, 201, 1000])
def test_lanes_of_large_pools_take_turns_too(api: Api, places: int) -> None:
    api.pool.concurrency_limit, api.taken = places, places
    api.waiting = [*(lane_of("mine", 60) for _ in range(250)), lane_of("other", 60)]
    assert lane()() == "finish"
    api.taken -= 1
    assert lane()() == "go on", "there is a place"


def test_room_is_made_for_lanes_of_another_store(api: Api) -> None:
    api.waiting = [lane_of("mine", 60)]
    assert lane()() == "go on", "of the same store: the queue is shared"
    api.waiting = [lane_of("other", 1)]
    assert lane()() == "go on", "a worker is about to take it"
    api.waiting = [lane_of("other", 60)]
    assert lane(turn=100)() == "go on", "its turn is not over"
    api.taken = 1
    assert lane()() == "go on", "there is a place"
    api.taken = 2
    mine = lane()
    assert mine() == "finish"
    api.waiting = []
    assert mine() == "finish", "a lane that said it would end ends"
