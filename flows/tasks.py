"""The steps of an evolution in Prefect: a flow for each generation, a cached task for each training and evaluation.

Prefect caches a small JSON pointer under the job's digest and shows the cache hit. The store is read first: when an entry
is missing or broken, the pointer is refreshed. Prefect retries are off, since only the executor tries a job again. Flows
and tasks take and return plain JSON; the function that does their work is passed in a context variable.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any

from prefect import flow, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.runtime import flow_run
from prefect.task_engine import run_task_async

from coral_core.evolution.job_runner import JobStep, Steps
from coral_core.genome import Genome, HeavyGenes, LightGenes
from coral_core.jobs.jobs import EvaluationJob, TrainingJob
from coral_core.search.archive import Scored
from coral_core.store.store import Store
from flows.observe import memory
from flows.observe.artifacts import Publisher

POINTER_SCHEMA = 1

_step: ContextVar[JobStep] = ContextVar("coral_step")
"""The work of the task that runs in this context."""
_generation: ContextVar[Callable[[], Awaitable[list[Scored]]]] = ContextVar("coral_generation")
"""The work of the generation flow that runs in this context."""


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
    """Train one adapter in a lane.

    Args:
        digest: Training digest; also the key of Prefect's task cache.
        label: Name of the job on the page of the task run.
        genes: Heavy genes, shown on that page.

    Returns:
        A pointer into the store: `schema_version`, `kind` ("training") and `digest`.
    """
    await _step.get().run()
    return {"schema_version": POINTER_SCHEMA, "kind": "training", "digest": digest}


@task(name="evaluate_genome", task_run_name="evaluate {label}", **_CACHED)
async def evaluate_genome(digest: str, label: str, genes: LightGenes, adapter: str, split: str) -> dict[str, Any]:
    """Evaluate one genome on one split in a lane.

    Args:
        digest: Evaluation digest; also the key of Prefect's task cache.
        label: Name of the job on the page of the task run.
        genes: Light genes, shown on that page.
        adapter: Training digest, or "none" for the bare base model; shown there too.
        split: Split of the problems, shown there too.

    Returns:
        A pointer into the store: `schema_version`, `kind` ("evaluation") and `digest`.
    """
    await _step.get().run()
    return {"schema_version": POINTER_SCHEMA, "kind": "evaluation", "digest": digest}


@flow(name="generation", flow_run_name="generation {number}", persist_result=False, validate_parameters=False)
async def generation(number: int, genomes: list[Genome]) -> tuple[list[Scored], str]:
    """Train and evaluate the genomes of one generation.

    Args:
        number: The generation, from 0.
        genomes: Its genomes, shown on the page of the flow run.

    Returns:
        Their results, and the id of this flow run ("" outside of one).
    """
    return await _generation.get()(), str(flow_run.id or "")


class PrefectSteps(Steps):
    """Runs each generation as a flow and each job as a cached task.

    Args:
        store: Prefect's task cache keeps its pointers beside it.
        publisher: Publishes a table of each generation on the page of its flow run.
    """

    def __init__(self, store: Store, publisher: Publisher) -> None:
        self._pointers = store.root / "prefect-cache"
        self._publisher = publisher

    async def job(self, step: JobStep) -> None:
        _step.set(step)  # each job runs in an asyncio task, and so in a context, of its own
        run, shown = _shown(step.job)
        configured = run.with_options(refresh_cache=not step.found, result_storage=self._pointers)
        # created here, the task run starts as Running; a Pending state would add a third to its rows in the database
        task_run = await configured.create_local_run()
        parameters = {"digest": step.digest, "label": step.label, **shown}
        await run_task_async(configured, task_run=task_run, parameters=parameters)

    async def generation(
        self, number: int, genomes: Sequence[Genome], evaluate: Callable[[], Awaitable[list[Scored]]]
    ) -> list[Scored]:
        _generation.set(evaluate)
        results, flow_run_id = await generation(number, list(genomes))
        self._publisher.generation_run(number, flow_run_id)
        await asyncio.to_thread(memory.trim_heap)
        return results


def _shown(job: TrainingJob | EvaluationJob) -> tuple[Any, dict[str, Any]]:
    """The task of `job`, and its parameters besides digest and label."""
    if isinstance(job, TrainingJob):
        return train_adapter, {"genes": job.heavy}
    return evaluate_genome, {"genes": job.light, "adapter": job.training_digest, "split": job.split}
