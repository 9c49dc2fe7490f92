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
from coral_core.execution import ledger_of
from coral_core.frozen import Frozen
from coral_core.jobs.job_content import job_for_patch
from coral_core.jobs.jobs import QueueName, TestJob
from coral_core.lanes.lane import Lane
from coral_core.lanes.worker import LaneWorker
from coral_core.ledger import Ledger, Meter
from coral_core.lm.engine_client import EngineProcess
from coral_core.queue.queue import JobQueue
from coral_core.store.store import Store
from flows.observe.run_logging import logged_to
from flows.prefect_api.flow_run_process import outlive_worker, roots
from flows.work_pools.code_version import code_version
from flows.work_pools.lane_commands import LaneCommands

log = logging.getLogger("coral.lane")

Text = Annotated[str, Field(max_length=4096)]
Slot = Annotated[int, Field(ge=0, le=1_000_000)]
Linger = Annotated[float, Field(ge=0, le=3600.0, allow_inf_nan=False)]
"""As `infra.linger`, an hour at most, since a waiting lane occupies a place of the pool."""
BY_HAND = "by-hand"
"""Run id whose account pays for work that no evolution submitted."""


class Patch(Frozen):
    """Code to judge."""

    problem: str = Field(description="Id of a problem.")
    patch: str = Field(description="A whole module.")


Patches = Annotated[list[Patch], Field(max_length=10_000)]


@flow(name="train-adapters", flow_run_name="training lane {slot}", persist_result=False)
def train_adapters(store: Text, installation: Text = "", code: Text = "", linger: Linger = 30.0, slot: Slot = 0) -> Any:
    """A lane of the training queue.

    Args:
        store: Directory of the store, the same on every machine; below a root of this one (docs/security.md).
        installation: Name of the store, as the evolution has read it; empty: not checked.
        code: The evolution's version of CORAL-X; empty: not checked.
        linger: Seconds without a job after which the lane ends, 0 to 3600.
        slot: Number of the lane, shown in its name.
    """
    return _lane("training", store, installation, code, linger)


@flow(name="evaluate-genomes", flow_run_name="evaluation lane {slot}", persist_result=False)
def evaluate_genomes(
    store: Text, installation: Text = "", code: Text = "", linger: Linger = 30.0, slot: Slot = 0
) -> Any:
    """A lane of the evaluation queue, which also holds test jobs.

    Args:
        store: Directory of the store, the same on every machine; below a root of this one (docs/security.md).
        installation: Name of the store, as the evolution has read it; empty: not checked.
        code: The evolution's version of CORAL-X; empty: not checked.
        linger: Seconds without a job after which the lane ends, 0 to 3600.
        slot: Number of the lane, shown in its name.
    """
    return _lane("evaluation", store, installation, code, linger)


@flow(name="test-patches", persist_result=False)
def test_patches(patches: Patches, config: RunConfig | None = None) -> list[dict[str, Any]]:
    """Judge code against problems, without a model.

    Args:
        patches: Problems and code; 10,000 at most.
        config: Names the problems, the judge's limits, and the store whose budget pays. Left out: the defaults, and no
            budget is charged.

    Returns:
        The test result of each patch with its verdict, as JSON, in the order of `patches`.

    Raises:
        BudgetClosedError: The budget of `config` is spent; nothing was judged.
        ConfigError: `config` names a path outside the roots of this machine; nothing was read or run.
    """
    outlive_worker()
    settings = config or parse_config("", "the defaults")  # neither its store nor its runs are read or written
    if config is not None and (held_to := roots()) is not None:
        held_to.check_config(config)
    jobs = [job_for_patch(settings, item.problem, item.patch) for item in patches]
    seconds = settings.infra.evaluation.minutes * 60
    with contextlib.ExitStack() as booked:
        if config is not None:
            booked.enter_context(_booked(Store(config.store.path), config, jobs, seconds * len(jobs)))
        lane = Lane(Store(settings.store.path), EngineProcess())
        booked.callback(lane.close)
        return [lane.test(job, seconds).model_dump(mode="json") for job in jobs]


@contextlib.contextmanager
def _booked(store: Store, config: RunConfig, jobs: Sequence[TestJob], allowed: float) -> Iterator[None]:
    """Charge the time of the body, `allowed` seconds at most, to the ledger of `store`.

    Raises:
        BudgetClosedError: The budget allows no more work.
    """
    store.prepare()
    ledger = ledger_of(config, store, BY_HAND)
    with Meter(store, f"test-patches-{flow_run.id or uuid4()}", "evaluation") as meter:
        if why := ledger.begin(meter, BY_HAND, "evaluation", digest([job.digest() for job in jobs]), allowed):
            raise BudgetClosedError(f"patches: {len(jobs)} were not judged: {why}")
        yield
        meter.rest()


def _lane(name: QueueName, path: str, installation: str, code: str, linger: float) -> Any:
    outlive_worker()
    if code and code != code_version():
        raise ConfigError(
            f"this worker has {code_version()}, the evolution {code}",
            remedy="Install one version of both on every machine and image.",
        )
    held_to = roots()
    store = Store(path if held_to is None else held_to.place("store", "store", path))
    queue = JobQueue(store, name)
    if installation:
        queue.check(installation)
    command = LaneCommands(flow_run.id)
    worker = LaneWorker(store, queue, linger, flow_run.id or "", command, ledger=Ledger(store), roots=held_to)
    with logged_to(flow_run.id):
        ended = worker.run()
    if ended == "cancelled" or command() == "stop":  # Prefect takes no other end of a flow run that is being cancelled
        return Cancelled(message="the lane was cancelled; its job goes to another lane")
    return {"lane": worker.note.lane, "ended": ended, "jobs": worker.note.jobs}
