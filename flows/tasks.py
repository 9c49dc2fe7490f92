"""The two Prefect tasks of a generation: one training per training digest, one evaluation per evaluation digest.

Prefect caches a small JSON pointer under our own digest and shows the hit; the store is
the truth and is asked first: when an entry is missing or broken the pointer is
refreshed. There are no Prefect retries: only the executor tries a job again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from prefect import task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.task_engine import run_task_async

from coral_core.errors import AdapterError, StoreError
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.jobs.jobs import Cost, Evaluation, EvaluationJob, TrainingJob
from coral_core.untrusted import in_a_line
from flows.session import Session, current

log = logging.getLogger("coral.evolve")

POINTER_SCHEMA = 1


def _key(context: Any, parameters: dict[str, Any]) -> str:
    return str(parameters["digest"])


_CACHED: dict[str, Any] = {
    "cache_policy": CacheKeyFnPolicy(cache_key_fn=_key),
    "persist_result": True,
    "cache_result_in_memory": False,
    "result_serializer": "json",  # never pickle: a result is a pointer, checked against the store
}


@task(name="train_adapter", task_run_name="train {label}", **_CACHED)
async def train_adapter(digest: str, label: str, genes: HeavyGenes) -> dict[str, Any]:
    """Train one adapter in a lane; returns a pointer into the store."""
    session = current.get()
    job = session.jobs[digest]
    if isinstance(job, TrainingJob) and digest not in session.found:
        await _in_lane(session, "training", digest, label, job)
    return {"schema_version": POINTER_SCHEMA, "kind": "training", "digest": digest}


@task(name="evaluate_genome", task_run_name="evaluate {label}", **_CACHED)
async def evaluate_genome(digest: str, label: str, genes: LightGenes, adapter: str, split: str) -> dict[str, Any]:
    """Evaluate one genome on one split in a lane; returns a pointer into the store."""
    session = current.get()
    job = session.jobs[digest]
    if isinstance(job, EvaluationJob) and digest not in session.found:
        await _in_lane(session, "evaluation", digest, label, job)
    return {"schema_version": POINTER_SCHEMA, "kind": "evaluation", "digest": digest}


async def _in_lane(session: Session, kind: str, digest: str, label: str, job: TrainingJob | EvaluationJob) -> None:
    started = time.perf_counter()
    log.info("%s %s of %s submitted", kind, digest[:12], label)
    session.running(+1)
    try:
        submit: Any = session.executor.submit_training if kind == "training" else session.executor.submit_evaluation
        result = await session.submitted(submit, job)
    finally:
        session.running(-1)
    session.finished(kind, digest, label, False, time.perf_counter() - started, result.cost)


async def trained(session: Session, job: TrainingJob, label: str) -> None:
    """Have the adapter of `job` in the store; genomes with the same heavy genes share one training."""
    digest = job.digest()
    if digest not in session.adapters:
        await _once(session, digest, lambda: _train(session, job, digest, label))


async def _train(session: Session, job: TrainingJob, digest: str, label: str) -> None:
    found = await asyncio.to_thread(session.store.read_adapter, digest)
    await _run(session, train_adapter, job, digest, label, found, genes=job.heavy)
    record = found or await asyncio.to_thread(session.store.read_adapter, digest)
    if record is None:
        raise StoreError(
            f"store {session.store.root}: adapter {digest[:12]} was published and is gone. Is the store still mounted? Does another program clean up?"
        )
    session.adapters.add(digest)


async def evaluated(session: Session, job: EvaluationJob, label: str) -> Evaluation:
    """The evaluation of `job` without its verdicts, started as soon as its adapter is there."""
    digest = job.digest()
    if digest not in session.evaluated:
        await _once(session, digest, lambda: _evaluate(session, job, digest, label))
    evaluation = session.evaluations.get(digest) or await _stored(session, job, digest)
    session.keep(digest, evaluation)
    return evaluation


async def _once(session: Session, digest: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do `work`, or wait for the one who does it."""
    if digest not in session.under_way:
        task = session.under_way[digest] = asyncio.create_task(work())
        task.add_done_callback(lambda _: session.under_way.pop(digest, None))
    await asyncio.shield(session.under_way[digest])


async def _evaluate(session: Session, job: EvaluationJob, digest: str, label: str) -> None:
    if job.training is not None:
        await trained(session, job.training, label)
    found = await asyncio.to_thread(session.store.read_evaluation, digest)
    adapter = job.training.digest() if job.training else "none"
    shown = {"genes": job.light, "adapter": adapter, "split": job.split}
    try:
        await _run(session, evaluate_genome, job, digest, label, found, **shown)
    except AdapterError as error:
        if job.training is None:
            raise
        # it is not what was trained, and the lane moved it away, or it was damaged since: once more, with a new one
        log.warning("adapter %s of %s is trained anew: %s", adapter[:12], label, in_a_line(error))
        session.adapters.discard(adapter)
        await trained(session, job.training, label)
        await _run(session, evaluate_genome, job, digest, label, None, **shown)
    session.keep(digest, _without_verdicts(job, found) if found else await _stored(session, job, digest))


async def _stored(session: Session, job: EvaluationJob, digest: str) -> Evaluation:
    evaluation = await asyncio.to_thread(session.store.read_evaluation, digest)
    if evaluation is None:
        raise StoreError(
            f"store {session.store.root}: evaluation {digest[:12]} was published and is gone. Is the store still mounted? Does another program clean up?"
        )
    return _without_verdicts(job, evaluation)


def _without_verdicts(job: EvaluationJob, evaluation: Evaluation) -> Evaluation:
    # who repairs which problem is asked of the base model, and at the end, of what is in the final table
    passed = evaluation.passed if job.training is None or job.split == "held_out" else ()
    return evaluation.model_copy(update={"records": (), "passed": passed})


async def _run(
    session: Session, run: Any, job: TrainingJob | EvaluationJob, digest: str, label: str, found: object, **shown: Any
) -> None:
    """Run the task so that a hit shows in the UI; book the hit when the store had the result."""
    session.jobs[digest] = job
    if found is not None:
        session.found.add(digest)
    else:
        session.found.discard(digest)  # an adapter that was there, and was moved away since
    try:
        configured = run.with_options(refresh_cache=found is None, result_storage=session.pointers)
        # made beforehand, it enters as Running: Pending for no time is a third of what a task leaves in the database
        task_run = await configured.create_local_run()
        await run_task_async(configured, task_run=task_run, parameters={"digest": digest, "label": label, **shown})
    finally:
        del session.jobs[digest]
    if found is not None:
        kind = "training" if isinstance(job, TrainingJob) else "evaluation"
        session.finished(kind, digest, label, True, 0.0, Cost())
