"""`coral jobs` and `coral submit`: list, repair and fill the queue of the work pools by hand."""

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.text import Text

from coral_core.bounded_read import SMALL, read_file
from coral_core.config import RunConfig, load_config
from coral_core.errors import BudgetClosedError, ConfigError
from coral_core.evolution.job_runner import Planner
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.jobs.job_content import job_for_patch
from coral_core.json_object import json_object
from coral_core.lm.targets import default_lora_of
from coral_core.queue.queue import Claim, FailedTicket, JobQueue, Ticket, both_queues
from coral_core.runs.run_folder import find_run, run_folders
from coral_core.store.store import Store
from flows.cli.judge_patch import read_patch
from flows.cli.markup import echo, print_json, table, words
from flows.cli.places import AsJson, Overrides, Runs
from flows.work_pools import Executor, make_executor

QueueStore = Annotated[str, Parameter(name="--store", help="The store whose queue is meant.")]
Genes = Annotated[
    Path | None, Parameter(help="JSON with heavy and light genes (coral show --json); else the default LoRA.")
]
POOLS = {"training": "training", "coral-a100": "training", "evaluation": "evaluation", "coral-a10g": "evaluation"}
"""Names that `coral jobs clear` accepts for a queue: its own, and that of its pool of `coral setup`."""
COLOURS = {"waiting": "yellow", "running": "cyan", "failed": "red"}


@dataclass(frozen=True)
class ListedJob:
    """A job of the queue that waits, is claimed by a lane (`claim`), or has failed for good (`failed`)."""

    queue: JobQueue
    ticket: Ticket
    claim: Claim | None = None
    failed: FailedTicket | None = None

    def remove(self) -> None:
        self.queue.withdraw(self.ticket)
        self.queue.forget_failed(self.ticket)


def listed_jobs(path: str | Store) -> Iterator[ListedJob]:
    """All jobs that wait, run or failed, of both queues. Raises `ConfigError` where there is no store."""
    store = path if isinstance(path, Store) else Store(path)
    if not store.root.is_dir():
        raise ConfigError(
            f"--store {path}: no such directory", remedy="Give the store of a run (runs/store by default)."
        )
    for queue in both_queues(store):
        claims = {claim.digest: claim for claim in queue.claims()}
        for run_id in queue.runs():
            for ticket in queue.waiting(run_id):
                yield ListedJob(queue, ticket, claims.get(ticket.digest))
        for failed in queue.all_failed():
            yield ListedJob(queue, failed.ticket, failed=failed)


def rows(store: str | Store) -> list[dict[str, Any]]:
    """The listed jobs as JSON (keys: docs/json.md)."""
    found: list[dict[str, Any]] = []
    for job in listed_jobs(store):
        last = job.ticket.failures[-1] if job.ticket.failures else None
        where = last if job.failed else job.claim
        row = {
            "queue": job.queue.name,
            "kind": job.ticket.kind,
            "digest": job.ticket.digest,
            "run": job.ticket.run_id,
            "tries": len(job.ticket.failures),
            "state": "failed" if job.failed else "running" if job.claim else "waiting",
            "lane": where.lane if where else "",
            "host": where.host if where else "",
            "seconds": round(time.time() - job.claim.since, 1) if job.claim else None,
            "reason": last.message if last else "",
        }
        found.append(row | ({"traceback": job.failed.traceback} if job.failed else {}))
    return found


def jobs(*, store: QueueStore = "runs/store", as_json: AsJson = False) -> None:
    """List the jobs that wait, run or failed."""
    found = rows(store)
    if as_json:
        print_json({"schema_version": 1, "jobs": found})
        return
    if not found:
        echo(words(f"no jobs wait, run or failed in {store}"))
        return
    columns = ("<state", "<kind", "<digest", "tries", "<run", "<lane", "<<reason")
    echo(table(columns, map(_cells, found)))


def _cells(row: dict[str, Any]) -> list[object]:
    lane = row["lane"].removeprefix(f"{row['queue']}-")[:8]  # the first digits of the flow run's id, as in `coral logs`
    reason = (row["reason"].splitlines() or [""])[0]
    state = Text(row["state"], COLOURS[row["state"]])
    return [state, row["kind"], row["digest"][:12], row["tries"], row["run"], lane, reason]


def retry(digest: str, /, *, store: QueueStore = "runs/store") -> None:
    """Put the failed job DIGEST back into the queue and forget its failures.

    Args:
        digest: Digest of the job, or the beginning of one (`coral jobs`).
    """
    found = _named([job for job in listed_jobs(store) if job.failed], digest, store)
    for job in found:
        job.queue.submit(job.ticket.model_copy(update={"failures": (), "alone": False}))
        job.queue.forget_failed(job.ticket)
    ticket, runs = found[0].ticket, f" for {len(found)} runs" if len(found) > 1 else ""
    print(
        f"{ticket.kind} {ticket.digest[:12]} waits again{runs}; a lane takes it as soon as an evolution or coral submit runs"
    )


def drop(digest: str, /, *, store: QueueStore = "runs/store") -> None:
    """Remove job DIGEST from the queue; a lane that works on it stops.

    Args:
        digest: Digest of the job, or the beginning of one (`coral jobs`).
    """
    found = _named(list(listed_jobs(store)), digest, store)
    for job in found:
        job.remove()
    print(f"dropped {found[0].ticket.digest[:12]}; an evolution that still waits for it puts it back")


def _named(found: list[ListedJob], digest: str, store: str) -> list[ListedJob]:
    """The job whose digest begins with `digest`, once for each run that waits for it. Raises `ConfigError`."""
    remedy = f"List them with: coral jobs --store {store}"
    whole = _completed(digest, "job", {job.ticket.digest for job in found}, remedy)
    return [job for job in found if job.ticket.digest == whole]


def _completed(name: str, kind: str, known: Collection[str], remedy: str) -> str:
    """The only one of `known` that begins with `name`. Raises `ConfigError`."""
    found = [name] if name in known else [other for other in known if name and other.startswith(name)]
    if len(found) != 1:
        raise ConfigError(f"{name}: {len(found) or 'no'} {kind}s begin like that", remedy=remedy)
    return found[0]


def clear(pool: str, /, *, run: str, store: QueueStore = "runs/store", runs: Runs = "runs") -> None:
    """Remove all jobs of RUN, which is your own and has ended, from POOL (training or evaluation, or the pool's name).

    Args:
        pool: training or evaluation, or the name of the work pool.
        run: Id of a run, the beginning of one, or `latest`.
    """
    if pool not in POOLS:
        raise ConfigError(f"{pool}: no such queue", remedy=f"Known: {', '.join(POOLS)}.")
    there = [job for job in listed_jobs(store) if job.queue.name == POOLS[pool]]
    known = sorted({job.ticket.run_id for job in there})
    wanted = find_run(runs, run).run_id if run == "latest" else run
    run_id = _completed(wanted, "run", known, f"Runs with jobs in {pool}: {', '.join(known) or 'none'}.")
    mine = [job for job in there if job.ticket.run_id == run_id]
    owner = mine[0].queue.owner(run_id)
    if owner is not None and os.getuid() not in (0, owner):  # root may: containers are managed as root
        raise ConfigError(
            f"--run {run_id}: is of user {owner}, and only one's own jobs can be cleared", remedy="Ask them to."
        )
    if any(folder.run_id == run_id and folder.lives() for folder in run_folders(runs)):
        raise ConfigError(
            f"--run {run_id}: is running, and would put its jobs back", remedy=f"Stop it first: coral cancel {run_id}"
        )
    for job in mine:
        job.remove()
    failed = sum(job.failed is not None for job in mine)
    print(f"cleared {len(mine) - failed} waiting and {failed} failed jobs of {run_id}; other runs' are untouched")


# -- coral submit --------------------------------------------------------------------------


def submit_train(config: Path, /, *, genes: Genes = None, set_: Overrides = None, timeout: float = 3600) -> None:
    """Train one adapter on the training pool and wait for it.

    Args:
        config: Configuration that names base model, store and pools.
        timeout: Seconds to wait for the result.
    """
    given, _ = _genes(genes)

    def submit(loaded: RunConfig, executor: Executor) -> Future[Any]:
        planner, heavy = _planned(loaded, executor, given, timeout)
        job = planner.training(heavy)
        if (earlier := job.warm_start()) is not None:
            executor.train(earlier, timeout)
        return executor.submit_training(job)

    _submit(config, set_, timeout, submit)


def submit_evaluate(
    config: Path,
    /,
    *,
    genes: Genes = None,
    split: Literal["fitness", "monitor"] = "fitness",
    set_: Overrides = None,
    timeout: float = 3600,
) -> None:
    """Evaluate a genome and wait for it; train its adapter first if the store has none.

    Args:
        config: Configuration that names base model, store and pools.
        split: Split of the problems.
        timeout: Seconds to wait for the result.
    """
    given, light = _genes(genes)

    def submit(loaded: RunConfig, executor: Executor) -> Future[Any]:
        planner, heavy = _planned(loaded, executor, given, timeout)
        executor.train(planner.training(heavy), timeout)
        return executor.submit_evaluation(planner.evaluation(heavy, light, split=split))

    _submit(config, set_, timeout, submit)


def submit_test(config: Path, problem: str, file: Path, /, *, set_: Overrides = None, timeout: float = 600) -> None:
    """Judge FILE against PROBLEM on the evaluation pool and wait for the verdict; exits 0 or 1.

    Args:
        config: Configuration that names base model, store and pools.
        problem: Id of the problem.
        file: Patch: the source text of the whole function.
        timeout: Seconds to wait for the verdict.
    """
    patch, _ = read_patch(str(file))
    result = _submit(
        config, set_, timeout, lambda loaded, executor: executor.submit_test(job_for_patch(loaded, problem, patch))
    )
    if not result.passed:
        raise SystemExit(1)


def _genes(file: Path | None) -> tuple[HeavyGenes | None, LightGenes | None]:
    """Heavy and light genes of a file; None without a file: the default LoRA depends on the base model, which a lane reads."""
    if file is None:
        return None, None
    try:
        data = json_object(read_file(file.resolve(), SMALL))
        data = data.get("genome", data)
        light = data.get("light")
        return HeavyGenes.model_validate(data["heavy"]), LightGenes.model_validate(light) if light else None
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{file}: holds no genes ({str(error).splitlines()[0]})",
            remedy="Make it with: coral show RUN GENOME --json",
        ) from None


def _planned(
    config: RunConfig, executor: Executor, heavy: HeavyGenes | None, timeout: float
) -> tuple[Planner, HeavyGenes]:
    """The planner of jobs, and the heavy genes to train (None: the default LoRA). Asks a lane to identify the base model."""
    planner = Planner.of_config(config, executor.identities(config, timeout))
    return planner, heavy or default_lora_of(planner.base("training"))


def _submit(
    file: Path, overrides: list[str] | None, timeout: float, submit: Callable[[RunConfig, Executor], Future[Any]]
) -> Any:
    """Submit a job to the work pools, wait for it, print the result as JSON."""
    from flows.installation.local_stack import use_api

    config = load_config(file, [*(overrides or []), "infra.executor=work-pools"])
    use_api()
    with ThreadPoolExecutor(1) as threads, make_executor(config, run_id="by-hand") as executor:
        pending = threads.submit(lambda: submit(config, executor).result(timeout=timeout))
        reported = ""
        while not wait([pending], timeout=1).done:
            held = str(executor.held() or "")
            if held and held != reported:
                print(f"the budget holds it: {held}", file=sys.stderr)
            reported = held
        try:
            result = pending.result()
        except TimeoutError:
            if closure := executor.held():
                raise BudgetClosedError(
                    f"--timeout {timeout:g}: nothing was done within that time: {closure}"
                ) from None
            reason = "its lane still works" if executor.running() else getattr(executor, "notice", "")
            raise ConfigError(
                f"--timeout {timeout:g}: no result within that time ({reason or 'no lane has taken it yet'})",
                remedy="Raise it.",
            ) from None
    print_json(result.model_dump(mode="json", exclude={"records"}))
    return result
