"""Our own Prefect events: what notices (deployments/automations) and people in the event feed hear of an evolution.

Resource ``coral.evolution.<run id>``; names begin with ``coral.evolution.`` (docs/notices.md lists them). Prefect's
events worker sends them from a thread of its own, so nothing here waits for the server, and nothing here raises: a
lost event costs a notice, never a search. Volume is bounded: `job_finished` sends one event in `PROGRESS_SECONDS`.
Not covered: what becomes of an event, which is the business of automations.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any

from prefect.events import Event, emit_event

from coral_core.ledger import Standing
from flows.prefect_api.prefect_client import api_in_use

log = logging.getLogger("coral.events")

PREFIX = "coral.evolution."
PROGRESS_SECONDS = 30.0
"""Seconds between two `job-finished` events of one evolution: an event takes some kilobytes of the server's database."""


@dataclass
class _Told:
    """What this process has told of one evolution."""

    paused: str = ""
    progress: float = float("-inf")
    last: Event | None = None
    """The last event that starts or stops the clock of `coral: no progress`: the server handles events side by side."""


_told: dict[str, _Told] = {}


def evolution_started(run_id: str, generations: int, start: str) -> None:
    """The evolution runs (also: runs again); `start` says what its first population comes from."""
    _told[run_id] = _Told()
    _emit("started", run_id, f"{run_id} runs: at most {generations} generations. {start}", generations=generations)


def evolution_ended(run_id: str, outcome: str, best: str, best_fitness: float | None, error: str = "") -> None:
    """The evolution is `finished`, `stopped` or `failed`, this by `error`."""
    champion = f" Best: {best}, fitness {best_fitness:.3f}." if best and best_fitness is not None else ""
    text = f"{run_id} {outcome}: {error.rstrip('.')}.{champion}" if error else f"{run_id} {outcome}.{champion}"
    _emit("ended", run_id, text, outcome=outcome, best=best, best_fitness=best_fitness, error=error)
    _told.pop(run_id, None)


def champion_found(
    run_id: str, genome_id: str, generation: int, fitness: float, pass_at_1: float | None, before: float | None
) -> None:
    """A generation ended with another champion; `before` is the fitness of the one it replaces."""
    repairs = f", repairs {pass_at_1:.0%} of the fitness bugs" if pass_at_1 is not None else ""
    _emit(
        "champion-found",
        run_id,
        f"{run_id}: {genome_id} is the champion after generation {generation}: fitness {fitness:.3f}"
        + (f" (before: {before:.3f})" if before is not None else "")
        + f"{repairs}.",
        genome=genome_id,
        generation=generation,
        fitness=fitness,
        before=before,
        pass_at_1=pass_at_1,
    )


def job_finished(run_id: str, done: int, expected: int, last: str) -> None:
    """Progress: a job is done (or was found in the store); one event in `PROGRESS_SECONDS`, none during a pause."""
    told = _told.setdefault(run_id, _Told())
    now = time.monotonic()
    if told.paused or now - told.progress < PROGRESS_SECONDS:
        return
    told.progress = now
    _emit("job-finished", run_id, f"{run_id}: {done} of {expected} jobs; {last}.", done=done, expected=expected)


def budget_reached(run_id: str, percent: int, standing: str, goes_on: str = "") -> None:
    """80 % of a limit is spent; or (100) all of it is, or what is left has no room for another job."""
    share = f"has used {percent} % of its budget" if percent < 100 else "has no budget left for another job"
    text = f"{run_id} {share}. {standing}".strip()
    _emit(
        "budget-reached",
        run_id,
        text,
        {"coral.budget.percent": str(percent)},
        percent=percent,
        standing=standing,
        goes_on=goes_on,
    )


def goes_on_text(run_id: str, standing: Standing) -> str:
    """How an evolution goes on that the budget holds; empty when it holds none."""
    return str(standing.closed.remedy(run_id)) if standing.closed else ""


def standing_text(standing: Standing) -> str:
    """What is spent of which limit."""
    parts = [
        f"{whose}: {spent:.4g} of {limit:g} {unit}."
        for whose, limits, spent_all in (
            ("This evolution", standing.limits.evolution, standing.spent),
            ("Today, all evolutions", standing.limits.day, standing.today),
        )
        for limit, spent, unit in (
            (limits.gpu_hours, spent_all.gpu_hours, "GPU hours"),
            (limits.money, spent_all.money, standing.currency),
        )
        if limit is not None
    ]
    return " ".join(parts)


def paused(run_id: str, why: str) -> None:
    """No new job starts; told once until `resumed`."""
    told = _told.setdefault(run_id, _Told())
    if told.paused == why:
        return
    told.paused = why
    _emit("paused", run_id, f"{run_id} is paused: {why}", why=why)


def resumed(run_id: str) -> None:
    """Jobs start again after a pause; nothing is told when there was none."""
    told = _told.setdefault(run_id, _Told())
    if not told.paused:
        return
    told.paused = ""
    _emit("resumed", run_id, f"{run_id} goes on.")


CLOCK = ("started", "job-finished", "paused", "resumed", "ended")
WAITS = ("paused", "resumed", "ended")
"""Events that the server takes after the one before, so that a pause never overtakes the start of what it pauses."""


def _emit(name: str, run_id: str, text: str, labels: dict[str, str] | None = None, **payload: Any) -> None:
    if not api_in_use():  # Prefect would start a server of its own for the event
        return
    told = _told.setdefault(run_id, _Told())
    resource = {"prefect.resource.id": f"{PREFIX}{run_id}", "prefect.resource.name": run_id, **(labels or {})}
    try:
        sent = emit_event(
            event=f"{PREFIX}{name}",
            resource=resource,
            payload={"text": text, "run_id": run_id, **payload},
            follows=told.last if name in WAITS else None,
        )
        if name in CLOCK:
            told.last = sent
    except Exception as error:  # an event must never stop the search
        log.warning("the event %s%s could not be sent: %s", PREFIX, name, error)
