"""`coral jobs` and `coral submit`: the queue of the work pools, by hand."""

import json
import os
import pwd
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from coral_core.bounded_read import SMALL, read_file
from coral_core.config import RunConfig, load_config
from coral_core.errors import BudgetClosedError, ConfigError
from coral_core.evolution.planner import Planner
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.jobs.job_content import job_for_patch
from coral_core.json_object import json_object
from coral_core.lm.targets import default_lora_of
from coral_core.queue import JobQueue, Ticket
from coral_core.queue.queue import both
from coral_core.runs.run_folder import find_run, run_folders
from coral_core.store.store import Store
from flows.cli.judge_patch import read_patch
from flows.cli.markup import words
from flows.cli.places import AsJson, Runs
from flows.work_pools import Executor, make_executor

StorePath = Annotated[str, Parameter(name="--store", help="The store whose queue is meant.")]
Settings = Annotated[
    list[str] | None, Parameter(name="--set", help="section.key=value in place of the file's.", negative=())
]
Genes = Annotated[
    Path | None, Parameter(help="JSON with heavy and light genes (coral show --json); else the default LoRA.")
]


def rows(store: Store) -> list[dict[str, Any]]:
    """Every job that waits, runs or failed."""
    found: list[dict[str, Any]] = []
    for queue in both(store):
        claims = {claim.digest: claim for claim in queue.claims()}
        for run_id in queue.runs():
            for ticket in queue.waiting(run_id):
                claim = claims.get(ticket.digest)
                found.append(
                    _row(queue, ticket)
                    | {
                        "state": "running" if claim else "waiting",
                        "lane": claim.lane if claim else "",
                        "host": claim.host if claim else "",
                        "seconds": round(time.time() - claim.since, 1) if claim else None,
                        "reason": ticket.failures[-1].message if ticket.failures else "",
                    }
                )
        for failed in queue.all_failed():
            last = failed.ticket.failures[-1]
            found.append(
                _row(queue, failed.ticket)
                | {
                    "state": "failed",
                    "lane": last.lane,
                    "host": last.host,
                    "seconds": None,
                    "reason": last.message,
                    "traceback": failed.traceback,
                }
            )
    return found


def _row(queue: JobQueue, ticket: Ticket) -> dict[str, Any]:
    return {
        "queue": queue.name,
        "kind": ticket.kind,
        "digest": ticket.digest,
        "run": ticket.run_id,
        "tries": len(ticket.failures),
    }


def jobs(*, store: StorePath = "runs/store", as_json: AsJson = False) -> None:
    """List the jobs that wait, run or failed."""
    found = rows(_store(store))
    if as_json:
        print(json.dumps({"schema_version": 1, "jobs": found}, indent=1))
        return
    out = Console(highlight=False)
    if not found:
        out.print(words(f"no jobs wait, run or failed in {store}"))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, width in (("state", 7), ("kind", 10), ("digest", 12), ("tries", 5)):
        table.add_column(name, no_wrap=True, min_width=width)
    table.add_column("run", no_wrap=True)
    table.add_column("lane", no_wrap=True)
    reasons = any(row["reason"] for row in found)
    if reasons:
        table.add_column("reason", min_width=20)
    colours = {"waiting": "yellow", "running": "cyan", "failed": "red"}
    for row in found:
        state = f"[{colours[row['state']]}]{row['state']}[/]"
        reason = (row["reason"].splitlines() or [""])[0]
        lane = row["lane"].removeprefix(f"{row['queue']}-")[:8]  # as `coral logs` and the flow run's id begin
        cells = [state, row["kind"], row["digest"][:12], str(row["tries"]), words(row["run"]), words(lane)]
        table.add_row(*cells, *([words(reason)] if reasons else []))
    out.print(table)


def retry(digest: str, /, *, store: StorePath = "runs/store") -> None:
    """Put the failed job DIGEST back into the queue and forget its failures.

    Args:
        digest: Digest of the job, or the beginning of one (`coral jobs`).
    """
    found = _failed(_store(store), digest)
    for queue, ticket in found:
        queue.submit(ticket.model_copy(update={"failures": (), "alone": False}))
        queue.forget_failed(ticket)
    ticket = found[0][1]
    runs = f" for {len(found)} runs" if len(found) > 1 else ""
    print(
        f"{ticket.kind} {ticket.digest[:12]} waits again{runs}; a lane takes it as soon as an evolution or coral submit runs"
    )


def drop(digest: str, /, *, store: StorePath = "runs/store") -> None:
    """Remove job DIGEST from the queue; a lane that works on it stops.

    Args:
        digest: Digest of the job, or the beginning of one (`coral jobs`).
    """
    place = _store(store)
    whole = _one(
        digest,
        store,
        [t.digest for queue in both(place) for run_id in queue.runs() for t in queue.waiting(run_id)]
        + [failed.ticket.digest for queue in both(place) for failed in queue.all_failed()],
    )
    for queue in both(place):
        for failed in queue.all_failed():
            if failed.ticket.digest == whole:
                queue.forget_failed(failed.ticket)
        for run_id in queue.runs():
            for ticket in queue.waiting(run_id):
                if ticket.digest == whole:
                    queue.withdraw(ticket)
    print(f"dropped {whole[:12]}; an evolution that still waits for it puts it back")


def _one(digest: str, store: str, known: list[str]) -> str:
    """The digest that `digest` is the beginning of."""
    found = sorted({other for other in known if digest and other.startswith(digest)})
    if len(found) > 1:
        raise ConfigError(
            f"{digest}: {len(found)} jobs begin like that, as {found[0][:12]} and {found[1][:12]}",
            remedy="Give more of it.",
        )
    if not found:
        raise ConfigError(f"{digest}: no such job in {store}", remedy=f"List them with: coral jobs --store {store}")
    return found[0]


def clear(pool: str, /, *, run: str, store: StorePath = "runs/store", runs: Runs = "runs") -> None:
    """Remove all jobs of one's own RUN, which has ended, from POOL (training or evaluation, or the pool's name).

    Args:
        pool: training or evaluation, or the name of the work pool.
        run: Id of a run, the beginning of one, or `latest`.
    """
    name = _queue_name(pool)
    queue = next(queue for queue in both(_store(store)) if queue.name == name)
    run = _run_with_jobs(queue, run, runs)
    tickets = queue.waiting(run)
    failed = [found.ticket for found in queue.all_failed() if found.ticket.run_id == run]
    if not tickets and not failed:
        known = ", ".join(_runs_with_jobs(queue)) or "none"
        raise ConfigError(f"--run {run}: has no jobs in {pool}", remedy=f"Runs with jobs there: {known}.")
    _refuse_what_is_not_ones_own(queue, run)
    if any(folder.run_id == run and folder.lives() for folder in run_folders(runs)):
        raise ConfigError(
            f"--run {run}: is running, and would put its jobs back", remedy=f"Stop it first: coral cancel {run}"
        )
    for ticket in tickets:
        queue.withdraw(ticket)
    for ticket in failed:
        queue.forget_failed(ticket)
    print(f"cleared {len(tickets)} waiting and {len(failed)} failed jobs of {run}; other runs' are untouched")


def _runs_with_jobs(queue: JobQueue) -> list[str]:
    return sorted({*queue.runs(), *(failed.ticket.run_id for failed in queue.all_failed())})


def _run_with_jobs(queue: JobQueue, name: str, runs: str) -> str:
    """Id of the run that `name` means; a run's folder may be gone, or lie on another machine."""
    if name == "latest":
        return find_run(runs, name).run_id
    known = _runs_with_jobs(queue)
    found = [name] if name in known else [run_id for run_id in known if run_id.startswith(name)]
    if len(found) > 1:
        raise ConfigError(
            f"--run {name}: {len(found)} runs with jobs there begin so: {', '.join(found)}", remedy="Give more of it."
        )
    return found[0] if found else name


def _refuse_what_is_not_ones_own(queue: JobQueue, run: str) -> None:
    """A store may be shared by several users; root, as which containers are looked after, may clear for all."""
    owner = queue.owner(run)
    if owner is None or os.getuid() in (0, owner):
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"number {owner}"
    raise ConfigError(f"--run {run}: is of user {name}, and only one's own jobs can be cleared", remedy="Ask them to.")


def _queue_name(pool: str) -> str:
    """The queue that is meant by its own name or its pool's. Raises `ConfigError`."""
    from flows.installation.pool_status import QUEUES

    names = {"training": "training", "evaluation": "evaluation", **QUEUES}
    if pool not in names:
        raise ConfigError(f"{pool}: no such queue", remedy=f"Known: {', '.join(names)}.")
    return names[pool]


# -- coral submit --------------------------------------------------------------------------


def submit_train(config: Path, /, *, genes: Genes = None, set_: Settings = None, timeout: float = 3600) -> None:
    """Train one adapter on the training pool and wait for it.

    Args:
        config: Configuration that names base model, store and pools.
        timeout: Seconds to wait for the result.
    """
    loaded = _loaded(config, set_)
    heavy, _ = _genes(genes)

    def submit(executor: Executor) -> Any:
        planner = _planner(loaded, executor, timeout)
        return executor.submit_training(planner.training(heavy or default_lora_of(planner.base("training"))))

    _wait(loaded, submit, timeout)


def submit_evaluate(
    config: Path,
    /,
    *,
    genes: Genes = None,
    split: Literal["fitness", "monitor"] = "fitness",
    set_: Settings = None,
    timeout: float = 3600,
) -> None:
    """Evaluate a genome and wait for it; train its adapter first if the store has none.

    Args:
        config: Configuration that names base model, store and pools.
        split: Split of the problems.
        timeout: Seconds to wait for the result.
    """
    loaded = _loaded(config, set_)
    given, light = _genes(genes)

    def submit(executor: Executor) -> Any:
        planner = _planner(loaded, executor, timeout)
        heavy = given or default_lora_of(planner.base("training"))
        executor.submit_training(planner.training(heavy)).result(timeout=timeout)
        return executor.submit_evaluation(planner.evaluation(heavy, light, split=split))

    _wait(loaded, submit, timeout)


def submit_test(config: Path, problem: str, file: Path, /, *, set_: Settings = None, timeout: float = 600) -> None:
    """Judge FILE against PROBLEM on the evaluation pool and wait for the verdict; exits 0 or 1.

    Args:
        config: Configuration that names base model, store and pools.
        problem: Id of the problem.
        file: Patch: the source text of the whole function.
        timeout: Seconds to wait for the verdict.
    """
    loaded = _loaded(config, set_)
    patch, _ = read_patch(str(file))
    job = job_for_patch(loaded, problem, patch)
    result = _wait(loaded, lambda executor: executor.submit_test(job), timeout)
    if not result.passed:
        raise SystemExit(1)


def _loaded(config: Path, overrides: list[str] | None) -> RunConfig:
    return load_config(config, [*(overrides or []), "infra.executor=work-pools"])


def _genes(file: Path | None) -> tuple[HeavyGenes | None, LightGenes | None]:
    """Genes of a file; without one none: the default LoRA, whose modules are known when a lane has said what the base model is."""
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


def _planner(config: RunConfig, executor: Executor, timeout: float) -> Planner:
    return Planner.of_config(config, executor.identities(config.base_model, timeout))


def _wait(config: RunConfig, submit: Callable[[Executor], Any], timeout: float) -> Any:
    """Submit, wait, print the result as JSON."""
    from flows.installation.local_stack import use_api

    use_api()
    with ThreadPoolExecutor(1) as threads, make_executor(config, run_id="by-hand") as executor:
        asked = threads.submit(lambda: submit(executor).result(timeout=timeout))
        printed = ""
        while not wait([asked], timeout=1).done:
            held = str(executor.held() or "")
            if held and held != printed:
                print(f"the budget holds it: {held}", file=sys.stderr)
            printed = held
        try:
            result = asked.result()
        except TimeoutError:
            if closure := executor.held():
                raise BudgetClosedError(
                    f"--timeout {timeout:g}: nothing was done within that time: {closure}"
                ) from None
            raise ConfigError(
                f"--timeout {timeout:g}: no result within that time ({_delay(executor)})", remedy="Raise it."
            ) from None
    print(json.dumps(result.model_dump(mode="json", exclude={"records"}), indent=1))
    return result


def _delay(executor: Executor) -> str:
    """What a job waits for."""
    if executor.running():
        return "its lane still works"
    return getattr(executor, "notice", "") or "no lane has taken it yet"


def _failed(store: Store, digest: str) -> list[tuple[JobQueue, Ticket]]:
    """The failed job, for each run whose it is."""
    found = [(queue, failed.ticket) for queue in both(store) for failed in queue.all_failed()]
    whole = _one(digest, str(store.root), [ticket.digest for _, ticket in found])
    return [pair for pair in found if pair[1].digest == whole]


def _store(path: str) -> Store:
    store = Store(path)
    if not store.root.is_dir():
        raise ConfigError(
            f"--store {path}: no such directory", remedy="Give the store of a run (runs/store by default)."
        )
    return store
