"""Lanes as Prefect flows: one flow run on a pool is one lane, warm until no work has come for a while.

The flows are thin: `coral_core.lanes.worker` does the work. They end in state Completed
when idle, Cancelled when somebody cancels them, Failed when the machine does not fit (another
store, another version of the code), Crashed when their process is lost.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Annotated, Any
from uuid import uuid4

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Cancelled
from pydantic import Field

from coral_core.config import RunConfig, parse_config
from coral_core.digest import digest
from coral_core.errors import BudgetClosedError, ConfigError
from coral_core.jobs.job_content import job_for_patch
from coral_core.jobs.jobs import TestJob
from coral_core.lanes.gpu import own_gpu
from coral_core.lanes.lane import Lane
from coral_core.lanes.worker import LaneWorker
from coral_core.ledger import Ledger, Meter
from coral_core.lm.engine_client import EngineProcess
from coral_core.queue import JobQueue, QueueName
from coral_core.store.store import Store
from flows.observe.run_logging import logged_to
from flows.prefect_api.flow_run_process import outlive_worker, roots
from flows.work_pools.code_version import code_version
from flows.work_pools.lane_commands import being_cancelled, orders

log = logging.getLogger("coral.lane")

Text = Annotated[str, Field(max_length=4096)]
MOST_JOBS = 1_000_000
Count = Annotated[int, Field(ge=0, le=MOST_JOBS)]
MOST_LINGER = 3600.0
Linger = Annotated[float, Field(ge=0, le=MOST_LINGER, allow_inf_nan=False)]
"""As `infra.linger`: a lane that waits keeps its place, so nobody may have it wait for ever."""
MOST_PATCHES = 10_000
BY_HAND = "by-hand"
"""Whose account pays for what no evolution asked for."""


@flow(name="train-adapters", flow_run_name="training lane {slot}", persist_result=False)
def train_adapters(
    store: Text, installation: Text = "", code: Text = "", linger: Linger = 30.0, slot: Count = 0, most: Count = 0
) -> Any:
    """A lane of the training queue.

    Args:
        store: Directory of the store, the same on every machine; below a root of this one (docs/security.md).
        installation: What the evolution read as the store's name; empty: not checked.
        code: The evolution's version of CORAL-X; empty: not checked.
        linger: Seconds without a job after which the lane ends, an hour at most; also the shortest turn of a lane that makes room
            for another store's.
        slot: Number of the lane, for people.
        most: Jobs after which the lane ends, for engines that should be started anew now and then; 0: no limit.
    """
    return _lane("training", store, installation, code, linger, most)


@flow(name="evaluate-genomes", flow_run_name="evaluation lane {slot}", persist_result=False)
def evaluate_genomes(
    store: Text, installation: Text = "", code: Text = "", linger: Linger = 30.0, slot: Count = 0, most: Count = 0
) -> Any:
    """A lane of the evaluation queue, which also holds test jobs. Arguments as of `train_adapters`."""
    return _lane("evaluation", store, installation, code, linger, most)


@flow(name="test-patches", persist_result=False)
def test_patches(patches: list[dict[str, str]], config: RunConfig | None = None) -> list[dict[str, Any]]:
    """Judge code against problems, without a model.

    Args:
        patches: Objects with `problem` (an id) and `patch` (a whole module), 10,000 at most.
        config: Names the problems, the judge's limits, and the store whose budget pays; left out: the defaults, and nobody pays.

    Returns:
        A verdict for each patch.

    Raises:
        BudgetClosedError: what `config` allows to spend is spent; nothing was judged.
        ConfigError: `config` names a place outside the roots of this machine; nothing was read or run.
    """
    outlive_worker()
    settings = config or parse_config("", "the defaults")  # of which nothing is read or written
    if config is not None and (held_to := roots()) is not None:
        held_to.check_config(config)
    if len(patches) > MOST_PATCHES:
        raise ConfigError(
            f"patches: {len(patches)} are too many for one flow run", remedy=f"Give {MOST_PATCHES} at most."
        )
    for number, item in enumerate(patches):
        if set(item) != {"problem", "patch"}:
            raise ConfigError(f"patches[{number}]: has {sorted(item)}", remedy="Give exactly problem and patch.")
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
            f"this worker has {code_version()}, the evolution {code}",
            remedy="Install one version of both on every machine and image.",
        )
    if not 0 <= linger <= MOST_LINGER:  # also for callers whom Prefect's check of the parameters did not see
        raise ConfigError(f"linger: {linger:g}: is out of range", remedy=f"Give 0 to {MOST_LINGER:.0f} seconds.")
    if not 0 <= most <= MOST_JOBS:
        raise ConfigError(f"most: {most}: give 0 (no limit) to {MOST_JOBS}.")
    held_to = roots()
    store = Store(path if held_to is None else held_to.place("store", "store", path))
    queue = JobQueue(store, name)
    if installation:
        queue.check(installation)
    wanted = orders(flow_run.id, installation, turn=linger)
    worker = LaneWorker(store, queue, linger, flow_run.id or "", wanted, most=most, ledger=Ledger(store), roots=held_to)
    with logged_to(flow_run.id), own_gpu(queue, worker.name, flow_run.id or "", wanted, linger) as without:
        ended = without or worker.run()
    if ended == "cancelled" or being_cancelled(flow_run.id):
        return Cancelled(message="the lane was cancelled; its job goes to another lane")
    note = queue.lanes.read(worker.name)
    return {"lane": worker.name, "ended": ended, "jobs": sum(s.jobs for s in note.served.values()) if note else 0}
