"""Progress of one evolution, derived from its files: ``coral progress RUN --json`` (keys: docs/json.md).

No counter is stored. Every figure is computed from appended records (history.jsonl, timings.jsonl), from queue and ledger,
and from the store; so it is right when two lanes finish at the same time, and the same after a restart. Terminal,
artifacts and report use it. Within one `schema_version` keys are added but never renamed; an unknown value is null. Not
covered: the quality of the champion (report).
"""

import time
from array import array
from dataclasses import replace
from typing import Literal

from pydantic import Field

from coral_core.config.tree import InfraConfig
from coral_core.errors import StoreError
from coral_core.frozen import Frozen
from coral_core.ledger import Closure, Ledger, Remedy, Standing
from coral_core.queue.queue import JobQueue
from coral_core.runs.job_count import JobPlan, plan_jobs
from coral_core.runs.records import JobFailure, JobKind, Phase, SessionTiming, Timing, baseline_names
from coral_core.runs.run_folder import RunFolder
from coral_core.runs.run_reader import GenerationDetail, KnownGenome, ParetoPoint, RunReading
from coral_core.runs.sessions import DeviceUse, RunState, run_state
from coral_core.store.store import Store

KINDS: tuple[JobKind, JobKind] = ("training", "evaluation")
PROGRESS_SCHEMA_VERSION = 1
BEATS_SECONDS = 30.0
"""Age in seconds from which an account in the ledger is taken for that of a dead lane."""
HOUR = 3600.0
"""Seconds."""
COLUMNS = 180
"""Number of columns of `LaneUse`; the use within a column is averaged."""


class Leader(KnownGenome):
    """One of the fittest genomes of finished generations, each once."""

    place: int


class Tally(Frozen):
    """Jobs of one kind, all sessions of the run together."""

    done: int = Field(description="Jobs done by this run; results found in the store are not counted.")
    found: int = Field(description="Results that the latest session found in the store.")
    running: int = Field(description="Jobs in lanes now.")
    waiting: int | None = Field(
        description="Submitted jobs that are in no lane yet; null for executors whose queue is not on disk."
    )
    failed: int = Field(description="Failed attempts; most jobs are tried again.")


class Times(Frozen):
    """Seconds, all sessions together."""

    elapsed: float = Field(description="Wall clock, from the start of each session to its last job.")
    baselines: float = Field(description="Wall clock of the baselines.")
    searching: float = Field(description="Wall clock of the generations.")
    held_out: float = Field(description="Wall clock of the sealed split.")
    training: float = Field(description="Seconds of work of training lanes.")
    evaluation: float = Field(description="Seconds of work of evaluation lanes.")
    waiting: float = Field(description="Sum over jobs of the time between submission and work.")


class Money(Frozen):
    """Cost of the run so far, and a forecast of its whole cost."""

    source: Literal["ledger", "jobs"] = Field(
        description="ledger: all time that lanes were alive; jobs: working time only, when there is no ledger."
    )
    currency: str
    gpu_hours: float = Field(description="Lane hours so far.")
    money: float = Field(description="Their price so far.")
    in_flight_gpu_hours: float = Field(description="Forecast for the jobs that are in lanes.")
    forecast_gpu_hours: float | None = Field(
        description="Forecast for the whole run; null before the first finished generation."
    )
    forecast_money: float | None
    used: float = Field(description="Largest share of a limit that is spent; 0 without limits.")


class Cache(Frozen):
    """Results that were found in the store, so that their jobs were not done again."""

    hits: int = Field(description="Jobs of the latest session whose results were in the store.")
    asked: int = Field(description="Jobs of the latest session that have ended.")
    rate: float | None = Field(description="hits over asked.")
    genomes_sharing_an_adapter: int = Field(
        description="Genomes of finished generations that needed no adapter of their own."
    )


class Population(Frozen):
    """Genomes of finished generations, and of the one under way as far as they are evaluated."""

    size: int = Field(description="Genomes per generation.")
    evaluated: int
    infeasible: int
    unique_adapters: int = Field(description="Distinct trainings among them.")
    unique_share: float | None = Field(description="Distinct trainings over genomes in the latest finished generation.")


class Event(Frozen):
    """The newest record as text."""

    text: str
    when: float = Field(description="Unix time.")


class Progress(Frozen):
    """Progress of one evolution. Within a `schema_version` keys are added but never renamed; `str` gives one line."""

    schema_version: int = PROGRESS_SCHEMA_VERSION
    run_id: str
    path: str
    name: str
    strategy: str
    base_model: str
    executor: str
    status: RunState
    error: str = Field(description="The error that ended the latest session; empty unless the status is failed.")
    paused: str = Field(
        description="Why no new job starts; empty when jobs may. The status is paused once those in lanes have ended."
    )
    remedy: Remedy | None = Field(
        None, description="How a paused evolution can be continued: a sentence, and the command at its end."
    )
    reason: str | None = Field(description="Why the search ended; null before its end.")
    phase: Phase
    jobs_done: int = Field(description="Jobs that are settled: done, found in the store, or not needed.")
    jobs_expected: int = Field(description="Jobs that the run needs at most.")
    percent: float = Field(ge=0, le=100, description="jobs_done over jobs_expected.")
    generation: int | None = Field(
        description="Generation under way, from 0; the last one when none is. Null before the first."
    )
    generations_done: int
    generations: int = Field(description="Generations at most.")
    best: KnownGenome | None = Field(description="Fittest genome so far; at the end the champion.")
    baselines: dict[str, float | None] = Field(
        description="base_model, default_lora, tuned_lora -> share of the fitness bugs repaired."
    )
    population: Population
    trainings: Tally
    evaluations: Tally
    cache: Cache
    hypervolume: float | None
    front: int = Field(description="Genomes on the Pareto front.")
    time: Times
    device: DeviceUse
    seconds_left: float | None = Field(description="Estimate from the latest ten generations; null when there is none.")
    cost: Money
    sessions: int = Field(description="Times the run was started.")
    started: float | None = Field(description="Unix time at which the latest session began; null before its first job.")
    updated: float | None = Field(description="Unix time of the newest record.")
    last_event: Event | None

    def __str__(self) -> str:
        best = self.best.genome_id if self.best else "none yet"
        return f"{self.phase}: {self.jobs_done} of at most {self.jobs_expected} jobs, best {best}"


class LaneUse(Frozen):
    """Busy lanes over the latest session that did work, in columns of equal length."""

    at_most: int | None = Field(
        description="Largest number of lanes of both kinds together; null when it depends on the machine."
    )
    began: float = Field(description="Unix time.")
    seconds_per_column: float
    training: tuple[float, ...] = Field(description="Mean number of busy training lanes, by column.")
    evaluation: tuple[float, ...] = Field(description="Mean number of busy evaluation lanes, by column.")
    utilisation: float | None = Field(
        description="Mean number of busy lanes over at_most, whole session; null without at_most."
    )


class ProgressInFull(Progress):
    """`Progress` with the details that tables and pictures of artifacts and report show."""

    baseline_fitness: dict[str, float | None] = Field(description="base_model, default_lora, tuned_lora -> fitness.")
    by_generation: tuple[GenerationDetail, ...]
    leaders: tuple[Leader, ...] = Field(description="The 20 fittest, fittest first.")
    points: tuple[ParetoPoint, ...] = Field(description="All genomes of finished generations that have scores.")
    lanes: LaneUse | None = Field(description="Null before the first job is done.")


def build_progress(folder: RunFolder, store: Store) -> Progress:
    """Progress of one run, read from its files.

    Args:
        folder: Folder of the run.
        store: Store of the run.

    Raises:
        ConfigError: the configuration of the run cannot be read.
    """
    return progress_of(RunReading(folder, store).refresh())


def progress_of(reading: RunReading, ledger: Ledger | None = None) -> Progress:
    """Progress of one run, computed from an up-to-date reading.

    Args:
        reading: Reading of the run's files; call `refresh` before.
        ledger: Ledger of the store. A caller that keeps one avoids reading all accounts again; None makes a new one.
    """
    config, folder, work = reading.config, reading.folder, reading.work
    state = run_state(folder, work, finished=reading.final is not None)
    ledger = ledger or Ledger(reading.store)
    standing, closed = _standing(reading, ledger)
    running = _running(reading, ledger) if state is RunState.RUNNING else {}
    paused = closed if state is RunState.RUNNING else None
    if paused and not any(working for working, _ in running.values()):
        state = RunState.PAUSED
    done, phase = len(reading.generations), _phase(reading)
    latest = reading.generations[-1] if done else None
    under_way = done if phase is Phase.SEARCHING else done - 1
    expected = _plan(reading).total.total
    jobs = expected - _jobs_left(reading)
    return Progress(
        run_id=folder.run_id,
        path=str(folder.path),
        name=config.name,
        strategy=config.search.strategy,
        base_model=config.base_model.name,
        executor=config.infra.executor,
        status=state,
        error=work.error(state),
        paused=str(paused or ""),
        remedy=paused.remedy(folder.run_id) if paused else None,
        reason=reading.final.reason if reading.final else None,
        phase=phase,
        jobs_done=jobs,
        jobs_expected=expected,
        percent=round(100.0 * jobs / expected, 1),
        generation=under_way if under_way >= 0 else None,
        generations_done=done,
        generations=config.search.generations,
        best=reading.best,
        baselines={name: None if row.infeasible else row.pass_at_1 for name, row in reading.baselines.items()},
        population=_population(reading),
        trainings=_tally(reading, "training", running),
        evaluations=_tally(reading, "evaluation", running),
        cache=_cache(reading),
        hypervolume=latest.hypervolume if latest else None,
        front=len(reading.front),
        time=_times(reading),
        device=reading.work.device,
        seconds_left=_seconds_left(reading) if state is RunState.RUNNING and not paused else None,
        cost=_money(reading, standing),
        sessions=work.sessions,
        started=work.started or None,
        updated=_when(work.latest) if work.latest else None,
        last_event=_event(work.latest) if work.latest else None,
    )


def in_full(reading: RunReading, ledger: Ledger | None = None) -> ProgressInFull:
    """Progress of one run with the details that tables and pictures show.

    Args:
        reading: Reading of the run's files; call `refresh` before.
        ledger: As for `progress_of`.
    """
    return ProgressInFull(
        **dict(progress_of(reading, ledger)),
        baseline_fitness={name: row.fitness for name, row in reading.baselines.items()},
        by_generation=tuple(reading.generations),
        leaders=tuple(Leader(place=place, **dict(known)) for place, known in enumerate(reading.leaders, 1)),
        points=tuple(replace(point, on_front=name in reading.front) for name, point in reading.points.items()),
        lanes=lane_use(reading),
    )


def _phase(reading: RunReading) -> Phase:
    if reading.final is not None:
        return Phase.FINISHED
    done = len(reading.generations)
    if done >= reading.config.search.generations or (done and (Phase.HELD_OUT, None) in reading.work.finished):
        return Phase.HELD_OUT
    if _has_baselines(reading):
        return Phase.SEARCHING
    return Phase.BASELINES if reading.work.latest else Phase.STARTING


def _has_baselines(reading: RunReading) -> bool:
    """Whether all baselines are in the history."""
    return len(reading.baselines) == len(baseline_names(reading.config.search))


def _plan(reading: RunReading) -> JobPlan:
    """The jobs of the run at most. After the search the champion, and so the number of trainings of a repeat, is known."""
    over = _phase(reading) in (Phase.HELD_OUT, Phase.FINISHED)
    heavy = reading.champion.heavy if over and reading.champion else None
    return plan_jobs(reading.config, champion_trainings=heavy.trainings() if heavy else None)


def _jobs_left(reading: RunReading) -> int:
    """Jobs that the run still needs at most: none of finished generations, and the unfinished ones of the current stage."""
    if reading.final is not None:
        return 0
    plan, done, finished = _plan(reading), len(reading.generations), reading.work.finished
    stages = [
        (0 if _has_baselines(reading) else plan.baselines.total, finished.get((Phase.BASELINES, None), ())),
        (plan.after_search.total, finished.get((Phase.HELD_OUT, None), ())),
    ]
    if done < plan.generations:
        stages.append((plan.generation(done).total, finished.get((Phase.SEARCHING, done), ())))
    following = sum(plan.generation(number).total for number in range(done + 1, plan.generations))
    return following + sum(max(0, most - len(digests)) for most, digests in stages)


def _population(reading: RunReading) -> Population:
    latest = reading.generations[-1] if reading.generations else None
    fresh = reading.fresh.values()
    return Population(
        size=reading.config.search.population,
        evaluated=reading.genomes + len(fresh),
        infeasible=reading.infeasible + sum(genome.infeasible is not None for genome in fresh),
        unique_adapters=_adapters(reading),
        unique_share=latest.unique_adapters / latest.genomes if latest and latest.genomes else None,
    )


def _adapters(reading: RunReading) -> int:
    return len(reading.adapters | {genome.adapter for genome in reading.fresh.values()})


# -- jobs ----------------------------------------------------------------------------------


def _running(reading: RunReading, ledger: Ledger) -> dict[JobKind, tuple[int, int | None]]:
    """Kind -> number of jobs of this run in lanes, and number of waiting jobs (None: the queue is not on disk)."""
    run_id = reading.folder.run_id
    if reading.config.infra.executor == "work-pools":
        counts: dict[JobKind, tuple[int, int | None]] = {}
        for kind in KINDS:
            queue = JobQueue(reading.store, kind)
            claimed = {claim.digest for claim in queue.claims()}
            tickets = [ticket.digest for ticket in queue.waiting(run_id)]
            working = sum(digest in claimed for digest in tickets)
            counts[kind] = (working, len(tickets) - working)
        return counts
    try:
        accounts = ledger.accounts()
    except StoreError:
        return {}
    now = time.time()
    busy = [
        account.queue
        for account in accounts
        if account.run_id == run_id and account.digest and not account.ended and now - account.seen < BEATS_SECONDS
    ]
    return {kind: (busy.count(kind), None) for kind in KINDS}


def _tally(reading: RunReading, kind: JobKind, running: dict[JobKind, tuple[int, int | None]]) -> Tally:
    working, waiting = running.get(kind, (0, None))
    total, session = reading.work.jobs[kind], reading.work.session[kind]
    return Tally(done=total.done, found=session.found, running=working, waiting=waiting, failed=total.failed)


def _cache(reading: RunReading) -> Cache:
    session = reading.work.session.values()
    hits = sum(jobs.found for jobs in session)
    asked = hits + sum(jobs.done for jobs in session)
    return Cache(
        hits=hits,
        asked=asked,
        rate=hits / asked if asked else None,
        genomes_sharing_an_adapter=reading.genomes + len(reading.fresh) - _adapters(reading),
    )


def lane_use(reading: RunReading) -> LaneUse | None:
    """Use of lanes over the latest session that did any job; None before its first job is done.

    `reading` must be up to date.
    """
    spans = {kind: span for kind, span in reading.work.busy.items() if span}
    if not spans:
        return None
    began = min(min(span[::2]) for span in spans.values())
    width = max(1e-9, max(max(span[1::2]) for span in spans.values()) - began) / COLUMNS
    training, evaluation = (_columns(reading.work.busy[kind], began, width) for kind in KINDS)
    at_most = _most_lanes(reading.config.infra)
    busy = (sum(training) + sum(evaluation)) / COLUMNS
    return LaneUse(
        at_most=at_most or None,
        began=began,
        seconds_per_column=width,
        training=tuple(round(value, 4) for value in training),
        evaluation=tuple(round(value, 4) for value in evaluation),
        utilisation=round(busy / at_most, 4) if at_most else None,
    )


def _columns(span: "array[float]", began: float, width: float) -> list[float]:
    """Mean number of busy lanes in each column; `span` holds start and end of each job in turn (Unix time)."""
    columns = [0.0] * COLUMNS
    for start, end in zip(span[::2], span[1::2], strict=True):
        low, high = (start - began) / width, (end - began) / width
        for column in range(max(0, int(low)), min(COLUMNS - 1, int(high)) + 1):
            columns[column] += max(0.0, min(high, column + 1) - max(low, column))
    return columns


def _most_lanes(infra: InfraConfig) -> int:
    """Largest number of lanes of both kinds together; 0 when it depends on the machine."""
    return infra.training.lanes + infra.evaluation.lanes if infra.executor == "work-pools" else infra.local_lanes


# -- time and money ------------------------------------------------------------------------


def _times(reading: RunReading) -> Times:
    phases, training, evaluation = reading.work.phases, reading.work.jobs["training"], reading.work.jobs["evaluation"]
    return Times(
        elapsed=sum(phases.values()),
        baselines=phases[Phase.BASELINES],
        searching=phases[Phase.SEARCHING],
        held_out=phases[Phase.HELD_OUT],
        training=training.seconds,
        evaluation=evaluation.seconds,
        waiting=training.waited + evaluation.waited,
    )


def _generations_left(reading: RunReading) -> float:
    """Remaining work at most, in units of a generation."""
    return _jobs_left(reading) / max(1, _plan(reading).generation(1).total)


def _seconds_left(reading: RunReading) -> float | None:
    """Estimate from the mean duration of the latest ten generations that did any job; None before the first."""
    spans = [span for number, span in sorted(reading.work.spans.items()) if number < len(reading.generations)][-10:]
    if not spans:
        return None
    return sum(ended - began for began, ended in spans) / len(spans) * _generations_left(reading)


def _standing(reading: RunReading, ledger: Ledger) -> tuple[Standing | None, Closure | None]:
    """Standing of the budget, and the closure that lets no job start, if any.

    A ledger that cannot be read closes the budget, except for a run without a budget file, which has not begun its jobs.
    """
    run_id = reading.folder.run_id
    try:
        standing = ledger.standing(run_id)
    except StoreError as error:
        known = (reading.store.root / "ledger" / "budgets" / f"{run_id}.json").exists()
        return None, Closure.of_error(error) if known else None
    return standing, standing.closed


def _money(reading: RunReading, standing: Standing | None) -> Money:
    price, training, evaluation = (
        reading.config.budget.price,
        reading.work.jobs["training"],
        reading.work.jobs["evaluation"],
    )
    spent = (training.seconds + evaluation.seconds) / HOUR
    money = (training.seconds * price.training + evaluation.seconds * price.evaluation) / HOUR
    from_ledger = standing is not None and standing.spent.gpu_hours > 0
    if standing is not None and from_ledger:
        spent, money = standing.spent.gpu_hours, standing.spent.money
    factor = _forecast_factor(reading)
    return Money(
        source="ledger" if from_ledger else "jobs",
        currency=standing.currency if standing else reading.config.budget.currency,
        gpu_hours=spent,
        money=money,
        in_flight_gpu_hours=standing.forecast.gpu_hours if standing else 0.0,
        forecast_gpu_hours=None if factor is None else spent * factor,
        forecast_money=None if factor is None else money * factor,
        used=standing.used if standing else 0.0,
    )


def _forecast_factor(reading: RunReading) -> float | None:
    """Cost at the end of the run over the cost so far; None before the first finished generation."""
    plan, finished = _plan(reading), len(reading.generations)
    worked = sum(plan.generation(number).total for number in reading.work.spans if number < finished)
    if not worked:
        return None
    under_way = len(reading.work.finished.get((Phase.SEARCHING, finished), ()))
    return 1 + _jobs_left(reading) / (worked + under_way)


# -- the newest record ---------------------------------------------------------------------


def _when(newest: Timing) -> float:
    if isinstance(newest, SessionTiming):
        return newest.started + newest.seconds
    return newest.when if isinstance(newest, JobFailure) else newest.finished


def _event(newest: Timing) -> Event:
    """The newest record in words."""
    match newest:
        case SessionTiming():
            text = f"session {newest.outcome}" + (f": {newest.error}" if newest.error else "")
        case JobFailure():
            text = f"try of {newest.kind} {newest.digest[:12]} failed: {newest.message}"
        case _:
            how = "found in the store" if newest.cached else f"done in {newest.cost.seconds:.1f} s"
            text = f"{newest.kind} of {newest.label} {how}"
    return Event(text=text, when=_when(newest))
