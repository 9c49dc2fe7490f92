"""What an evolution that was killed leaves in the queue, while another one lives."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from coral_core.execution import attempts
from coral_core.jobs.jobs import TrainedAdapter, TrainingJob
from coral_core.ledger import Ledger
from coral_core.queue.lane_board import LaneNote, lane_name
from coral_core.queue.queue import JobQueue, Ticket
from coral_core.search.strategy import make_search
from coral_core.store.store import Store
from flows.cli.jobs import rows
from flows.work_pools import pool_executor as pools
from flows.work_pools.pool_executor import WorkPoolExecutor
from tests.waiting import still, until
from tests.work_pools.test_pool_executor import CONFIG, PLANNER, NoFleet

HEAVIES = {genome.heavy.digest(): genome.heavy for genome in make_search(CONFIG).ask()}
JOBS = [PLANNER.training(heavy) for heavy in HEAVIES.values()][:4]
POISON, *OWN = JOBS


def _ticket(job: TrainingJob, run_id: str) -> Ticket:
    return Ticket(kind="training", digest=job.digest(), run_id=run_id, job=job.model_dump(mode="json"), seconds=60)


def _publish(store: Store, digest: str) -> None:
    """A result without weights."""
    result = TrainedAdapter(training_digest=digest, infeasible="diverged", reason="a loss of NaN")
    store.publish_adapter(digest, store.scratch(), result)


class DyingLanes(NoFleet):
    """Lanes that are killed by one job and do all others."""

    def __init__(self, *_: Any) -> None:
        self.deaths: list[Ticket] = []
        self.store: Any = None

    def ended_state(self, *_: Any) -> str:
        return "Crashed: the process ended with -9"

    def give_up(self, *_: Any) -> None: ...

    def start(self, name: str) -> None:
        if name != "training":
            return
        run = str(uuid4())
        queue, lane = JobQueue(self.store, "training"), lane_name(name, run)
        note = LaneNote(lane=lane, queue="training", started=0, state="idle", flow_run_id=run)
        queue.lanes.write(note)
        while taken := queue.take(lane, run, "box"):
            ticket, claim = taken
            if ticket.digest == POISON.digest():
                self.deaths.append(ticket)  # killed: claim and note stay as they are
                queue.lanes.write(note.model_copy(update={"state": "working", "digest": ticket.digest}))
                return
            _publish(self.store, ticket.digest)
            queue.finish(claim, ticket)
        queue.lanes.write(note.model_copy(update={"state": "ended"}))


@pytest.fixture
def living(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An evolution that lives, on a store where another one was killed with a job in the queue that kills lanes."""
    monkeypatch.setattr(pools, "Fleet", DyingLanes)
    monkeypatch.setattr(pools, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(pools, "TICK_SECONDS", 0.01)
    store = Store(tmp_path / "store")
    store.prepare()
    ledger = Ledger(store)
    queue = JobQueue(store, "training")
    queue.prepare()
    for run_id in ("dead", "living"):
        ledger.set_budget(run_id, CONFIG.budget)
    infra = CONFIG.infra.model_copy(
        update={"training": CONFIG.infra.training.model_copy(update={"lanes": 1}), "lease": 0.2}
    )
    executor = WorkPoolExecutor(infra, store, "living", ledger)
    fleet: Any = executor._fleet
    fleet.store = store
    yield SimpleNamespace(executor=executor, fleet=fleet, queue=queue, store=store)
    executor.close()


def test_a_job_of_a_dead_evolution_that_kills_lanes_is_given_up_like_a_living_ones(living: Any) -> None:
    living.queue.submit(_ticket(POISON, "dead"))
    futures = [living.executor.submit_training(job) for job in OWN]
    living.executor.submit_evaluation(PLANNER.evaluation(None))  # never done: it waits on when its trainings are
    for future in futures:
        assert future.result(timeout=20).reason == "a loss of NaN"
    until(lambda: living.queue.all_failed(), 20)
    assert [ticket.losses for ticket in living.fleet.deaths] == list(range(attempts.MOST_LOSSES))
    assert [ticket.alone for ticket in living.fleet.deaths] == [False] * 2 + [True] * 8
    (row,) = [row for row in rows(living.store) if row["digest"] == POISON.digest()]
    assert row["state"] == "failed" and row["run"] == "dead" and row["tries"] == attempts.MOST_LOSSES
    assert not living.queue.waiting("dead") and living.queue.claim(POISON.digest()) is None


def _killed_with(living: Any, job: TrainingJob) -> None:
    """A lane was killed with a job of the dead evolution in flight."""
    living.fleet.start = lambda *_: None
    living.queue.submit(_ticket(job, "dead"))
    assert living.queue.take("lane-1", str(uuid4()), "box") is not None


@pytest.mark.parametrize("case", ["published", "not wanted"])
def test_a_claim_that_holds_nothing_up_goes_at_once(living: Any, case: str) -> None:
    living.executor._orphan_seconds = 3600.0
    _killed_with(living, POISON)
    if case == "published":
        _publish(living.store, POISON.digest())
    else:
        living.queue.withdraw(_ticket(POISON, "dead"))
    living.executor.submit_training(OWN[0])
    until(lambda: living.queue.claim(POISON.digest()) is None)


def test_who_lives_is_given_a_lease_to_free_its_job_itself(living: Any) -> None:
    living.executor._orphan_seconds = 3600.0
    _killed_with(living, POISON)
    living.executor.submit_training(OWN[0])
    still(lambda: living.queue.claim(POISON.digest()), 0.5)
    assert [ticket.losses for ticket in living.queue.waiting("dead")] == [0]


def test_a_claim_that_cannot_be_read_does_not_hold_its_job_for_ever(living: Any) -> None:
    path = living.queue.root / "claims" / f"{OWN[0].digest()}.json"
    path.write_bytes(b'{"digest": "to')
    assert living.executor.submit_training(OWN[0]).result(timeout=20).reason == "a loss of NaN"
    assert not path.exists()
