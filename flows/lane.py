"""Lanes as Prefect flows: one flow run on a pool is one lane, warm until no work has come for a while.

The flows are thin: `coral_core.queue.worker` does the work. They end in state Completed
when idle, Cancelled when somebody cancels them, Failed when the machine does not fit (another
store, another version of the code), Crashed when their process is lost.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Cancelled

from coral_core.config import RunConfig, parse_config
from coral_core.digest import digest
from coral_core.errors import BudgetClosedError, ConfigError
from coral_core.jobs import TestJob
from coral_core.lane import Lane
from coral_core.ledger import Ledger, Meter
from coral_core.lm.client import EngineProcess
from coral_core.plan import job_for_patch
from coral_core.queue import JobQueue, QueueName
from coral_core.queue.gpu import own_gpu
from coral_core.queue.worker import LaneWorker
from coral_core.store import Store
from flows.dispatch.version import code_version
from flows.orders import being_cancelled, orders
from flows.outlive import outlive_worker
from flows.run_log import logged_to

log = logging.getLogger("coral.lane")

BY_HAND = "by-hand"
"""Whose account pays for what no evolution asked for."""


@flow(name="train-adapters", flow_run_name="training lane {slot}", persist_result=False)
def train_adapters(
    store: str, installation: str = "", code: str = "", linger: float = 30.0, slot: int = 0, most: int = 0
) -> Any:
    """A lane of the training queue.

    Args:
        store: Directory of the store, the same on every machine.
        installation: What the evolution read as the store's name; empty: not checked.
        code: The evolution's version of CORAL-X; empty: not checked.
        linger: Seconds without a job after which the lane ends; also the shortest turn of a lane that makes room for another store's.
        slot: Number of the lane, for people.
        most: Jobs after which the lane ends, for engines that should be started anew now and then; 0: no limit.
    """
    return _lane("training", store, installation, code, linger, most)


@flow(name="evaluate-genomes", flow_run_name="evaluation lane {slot}", persist_result=False)
def evaluate_genomes(
    store: str, installation: str = "", code: str = "", linger: float = 30.0, slot: int = 0, most: int = 0
) -> Any:
    """A lane of the evaluation queue, which also holds test jobs. Arguments as of `train_adapters`."""
    return _lane("evaluation", store, installation, code, linger, most)


@flow(name="test-patches", persist_result=False)
def test_patches(patches: list[dict[str, str]], config: RunConfig | None = None) -> list[dict[str, Any]]:
    """Judge code against problems, without a model.

    Args:
        patches: Objects with `problem` (an id) and `patch` (a whole module).
        config: Names the problems, the judge's limits, and the store whose budget pays; left out: the defaults, and nobody pays.

    Returns:
        A verdict for each patch.

    Raises:
        BudgetClosedError: what `config` allows to spend is spent; nothing was judged.
    """
    outlive_worker()
    settings = config or parse_config("", "the defaults")
    for number, item in enumerate(patches):
        if set(item) != {"problem", "patch"}:
            raise ConfigError(f"patches[{number}]: has {sorted(item)}. Give exactly problem and patch.")
    jobs = [job_for_patch(settings, item["problem"], item["patch"]) for item in patches]
    lane = Lane(Store(settings.store.path), EngineProcess())
    try:
        seconds = settings.infra.evaluation.minutes * 60
        with _booked(config, jobs, seconds * len(jobs)):
            return [lane.test(job, seconds).model_dump(mode="json") for job in jobs]
    finally:
        lane.close()


@contextlib.contextmanager
def _booked(config: RunConfig | None, jobs: Sequence[TestJob], allowed: float) -> Iterator[None]:
    """Put what runs within, `allowed` seconds at most, on the ledger of the store that `config` names, if there is one.

    Raises:
        BudgetClosedError: the budget allows no more work.
    """
    if config is None:
        yield
        return
    store = Store(config.store.path)
    store.prepare()
    ledger = Ledger(store)
    ledger.set_budget(BY_HAND, config.budget)
    with Meter(store, f"test-patches-{flow_run.id or uuid4()}", "evaluation") as meter:
        name = digest([job.digest() for job in jobs])
        if why := ledger.begin(meter, BY_HAND, "evaluation", name, allowed):
            raise BudgetClosedError(f"patches: {len(jobs)} were not judged: {why}")
        yield
        meter.rest()


def _lane(name: QueueName, path: str, installation: str, code: str, linger: float, most: int) -> Any:
    outlive_worker()
    if code and code != code_version():
        raise ConfigError(
            f"this worker has {code_version()}, the evolution {code}. Install one version of both on every machine and image."
        )
    store = Store(path)
    queue = JobQueue(store, name)
    if installation:
        queue.check(installation)
    wanted = orders(flow_run.id, installation, turn=linger)
    worker = LaneWorker(store, queue, linger, flow_run.id or "", wanted, most=most, ledger=Ledger(store))
    with logged_to(flow_run.id), own_gpu(queue, worker.name, flow_run.id or "", wanted, linger) as without:
        ended = without or worker.run()
    if ended == "cancelled" or being_cancelled(flow_run.id):
        return Cancelled(message="the lane was cancelled; its job goes to another lane")
    note = queue.lanes.read(worker.name)
    return {"lane": worker.name, "ended": ended, "jobs": sum(s.jobs for s in note.served.values()) if note else 0}
