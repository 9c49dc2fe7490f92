"""Prefect events of an evolution, for the event feed and for the automations that send notices.

Their resource is ``coral.evolution.<run id>``, their names begin with ``coral.evolution.`` (docs/notices.md lists them).
Prefect's events worker sends them from its own thread, so no call here waits for the server, and none raises: a lost
event costs a notice, never a search. The volume is bounded: `changed` sends one event in `PROGRESS_SECONDS`.
Not covered: the automations that act on events (deployments/automations).
"""

import logging
import time
from typing import Any

from prefect.events import Event, emit_event

from coral_core.evolution.listener import Listener
from coral_core.ledger import Standing
from coral_core.runs.progress import Progress
from coral_core.runs.records import GenomeRecord, Outcome
from flows.prefect_api.prefect_client import api_in_use

log = logging.getLogger("coral.events")

PREFIX = "coral.evolution."
PROGRESS_SECONDS = 30.0
"""Seconds between two `job-finished` events of one evolution: an event takes some kilobytes of the server's database."""


CLOCK = ("started", "job-finished", "paused", "resumed", "ended")
WAITS = ("paused", "resumed", "ended")
"""Events that the server handles after the previous event of `CLOCK`, so that a pause never overtakes a start."""


class EventFeed(Listener):
    """Emits the events of one evolution."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._paused = ""
        self._progress = float("-inf")
        self._jobs = 0
        self._last: Event | None = None
        """Last event of `CLOCK`, which starts or stops the clock of the automation `coral: no progress`."""

    def started(self, progress: Progress, start: str) -> None:
        """Emit `started`, at the first start and at each resume.

        Args:
            progress: State of the run.
            start: Sentence that says what the run starts from.
        """
        self._jobs = _finished(progress)
        text = f"{self._run_id} runs: at most {progress.generations} generations. {start}"
        self._emit("started", text, generations=progress.generations)

    def ended(self, progress: Progress, outcome: Outcome, error: str) -> None:
        best = progress.best
        fitness = best.fitness if best else None
        champion = f" Best: {best.genome_id}, fitness {fitness:.3f}." if best and fitness is not None else ""
        why = f": {error.rstrip('.')}" if error else ""
        text = f"{self._run_id} {outcome}{why}.{champion}"
        self._emit(
            "ended", text, outcome=outcome, best=best.genome_id if best else "", best_fitness=fitness, error=error
        )

    def champion_found(self, champion: GenomeRecord, generation: int, before: float | None) -> None:
        name, fitness, passed = champion.genome.genome_id, champion.fitness or 0.0, champion.pass_at_1
        replaced = f" (before: {before:.3f})" if before is not None else ""
        repairs = f", repairs {passed:.0%} of the fitness bugs" if passed is not None else ""
        self._emit(
            "champion-found",
            f"{self._run_id}: {name} is the champion after generation {generation}: fitness {fitness:.3f}{replaced}{repairs}.",
            genome=name,
            generation=generation,
            fitness=fitness,
            before=before,
            pass_at_1=passed,
        )

    def changed(self, progress: Progress) -> None:
        """One event in `PROGRESS_SECONDS`, if a job has finished; none during a pause."""
        now, jobs = time.monotonic(), _finished(progress)
        if self._paused or jobs == self._jobs or now - self._progress < PROGRESS_SECONDS:
            return
        self._progress, self._jobs = now, jobs
        done, expected = progress.jobs_done, progress.jobs_expected
        last = progress.last_event.text if progress.last_event else ""
        text = f"{self._run_id}: {done} of {expected} jobs; {last}."
        self._emit("job-finished", text, done=done, expected=expected)

    def budget_reached(self, percent: int, standing: Standing) -> None:
        share = f"has used {percent} % of its budget" if percent < 100 else "has no budget left for another job"
        spent = standing_text(standing)
        goes_on = str(standing.closed.remedy(self._run_id)) if standing.closed else ""
        self._emit(
            "budget-reached",
            f"{self._run_id} {share}. {spent}".strip(),
            {"coral.budget.percent": str(percent)},
            percent=percent,
            standing=spent,
            goes_on=goes_on,
        )

    def paused(self, why: str) -> None:
        self._paused = why
        self._emit("paused", f"{self._run_id} is paused: {why}", why=why)

    def resumed(self) -> None:
        self._paused = ""
        self._emit("resumed", f"{self._run_id} goes on.")

    def _emit(self, name: str, text: str, labels: dict[str, str] | None = None, **payload: Any) -> None:
        if not api_in_use():  # Prefect would start a server of its own for the event
            return
        resource = {
            "prefect.resource.id": f"{PREFIX}{self._run_id}",
            "prefect.resource.name": self._run_id,
            **(labels or {}),
        }
        try:
            sent = emit_event(
                event=f"{PREFIX}{name}",
                resource=resource,
                payload={"text": text, "run_id": self._run_id, **payload},
                follows=self._last if name in WAITS else None,
            )
            if name in CLOCK:
                self._last = sent
        except Exception as error:  # an event must never stop the search
            log.warning("the event %s%s could not be sent: %s", PREFIX, name, error)


def _finished(progress: Progress) -> int:
    """Number of jobs that have ended, including those that were found in the store."""
    return sum(jobs.done + jobs.found for jobs in (progress.trainings, progress.evaluations))


def standing_text(standing: Standing) -> str:
    """One sentence for each limit, with what is spent of it; "" without limits."""
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
