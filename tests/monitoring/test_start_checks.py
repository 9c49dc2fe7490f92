"""One function says what stands in the way of lanes; evolution, status and health repeat it."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings

from coral_core.digest import digest
from coral_core.queue.queue import JobQueue, Ticket
from coral_core.store.store import Store
from flows.installation.figures import figures
from flows.installation.obstacles import DeploymentStatus, obstacles
from flows.installation.queue_status import read_queues
from flows.monitoring.finding import Check
from flows.monitoring.server_checks import lane_starts, read_server
from flows.prefect_api.client import ConcurrencyLimit, RestClient, WorkPool, WorkQueue
from flows.work_pools.fleet import Fleet, _Group
from tests.monitoring.fake_api import FakeApi, serving

TRAIN, POOL = "train-adapters/train-adapters", "coral-a100"


def pool(**values: Any) -> Callable[[FakeApi], None]:
    return lambda fake: fake.pools[POOL].update(values)


def queue(**values: Any) -> Callable[[FakeApi], None]:
    return lambda fake: fake.queues[POOL].update(values)


def deployment(**values: Any) -> Callable[[FakeApi], None]:
    return lambda fake: fake.deployments[TRAIN].update(values)


BENT: dict[str, tuple[Callable[[FakeApi], None], str]] = {
    "pool paused": (pool(is_paused=True), f"work pool {POOL} is paused"),
    "pool limit": (pool(concurrency_limit=0), f"work pool {POOL} has a concurrency limit of 0"),
    "pool gone": (lambda fake: fake.pools.pop(POOL) and None, f"work pool {POOL} is gone"),
    "queue paused": (queue(is_paused=True), f"work queue default of pool {POOL} is paused"),
    "queue limit": (queue(concurrency_limit=0), f"work queue default of pool {POOL} has a concurrency limit of 0"),
    "queue gone": (lambda fake: fake.queues.pop(POOL) and None, f"work queue default of pool {POOL} is gone"),
    "queue not asked": (
        queue(polled=400),
        f"work pool {POOL} has 1 workers online, and none is known to have asked for work of its queue default",
    ),
    "no pool": (deployment(work_pool_name=None, work_queue_name=None), f"deployment {TRAIN} has no work pool or queue"),
    "limit": (deployment(global_concurrency_limit={"limit": 0}), f"deployment {TRAIN} has a concurrency limit of 0"),
    "limit off": (
        deployment(global_concurrency_limit={"limit": 2, "active": False}),
        f"deployment {TRAIN} has a concurrency limit that is switched off",
    ),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.prepare()
    for name in ("training", "evaluation"):
        JobQueue(made, name).prepare()  # type: ignore[arg-type]
    return made


def asks(store: Store) -> None:
    JobQueue(store, "training").submit(Ticket(kind="training", digest=digest("a"), run_id="one", job={}, seconds=60))


def check(store: Store, url: str) -> Check:
    with RestClient(url) as api:
        return lane_starts(read_server(api).deployments, read_queues(store))


def notice(url: str, waited: float = 60) -> Any:
    """What an evolution whose only lane waits would say."""
    from datetime import UTC, datetime, timedelta

    waiting: Any = SimpleNamespace(
        state_type=StateType.SCHEDULED, created=datetime.now(UTC) - timedelta(seconds=waited)
    )
    fleet: Any = object.__new__(Fleet)
    fleet._groups = {"training": _Group(TRAIN, uuid4(), POOL, uuid4(), living=[waiting])}
    with temporary_settings({PREFECT_API_URL: url}):
        return fleet.notice("training")


@pytest.mark.parametrize("kind", BENT)
def test_the_same_reason_wherever_one_looks(fake: FakeApi, url: str, store: Store, kind: str) -> None:
    assert check(store, url).state == "ok"
    bend, words = BENT[kind]
    bend(fake)
    seen = check(store, url)
    assert seen.state == "note" and words in seen.found and "no job waits" in seen.text and seen.todo, seen
    asks(store)
    seen = check(store, url)
    assert seen.state == "bad" and words in seen.found and "training jobs wait for it" in seen.text
    told = figures(str(store.root), str(store.root.parent), url).obstacles
    assert [each for each in told if each.deployment == TRAIN and each.text.startswith(words)]
    key, text = notice(url)
    assert key and words in text and notice(url).key == key


def test_a_deployment_that_is_gone(fake: FakeApi, url: str) -> None:
    del fake.deployments[TRAIN]
    assert notice(url).text == f"waiting for deployment {TRAIN}: the server has none of that name. Run: coral setup"


def test_no_worker_is_said_and_since_when_by_its_own_check(fake: FakeApi, url: str, store: Store) -> None:
    fake.workers[POOL] = [fake.worker("w", 200)]
    assert "has no worker online (1 that were there are silent)" in notice(url).text
    assert check(store, url).state == "ok"
    assert [each.text for each in figures(str(store.root), str(store.root.parent), url).obstacles]


def test_places_that_others_have_are_no_fault(fake: FakeApi, url: str, store: Store) -> None:
    fake.counts = 2
    assert notice(url).text == f"all 2 places of work pool {POOL} are taken"
    assert check(store, url).state == "ok"


def test_where_nothing_is_known_to_stand_in_the_way_that_is_what_is_said(fake: FakeApi, url: str) -> None:
    assert notice(url, waited=3).text == ""
    words = f"a lane of {POOL} has waited for 6\\d s and has not begun. Deployment, pool and queue are open"
    assert re.match(words, notice(url).text)
    with serving(FakeApi()) as other:
        pass
    assert "why cannot be looked up" in notice(other).text and other in notice(other).text


LIMITS = st.sampled_from([None, 0, 1, 5])


@settings(deadline=None)
@given(
    st.builds(
        DeploymentStatus,
        name=st.just("f/d"),
        work_pool_name=st.sampled_from([None, "a"]),
        work_queue_name=st.sampled_from([None, "b c"]),
        pool=st.none() | st.builds(WorkPool, name=st.just("a"), is_paused=st.booleans(), concurrency_limit=LIMITS),
        queue=st.none()
        | st.builds(
            WorkQueue,
            is_paused=st.booleans(),
            concurrency_limit=LIMITS,
            polled=st.sampled_from([None, 1.0, 1000.0]),
        ),
        global_concurrency_limit=st.none()
        | st.builds(ConcurrencyLimit, limit=LIMITS, active_slots=st.integers(0, 6), active=st.booleans()),
        pool_used=st.integers(0, 6),
        queue_used=st.integers(0, 6),
        workers_online=st.integers(0, 1),
    )
)
def test_nothing_is_said_only_of_what_is_open(status: DeploymentStatus) -> None:
    """No obstacle: a worker that is online would be given a flow run by Prefect's rules; and the other way round."""
    pool, queue, own = status.pool, status.queue, status.global_concurrency_limit or ConcurrencyLimit()
    opened = (
        bool(status.work_pool_name and status.work_queue_name)
        and pool is not None
        and queue is not None
        and not pool.is_paused
        and not queue.is_paused
        and (pool.concurrency_limit is None or status.pool_used < pool.concurrency_limit)
        and (queue.concurrency_limit is None or status.queue_used < queue.concurrency_limit)
        and (own.limit is None or (own.active and own.active_slots < own.limit))
        and queue.polled == 1.0
        and status.workers_online > 0
    )
    found = obstacles(status)
    assert (not found) == opened, (status, found)
    assert len({each.key for each in found}) == len(found) and all(each.is_busy or each.remedy for each in found)
