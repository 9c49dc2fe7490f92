"""Do running evolutions say where they stand, and do they get on?"""

import time
from collections.abc import Iterable

from pydantic import Field

from coral_core.errors import CoralError, StoreError
from coral_core.frozen import Frozen
from coral_core.ledger import Closure, Ledger
from coral_core.runs.records import JobTiming
from coral_core.runs.run_folder import RunFolder, latest_runs
from coral_core.runs.sessions import run_state, sessions
from coral_core.store.store import Store
from flows.monitoring.finding import Check, first
from flows.prefect_api.api_errors import ApiError
from flows.prefect_api.client import ANSWER_SECONDS, RestClient

BEHIND_SECONDS = 60.0
"""Artifacts follow a finished job within a second; a minute behind means that nobody writes them."""
MOST_RUNS = 20


class EvolutionLook(Frozen):
    """One evolution that is not finished."""

    run_id: str
    process: bool = Field(description="Its process lives, as far as can be told from here.")
    flow_run: str = Field("", description="State of its flow run; empty when not known.")
    last_job: float | None = Field(None, description="Seconds since its last job finished.")
    last_shown: float | None = Field(None, description="Seconds since its last artifact was written; null: not known.")
    limit: float = Field(description="Seconds that a training and an evaluation may take together.")
    since: float = Field(description="Seconds since this session began.")
    paused: Closure | None = None
    problem: str = Field("", description="Why its files cannot be read; nothing else is known of it then.")
    api_problem: str = Field("", description="Why the API could not be asked about its flow run and artifacts.")
    unreadable: Closure | None = Field(None, description="That its budget cannot be read.")


def look_at_evolutions(
    runs: str, store: Store, url: str | None, answer_seconds: float = ANSWER_SECONDS
) -> list[EvolutionLook]:
    """The latest evolutions under `runs` without a final record and with a process or a flow run that says Running."""
    ledger = Ledger(store)
    found = []
    for folder in latest_runs(runs, MOST_RUNS):
        try:
            if (look := _look(folder, store, ledger, url, answer_seconds)) is not None:
                found.append(look)
        except (CoralError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if folder.lives():
                why = (str(error).splitlines() or [type(error).__name__])[0]
                found.append(EvolutionLook(run_id=folder.run_id, process=True, limit=0, since=0, problem=why))
    return found


def _look(
    folder: RunFolder, store: Store, ledger: Ledger, url: str | None, answer_seconds: float
) -> EvolutionLook | None:
    work = sessions(folder.timings())
    state = run_state(folder, work)
    if state == "finished":
        return None
    facts = folder.facts()
    flow_run, shown, api_problem = "", None, ""
    if url is not None and facts.get("flow_run_id") and str(facts.get("api", "")).rstrip("/") == url.rstrip("/"):
        try:
            flow_run, shown = _in_api(url, facts["flow_run_id"], answer_seconds)
        except (ApiError, KeyError, TypeError, ValueError, AttributeError) as error:
            api_problem = (str(error).splitlines() or [type(error).__name__])[0]
    if state in ("stopped", "failed") and flow_run != "RUNNING":
        return None
    now = time.time()
    jobs = [job for session in work for job in session.jobs if isinstance(job, JobTiming)]
    infra = folder.config().infra
    paused, unreadable = _budget(folder, store, ledger, begun=bool(jobs))
    return EvolutionLook(
        run_id=folder.run_id,
        process=state == "running",
        flow_run=flow_run,
        last_job=now - max(job.finished for job in jobs) if jobs else None,
        last_shown=shown,
        limit=60 * (infra.training.minutes + infra.evaluation.minutes),
        since=now - (folder.path / "run.json").stat().st_mtime,
        paused=paused,
        api_problem=api_problem,
        unreadable=unreadable,
    )


def _budget(folder: RunFolder, store: Store, ledger: Ledger, begun: bool) -> tuple[Closure | None, Closure | None]:
    """Why no new job starts, and that the run's own budget cannot be read; the latter only when it should be there."""
    try:
        limited = ledger.budget(folder.run_id).limited
    except StoreError as error:
        there = (store.root / "ledger" / "budgets" / f"{folder.run_id}.json").exists()
        lost = begun and Store(folder.config().store.path).root == store.root
        return (Closure.of_error(error), Closure.of_error(error)) if there or lost else (None, None)
    try:
        return ledger.standing(folder.run_id).closed, None
    except StoreError as error:  # an account: that is no fault of the run
        return Closure.of_error(error) if limited else None, None


def _in_api(url: str, flow_run_id: str, answer_seconds: float) -> tuple[str, float | None]:
    """State type of the flow run, and seconds since its last artifact changed. Raises `ApiError`."""
    with RestClient(url, answer_seconds) as api:
        run = api.flow_run(flow_run_id)
        return (run.state_type or "" if run is not None else ""), api.artifact_age(flow_run_id)


def progress_updates(looks: Iterable[EvolutionLook]) -> Check:
    """Is what the UI shows of each running evolution as new as its last job, and is the last job not too old?"""
    name = "progress updates"
    bad: list[str] = []
    todo = ""
    running = list(looks)
    for look in running:
        idle = min(look.since, look.last_job) if look.last_job is not None else look.since
        if look.problem:
            bad.append(f"{look.run_id}: {look.problem}")
            todo = f"it runs, and nobody sees how: look at its files with coral runs, and restore them in {look.run_id}"
        elif not look.process:
            bad.append(f"{look.run_id}: its flow run says Running and its process is gone")
            todo = f"coral resume {look.run_id}"
        elif look.last_shown is not None and look.last_shown - idle > BEHIND_SECONDS and idle > BEHIND_SECONDS:
            bad.append(f"{look.run_id}: artifacts are {look.last_shown - idle:.0f} s behind its last job")
            todo = f"coral logs {look.run_id} --level warning says why they could not be written"
        elif idle > 2 * look.limit and not look.paused:
            bad.append(f"{look.run_id}: no job has finished for {idle / 60:.0f} minutes")
            todo = f"coral jobs shows what it waits for; coral logs {look.run_id} what it says"
    if bad:
        return Check(name, "bad", first(bad), "the progress that is shown is not to be trusted", todo)
    if not running:
        return Check(name, "ok", "no evolution runs")
    if unseen := [look for look in running if look.api_problem]:
        return Check(
            name,
            "note",
            f"{len(running)} evolutions run; what is shown of {first([look.run_id for look in unseen])} could not be looked at",
            unseen[0].api_problem,
        )
    shown = [f"{look.run_id} {look.last_shown:.0f} s ago" for look in running if look.last_shown is not None]
    paused = [(look.run_id, look.paused) for look in running if look.paused]
    if paused:
        run_id, closure = paused[0]
        return Check(
            name,
            "note",
            f"paused: {first([f'{run} ({why})' for run, why in paused], 1)}",
            "no new job starts; running ones finish and are kept",
            str(closure.remedy(run_id)),
        )
    return Check(name, "ok", f"{len(running)} evolutions run", f"last shown: {first(shown)}" if shown else "")
