"""Where one evolution stands, derived from its files alone: ``coral progress RUN --json``.

Nothing is counted up anywhere and written back: every figure is a sum over records that were appended once
(history.jsonl, timings.jsonl), over what lanes keep (queue, ledger) and over what the store holds. So it is right when two
lanes finish at once, and says the same after a restart. Not covered: what the champion is worth (report).
"""

import time
from typing import Any, Literal

from coral_core.errors import StoreError
from coral_core.ledger import Ledger, Standing
from coral_core.queue import JobQueue
from coral_core.runs.job_count import plan_jobs
from coral_core.runs.progress_content import Best, Cache, Event, Money, Population, Progress, Tally, Times
from coral_core.runs.run_folder import RunFolder
from coral_core.runs.run_reader import Jobs, Kind, Line, RunReading
from coral_core.runs.sessions import standing as status_of
from coral_core.store.store import Store

__all__ = ["Best", "Event", "Money", "Progress", "Tally", "build_progress", "progress_of"]

BEATS_SECONDS = 30.0
"""An account that was written longer ago is of a lane that is gone."""
HOUR = 3600.0


def build_progress(folder: RunFolder, store: Store) -> Progress:
    """Where the run in `folder` stands. Raises `ConfigError` when its configuration cannot be read."""
    return progress_of(RunReading(folder, store).refresh())


def progress_of(reading: RunReading, ledger: Ledger | None = None) -> Progress:
    """The progress that an up-to-date `reading` tells; a `ledger` that is kept spares reading all accounts again."""
    config, folder = reading.config, reading.folder
    state = status_of(folder, reading.final is not None, reading.line)
    ledger = ledger or Ledger(reading.store)
    standing, closed = _standing(reading, ledger)
    running = _running(reading, ledger) if state == "running" else {}
    paused = closed if state == "running" else ""
    waits = bool(paused) and not any(working for working, _ in running.values())
    done = len(reading.generations)
    left = _generations_left(reading)
    latest = reading.generations[-1] if done else None
    seconds = _seconds_per_generation(reading)
    last = reading.last
    return Progress(
        run_id=folder.run_id,
        path=str(folder.path),
        name=config.name,
        strategy=config.search.strategy,
        base_model=config.base_model.name,
        executor=config.infra.executor,
        status="paused" if waits else state,
        error=str((reading.line or {}).get("error", "")) if state == "failed" else "",
        paused=paused,
        reason=reading.final["reason"] if reading.final else None,
        phase=_phase(reading),
        percent=_percent(reading),
        generation=min(done, config.search.generations - 1)
        if _phase(reading) == "searching"
        else done - 1
        if done
        else None,
        generations_done=done,
        generations=config.search.generations,
        best=_best(reading.best),
        baselines={name: None if row["infeasible"] else row["pass_at_1"] for name, row in reading.baselines.items()},
        population=_population(reading),
        trainings=_tally(reading, "training", running),
        evaluations=_tally(reading, "evaluation", running),
        cache=_cache(reading),
        hypervolume=latest.hypervolume if latest else None,
        front=len(latest.front) if latest else 0,
        time=_times(reading),
        seconds_left=_seconds_left(reading, seconds, left) if state == "running" and not paused else None,
        cost=_money(reading, standing, left),
        sessions=reading.sessions,
        started=reading.started or None,
        updated=_when(last),
        last_event=_event(last),
    )


def _phase(reading: RunReading) -> Literal["starting", "baselines", "searching", "held-out", "finished"]:
    if reading.final is not None:
        return "finished"
    done = len(reading.generations)
    if done >= reading.config.search.generations or (done and reading.stage == "held-out"):
        return "held-out"
    if len(reading.baselines) == 2:
        return "searching"
    return "baselines" if reading.last else "starting"


def _percent(reading: RunReading) -> float:
    """By jobs: a finished generation counts whole, the one under way by its finished jobs."""
    if reading.final is not None:
        return 100.0
    plan, done = plan_jobs(reading.config), len(reading.generations)
    now = min(len(reading.seen.get(done, ())), plan.generation(done).total) if done < plan.generations else 0
    jobs = (
        min(plan.baselines.total, reading.done_baselines)
        + plan.searched(done).total
        + now
        + min(plan.after_search.total, reading.done_held_out)
    )
    return round(100.0 * jobs / plan.total.total, 1)


def _best(line: Line | None) -> Best | None:
    if line is None or line.fitness is None:
        return None
    return Best(
        genome_id=line.genome_id,
        generation=line.generation,
        fitness=line.fitness,
        pass_at_1=line.pass_at_1,
        scores=line.scores,
        meets_thresholds=line.meets,
        trainable_parameters=line.parameters,
        heavy=line.genome.get("heavy"),
        light=line.genome.get("light"),
    )


def _population(reading: RunReading) -> Population:
    latest = reading.generations[-1] if reading.generations else None
    fresh = reading.fresh.values()
    return Population(
        size=reading.config.search.population,
        evaluated=reading.genomes + len(fresh),
        infeasible=reading.infeasible + sum(line.infeasible is not None for line in fresh),
        unique_adapters=_adapters(reading),
        unique_share=latest.adapters / latest.genomes if latest and latest.genomes else None,
    )


def _adapters(reading: RunReading) -> int:
    return len(reading.adapters | {line.adapter for line in reading.fresh.values()})


# -- jobs ----------------------------------------------------------------------------------


def _running(reading: RunReading, ledger: Ledger) -> dict[Kind, tuple[int, int | None]]:
    """Kind -> jobs of this run in lanes now, and those that wait for one (None: not on disk)."""
    run_id = reading.folder.run_id
    if reading.config.infra.executor == "work-pools":
        found: dict[Kind, tuple[int, int | None]] = {}
        kinds: tuple[Kind, Kind] = ("training", "evaluation")
        for kind in kinds:
            queue = JobQueue(reading.store, kind)
            claimed = {claim.digest for claim in queue.claims()}
            mine = [ticket.digest for ticket in queue.waiting(run_id)]
            working = sum(digest in claimed for digest in mine)
            found[kind] = (working, len(mine) - working)
        return found
    counts: dict[Kind, int] = {"training": 0, "evaluation": 0}
    try:
        accounts = ledger.accounts()
    except StoreError:
        return {}
    for account in accounts:
        if account.run_id == run_id and account.digest and not account.ended:
            counts[account.queue] += time.time() - account.seen < BEATS_SECONDS
    return {kind: (count, None) for kind, count in counts.items()}


def _tally(reading: RunReading, kind: Kind, running: dict[Kind, tuple[int, int | None]]) -> Tally:
    working, waiting = running.get(kind, (0, None))
    total: Jobs = reading.jobs[kind]
    return Tally(
        done=total.done, found=reading.session[kind].found, running=working, waiting=waiting, failed=total.failed
    )


def _cache(reading: RunReading) -> Cache:
    hits = sum(jobs.found for jobs in reading.session.values())
    asked = hits + sum(jobs.done for jobs in reading.session.values())
    return Cache(
        hits=hits,
        asked=asked,
        rate=hits / asked if asked else None,
        genomes_sharing_an_adapter=reading.genomes + len(reading.fresh) - _adapters(reading),
    )


# -- time and money ------------------------------------------------------------------------


def _times(reading: RunReading) -> Times:
    stages, jobs = reading.stages, reading.jobs
    return Times(
        elapsed=sum(stages.values()),
        baselines=stages["baselines"],
        searching=stages["searching"],
        held_out=stages["held-out"],
        training=jobs["training"].seconds,
        evaluation=jobs["evaluation"].seconds,
        waiting=jobs["training"].waited + jobs["evaluation"].waited,
    )


def _generations_left(reading: RunReading) -> float:
    """Generations still to come at most, the one under way by the share of its jobs that is open."""
    if _phase(reading) in ("held-out", "finished"):
        return 0.0
    done = len(reading.generations)
    whole = plan_jobs(reading.config).generation(done).total
    begun = min(1.0, len(reading.seen.get(done, ())) / max(1, whole))
    return max(0.0, reading.config.search.generations - done - begun)


def _end_left(reading: RunReading) -> float:
    """What is to come after the search, as a share of a generation by jobs."""
    if reading.final is not None:
        return 0.0
    plan = plan_jobs(reading.config)
    return max(0, plan.after_search.total - reading.done_held_out) / max(1, plan.later_generation.total)


def _seconds_per_generation(reading: RunReading) -> float | None:
    """Mean of the latest ten generations in which something was done."""
    spans = [span for number, span in sorted(reading.spans.items()) if number < len(reading.generations)][-10:]
    return sum(ended - began for began, ended in spans) / len(spans) if spans else None


def _seconds_left(reading: RunReading, per_generation: float | None, left: float) -> float | None:
    if reading.final is not None or per_generation is None:
        return None
    return per_generation * (left + _end_left(reading))


def _standing(reading: RunReading, ledger: Ledger) -> tuple[Standing | None, str]:
    """What the ledger says, and why it lets no job start; a ledger that cannot be read is a reason.

    Nothing for a run that never had a budget on record: it did not get to its first job.
    """
    run_id = reading.folder.run_id
    try:
        standing = ledger.standing(run_id)
    except StoreError as error:
        known = (reading.store.root / "ledger" / "budgets" / f"{run_id}.json").exists()
        return None, str(error) if known else ""
    return standing, standing.closed


def _money(reading: RunReading, standing: Standing | None, left: float) -> Money:
    price = reading.config.budget.price
    hours = {kind: jobs.seconds / HOUR for kind, jobs in reading.jobs.items()}
    worth = hours["training"] * price.training + hours["evaluation"] * price.evaluation
    spent, money = sum(hours.values()), worth
    from_ledger = standing is not None and standing.spent.gpu_hours > 0
    if standing is not None and from_ledger:
        spent, money = standing.spent.gpu_hours, standing.spent.money
    finished = len(reading.generations)
    whole = sum(number < finished for number in reading.spans)
    done = whole + max(0.0, reading.config.search.generations - finished - left) if whole else 0.0
    share = 1 + (left + _end_left(reading)) / done if reading.generations and done else None
    return Money(
        source="ledger" if from_ledger else "jobs",
        currency=standing.currency if standing else reading.config.budget.currency,
        gpu_hours=spent,
        money=money,
        in_flight_gpu_hours=standing.forecast.gpu_hours if standing else 0.0,
        forecast_gpu_hours=None if share is None else spent * share,
        forecast_money=None if share is None else money * share,
        used=standing.used if standing else 0.0,
    )


# -- the newest record ---------------------------------------------------------------------


def _when(row: dict[str, Any]) -> float | None:
    if not row:
        return None
    if row["type"] == "session":
        return float(row["started"]) + float(row["seconds"])
    return float(row["finished" if row["type"] == "job" else "when"])


def _event(row: dict[str, Any]) -> Event | None:
    """The newest record in words."""
    when = _when(row)
    if when is None:
        return None
    if row["type"] == "session":
        why = f": {row['error']}" if row.get("error") else ""
        text = f"session {row['outcome']}{why}"
    elif row["type"] == "failure":
        text = f"try of {row['kind']} {str(row['digest'])[:12]} failed: {row['message']}"
    else:
        how = "found in the store" if row["cached"] else f"done in {row['cost']['seconds']:.1f} s"
        text = f"{row['kind']} of {row['label']} {how}"
    return Event(text=text, when=when)
