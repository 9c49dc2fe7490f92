"""Checks that running evolutions make progress, and that the UI shows it."""

import time
from collections.abc import Iterator, Sequence

from pydantic import Field

from coral_core.errors import StoreError
from coral_core.frozen import Frozen
from coral_core.ledger import Closure, Ledger, Reason
from coral_core.runs.run_folder import RunFolder, latest_runs
from coral_core.runs.sessions import RunState, WorkDone, run_state
from coral_core.store.store import Store
from flows.installation.figures import UNREADABLE, first_line
from flows.monitoring.finding import Check, first
from flows.prefect_api.api_errors import ApiError
from flows.prefect_api.client import RestClient
from flows.prefect_api.credentials import same_api

BEHIND_SECONDS = 60.0
"""Artifacts that are this far behind the last job are not written any more; normally they follow within seconds."""
MOST_RUNS = 20


class EvolutionStatus(Frozen):
    """One evolution that is not finished."""

    run_id: str
    has_process: bool = Field(True, description="Its process lives, as far as this machine can see.")
    idle: float = Field(0.0, description="Seconds since its last job finished, or since this session began.")
    last_shown: float | None = Field(None, description="Seconds since its last artifact was written; null: not known.")
    limit: float = Field(0.0, description="Seconds allowed for a training and an evaluation together.")
    paused: Closure | None = None
    problem: str = Field("", description="Why its files cannot be read; nothing else is known of it then.")


def read_evolutions(runs: str, store: Store, api: RestClient | None) -> list[EvolutionStatus]:
    """Unfinished evolutions with a living process, or with a flow run in state Running, among the latest runs.

    Args:
        runs: Directory of the runs; the latest `MOST_RUNS` are read.
        store: Holds their budgets.
        api: Source of flow runs and artifacts; None: it cannot be used.

    Raises:
        ApiError: The API does not answer.
    """
    found: list[EvolutionStatus] = []
    for folder in latest_runs(runs, MOST_RUNS):
        try:
            found += _read(folder, store, api)
        except ApiError:
            raise
        except UNREADABLE as error:
            if folder.lives():
                found.append(EvolutionStatus(run_id=folder.run_id, problem=first_line(folder, error)))
    return found


def _read(folder: RunFolder, store: Store, api: RestClient | None) -> Iterator[EvolutionStatus]:
    work = WorkDone.of(folder)
    state = run_state(folder, work)
    if state is RunState.FINISHED:
        return
    facts = folder.facts()
    run, shown = None, None
    if api is not None and facts and facts.flow_run_id and same_api(facts.api, api.url):
        run, shown = api.flow_run(facts.flow_run_id), api.artifact_age(facts.flow_run_id)
    if state.is_over and (run is None or run.state_type != "RUNNING"):
        return
    infra = folder.config().infra
    begun = (folder.path / "run.json").stat().st_mtime
    yield EvolutionStatus(
        run_id=folder.run_id,
        has_process=not state.is_over,
        idle=time.time() - max(begun, work.last_job),
        last_shown=shown,
        limit=60 * (infra.training.minutes + infra.evaluation.minutes),
        paused=_closure(folder, store, worked=work.last_job > 0),
    )


def _closure(folder: RunFolder, store: Store, worked: bool) -> Closure | None:
    """The reason why no new job starts; None when jobs may start. A run that worked on this store must have a budget on record."""
    recorded = (store.root / "ledger" / "budgets" / f"{folder.run_id}.json").exists()
    if not recorded and not (worked and Store(folder.config().store.path).root == store.root):
        return None
    ledger = Ledger(store)
    try:
        return ledger.standing(folder.run_id).closed if ledger.budget(folder.run_id).limited else None
    except StoreError as error:
        return Closure.of_error(error)


def progress_updates(evolutions: Sequence[EvolutionStatus]) -> Check:
    """Checks that the artifacts of each running evolution are as new as its last job, and that this job is not too old."""
    name = "progress updates"
    if not evolutions:
        return Check(name, "ok", "no evolution runs")
    if bad := [(each.run_id, *problem) for each in evolutions if (problem := _problem(each)) is not None]:
        found = first([f"{run_id}: {words}" for run_id, words, _ in bad])
        return Check(name, "bad", found, "the progress that is shown is not to be trusted", bad[-1][2])
    for each in evolutions:
        if each.paused:
            text = "no new job starts; running ones finish and are kept"
            return Check(name, "note", f"paused: {each.run_id} ({each.paused})", text, str(each.paused.remedy(each.run_id)))  # fmt: skip
    shown = [f"{each.run_id} {each.last_shown:.0f} s ago" for each in evolutions if each.last_shown is not None]
    return Check(name, "ok", f"{len(evolutions)} evolutions run", f"last shown: {first(shown)}" if shown else "")


def _problem(found: EvolutionStatus) -> tuple[str, str] | None:
    """Problem and remedy of an evolution; None when there is no problem."""
    run, behind = found.run_id, (found.last_shown or 0.0) - found.idle
    if found.problem:
        return (
            found.problem,
            f"it runs, and nobody sees how: look at its files with coral runs, and restore them in {run}",
        )
    if not found.has_process:
        return "its flow run says Running and its process is gone", f"coral resume {run}"
    if found.paused and found.paused.reason is Reason.UNREADABLE:
        return f"it is paused: {found.paused.problem}", found.paused.advice
    if behind > BEHIND_SECONDS and found.idle > BEHIND_SECONDS:
        words = f"artifacts are {behind:.0f} s behind its last job"
        return words, f"coral logs {run} --level warning says why they could not be written"
    if found.idle > 2 * found.limit and not found.paused:
        words = f"no job has finished for {found.idle / 60:.0f} minutes"
        return words, f"coral jobs shows what it waits for; coral logs {run} what it says"
    return None
