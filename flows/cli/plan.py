"""`coral plan`: memory, time and money of the jobs of a configuration, against what their lanes have; starts nothing.

Memory is planned from the headers of the base model's files (coral_core/lm/memory_plan.py). Time comes from, in this order: a
measured trial on this machine (``--measure``), an earlier run with the same sizes, or for GPUs that are known an estimate that
says what it assumes. Where none applies there is no time and no money.
"""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter

from coral_core.config import RunConfig, read_config
from coral_core.durations import clock
from coral_core.errors import ConfigError
from coral_core.evolution.preflight import check
from coral_core.jobs.jobs import QueueName
from coral_core.lm.base_model import is_rehearsal
from coral_core.lm.memory_plan import (
    GB,
    JobMemory,
    ModelSize,
    Room,
    item_bytes,
    model_size,
    most_rows,
    on_gpu,
    plan_memory,
    room_of,
    too_large,
)
from coral_core.lm.model_check import model_folder
from coral_core.lm.model_files import read_folder
from coral_core.runs.job_count import plan_jobs
from flows.cli.dry_run import find_pace
from flows.cli.markup import echo, print_json, table, words
from flows.cli.places import AsJson, Overrides
from flows.installation.pool_templates import DEPLOYMENTS, POOLS


class Device(NamedTuple):
    """Data sheet of a GPU: dense bfloat16 operations a second, and bytes of memory read a second."""

    operations: float
    bandwidth: float


DEVICES = {"A100-40GB": Device(312e12, 1555e9), "A10G": Device(70e12, 600e9)}
COMPUTE_SHARE = 0.35
"""Share of the data sheet's operations that an estimate assumes."""
BANDWIDTH_SHARE = 0.6
"""Share of the data sheet's memory bandwidth that an estimate assumes."""
MOST_TRIED = 64
"""Prompts of a trial at most."""


class JobPlan(NamedTuple):
    """One kind of job: where it runs, what it needs, how long it takes and costs."""

    memory: JobMemory
    room: Room
    jobs: int
    seconds: float | None
    """Of one job; None: not known."""
    source: str
    """Where the seconds come from."""
    minutes: float
    money: float | None
    """Of all jobs, at the prices of the budget; None: no price, or no seconds."""

    rows: int
    """Examples or prompts at a time, as configured."""
    most_rows: int | None
    """Rows at most with which the job fits; None: the lane's memory is not known."""

    @property
    def problem(self) -> str:
        """Why the job does not fit; empty when it does."""
        return too_large(self.memory, self.room)


def plan(
    config: Path,
    /,
    *,
    set_: Overrides = None,
    measure: Annotated[
        bool, Parameter(help="Time a short trial in an engine process here first.", negative=())
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Plan memory, time and money of the jobs of CONFIG, per pool.

    Exits with 2 when a job does not fit into its lane, and then names changes with which it would.

    Args:
        config: The configuration: a file, or quickstart or production, which come with CORAL-X.
    """
    settings, places = read_config(config, set_ or [])
    if is_rehearsal(settings.base_model):
        raise ConfigError(
            f"base_model.name: {settings.base_model.name}: simulates a model and has no files to plan from"
        )
    jobs = job_plans(settings, measure)
    remarks = remarks_on(settings)
    if as_json:
        print_json({"schema_version": 1, "base_model": settings.base_model.name, "jobs": [as_data(job) for job in jobs], "remarks": remarks})  # fmt: skip
    elif jobs:
        show(jobs, settings)
        echo(*(words(remark, "yellow") for remark in remarks))
    else:
        name = settings.base_model.name
        missing = f"no plan: sizes come from the files of {name}, which are not on this machine"
        echo(words(f"{missing}. Run: coral model fetch {name}", "yellow"))
    notes = check(settings, places)  # refuses what does not fit
    if not as_json:
        echo(*(words(f"not checked here: {note}", "dim") for note in notes))


def remarks_on(config: RunConfig) -> list[str]:
    """What the plans of a configuration leave out."""
    if config.generation.engine != "vllm":
        return []
    return [
        "evaluation: generation.engine is vllm, and these figures follow the torch engine: the memory of vLLM's own process and buffers "
        "comes on top, and a time is vLLM's only where it is the pace of an earlier run"
    ]


def job_plans(config: RunConfig, measure: bool = False) -> list[JobPlan]:
    """Plans of a training and an evaluation; empty when the base model is not on this machine.

    Args:
        config: The configuration.
        measure: Whether to time a trial in an engine process on this machine.
    """
    if is_rehearsal(config.base_model) or (path := model_folder(config)) is None:
        return []
    folder = read_folder(path)
    size, total = model_size(folder), plan_jobs(config).total
    timed = _trial_seconds(config) if measure else None
    pace = find_pace(config)
    plans = []
    for memory in plan_memory(config, folder):
        queue = memory.queue
        seconds: float | None
        if timed is not None:
            seconds, source = timed[queue]
        elif pace is not None:
            seconds = pace.training if queue == "training" else pace.evaluation
            source = f"pace of {pace.run_id}" if pace.run_id else "guess, from coral-tiny on a laptop"
        else:
            seconds, source = _estimated(config, size, queue)
        lanes = config.infra.training if queue == "training" else config.infra.evaluation
        price = config.budget.price.training if queue == "training" else config.budget.price.evaluation
        count = total.trainings if queue == "training" else total.evaluations
        money = count * seconds / 3600 * price if seconds is not None and price else None
        recipe = config.training
        rows = recipe.micro_batch or recipe.batch_size if queue == "training" else config.generation.batch_size
        room, most = room_of(config, queue), most_rows(config, folder, queue)
        plans.append(JobPlan(memory, room, count, seconds, source, lanes.minutes, money, rows, most))
    return plans


def _trial_seconds(config: RunConfig) -> dict[QueueName, tuple[float, str]]:
    """Seconds of a training and of an evaluation by those of a trial, and what they assume. The trial fills a batch."""
    from coral_core.lm.model_trial import try_model
    from flows.cli.model import prepare_trial

    settings, buggy, pairs = prepare_trial(config, prompts=min(config.generation.batch_size, MOST_TRIED))
    trial = try_model(settings, buggy, pairs)
    if trial.training is None:
        raise ConfigError("the trial trained nothing")
    training = config.training.steps * trial.training.seconds / settings.training.steps
    evaluation = _problems(config) * trial.generation.seconds / len(buggy)
    mean = trial.generation.tokens / len(buggy)
    return {
        "training": (training, "measured here"),
        "evaluation": (
            evaluation,
            f"measured here, with answers of {mean:.0f} tokens as the bare base model writes them",
        ),
    }


def _problems(config: RunConfig) -> int:
    """Answers of the largest evaluation."""
    samples = config.generation.samples if True in config.genes.light.sampling else 1
    sizes = config.problems
    return max(sizes.fitness + sizes.retention, sizes.monitor, sizes.held_out) * samples


def _estimated(config: RunConfig, size: ModelSize, queue: QueueName) -> tuple[float | None, str]:
    """Seconds of a job at the limits of the configuration on the GPU of its pool, and the assumptions."""
    lanes = config.infra.training if queue == "training" else config.infra.evaluation
    pool = next((pool for pool in POOLS if pool.name == DEPLOYMENTS.get(lanes.deployment)), None)
    device = DEVICES.get(pool.gpu) if pool is not None else None
    if config.infra.executor != "work-pools" or not on_gpu(config) or pool is None or device is None:
        return None, "no earlier run had these sizes; --measure times a trial here"
    operations = device.operations * COMPUTE_SHARE
    if queue == "training":
        tokens = config.training.steps * config.training.batch_size * config.training.sequence_length
        passes = 3 if config.training.checkpointing else 2  # forward, backward to the inputs; forward again
        seconds = 2 * passes * size.parameters * tokens / operations
        return (
            seconds,
            f"estimate: {COMPUTE_SHARE:.0%} of the operations of an {pool.gpu}, every pair at sequence_length",
        )
    rows, limit = config.generation.batch_size, config.genes.light.token_limit.high
    batches = -(-_problems(config) // rows)
    weights = size.parameters * item_bytes(config)
    cache = (
        2 * size.layers * size.cache_width * item_bytes(config) * rows * (config.generation.prompt_length + limit / 2)
    )
    reading = batches * limit * (weights + cache) / (device.bandwidth * BANDWIDTH_SHARE)
    prefill = 2 * size.parameters * batches * rows * config.generation.prompt_length / operations
    return (
        reading + prefill,
        f"estimate: {BANDWIDTH_SHARE:.0%} of the memory bandwidth of an {pool.gpu}, every answer at token_limit",
    )


def as_data(job: JobPlan) -> dict[str, Any]:
    """A plan as JSON data; bytes as numbers."""
    return {
        "queue": job.memory.queue,
        "where": job.room.where,
        "genes": job.memory.genes,
        "device_bytes": job.memory.device,
        "host_bytes": job.memory.host,
        "device_limit": job.room.device,
        "host_limit": job.room.host,
        "fits": not job.problem,
        "rows": job.rows,
        "most_rows": job.most_rows,
        "jobs_at_most": job.jobs,
        "seconds_per_job": round(job.seconds, 1) if job.seconds is not None else None,
        "seconds_from": job.source,
        "minutes_limit": job.minutes,
        "money": round(job.money, 2) if job.money is not None else None,
    }


def show(jobs: list[JobPlan], config: RunConfig) -> None:
    """Print plans as a table, the parts of the memory, and warnings."""
    rows = [
        (
            job.memory.queue,
            job.room.where,
            _against(job.memory.device_bytes, job.room.device) if job.memory.device else "none",
            _against(job.memory.host_bytes, job.room.host),
            job.jobs,
            clock(job.seconds) if job.seconds is not None else "?",
            f"{job.money:.2f} {config.budget.currency}" if job.money is not None else "?",
        )
        for job in jobs
    ]
    echo(table(("<job", "<<on", "device GB", "host GB", "jobs at most", "a job", "all"), rows))
    for job in jobs:
        for name, parts in (("device", job.memory.device), ("host", job.memory.host)):
            if parts:
                detail = ", ".join(f"{part} {size / GB:.2f}" for part, size in parts.items())
                echo(words(f"{job.memory.queue}, {name} memory in GB: {detail} ({job.memory.genes})", "dim"))
        if job.most_rows is not None:
            key = "training.micro_batch" if job.memory.queue == "training" else "generation.batch_size"
            echo(words(f"{job.memory.queue}, rows at a time ({key}): {job.rows}; up to {job.most_rows} fit", "dim"))
        echo(words(f"{job.memory.queue}, time: {job.source}", "dim"))
        if job.seconds is not None and job.seconds > job.minutes * 60:
            echo(
                words(
                    f"{job.memory.queue}: {clock(job.seconds)} is over infra.{job.memory.queue}.minutes {job.minutes:g}",
                    "yellow",
                )
            )


def _against(needed: int, limit: int | None) -> str:
    return f"{needed / GB:.2f} of {limit / GB:.1f}" if limit is not None else f"{needed / GB:.2f}"
