"""The progress of a run as a document, for the summary in the Prefect UI and for `coral progress`."""

import time
from collections.abc import Sequence

from coral_core.durations import clock
from coral_core.report.document import Answer, Block, Code, Document, Facts, Section, Table, blocks, text
from coral_core.report.wording import device_text, heavy_text, light_text, number, plural, share
from coral_core.runs.progress import Progress
from coral_core.runs.records import Phase
from coral_core.runs.run_reader import GenerationDetail
from coral_core.runs.sessions import RunState

MOST_GENERATIONS = 12


def progress_document(progress: Progress, generations: Sequence[GenerationDetail] = ()) -> Document:
    """State, best genome, jobs, time and cost.

    Args:
        progress: Where the run stands.
        generations: All finished generations; the latest `MOST_GENERATIONS` are shown.
    """
    sections = (
        _best(progress),
        Section("jobs", "Jobs", (_jobs(progress),)),
        Section("cost", "Time and cost", (_spent(progress),)),
        *((_generations(generations),) if generations else ()),
    )
    return Document("", (_headline(progress), _facts(progress)), sections)


def _headline(progress: Progress) -> Answer:
    where = {
        Phase.SEARCHING: f"generation {(progress.generation or 0) + 1} of at most {progress.generations}",
        Phase.HELD_OUT: "opening the held-out split",
    }.get(progress.phase, str(progress.phase))
    go_on = Code(f"coral resume {progress.run_id}")
    match progress.status:
        case RunState.FINISHED:
            return Answer("Finished", more=(f"{progress.reason}.",))
        case RunState.PAUSED:
            remedy = (f" {progress.remedy.sentence} ", Code(progress.remedy.command)) if progress.remedy else ()
            return Answer("Paused", more=(f"in {where}: {progress.paused.rstrip('.')}.", *remedy))
        case RunState.FAILED:
            why = f"in {where}: {progress.error}"
            return Answer("Failed", more=(why, ". Mend that, then go on with ", go_on, "; finished work is kept."))
        case RunState.STOPPED:
            return Answer("Stopped", more=(f"in {where}. Go on with ", go_on, "; finished work is kept."))
    left = f", about {clock(progress.seconds_left)} left" if progress.seconds_left else ""
    waits = (f" No new job starts: {progress.paused}",) if progress.paused else ()
    return Answer("Running", more=(f"{where}, {progress.percent:.0f} % of the jobs done{left}.", *waits))


def _facts(progress: Progress) -> Block:
    population, cache = progress.population, progress.cache
    rows = [
        ("generations finished", f"{progress.generations_done} of at most {progress.generations}"),
        ("genomes evaluated", f"{population.evaluated}, of which {population.infeasible} infeasible"),
        ("distinct adapters", f"{population.unique_adapters}; {plural(cache.genomes_sharing_an_adapter, 'genome')} needed none of their own"),
        ("found in the store", f"{cache.hits} of {plural(cache.asked, 'job')} ({share(cache.rate)}) in the latest session"),
        ("Pareto front", f"{plural(progress.front, 'genome')}, hypervolume {number(progress.hypervolume)}"),
        *(
            (f"{name.replace('_', ' ').replace('lora', 'LoRA')} repairs", f"{share(value)} of the fitness bugs")
            for name, value in progress.baselines.items()
        ),
    ]  # fmt: skip
    if event := progress.last_event:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(event.when))
        rows.append(("last event", f"{event.text} ({when})"))
    return Facts(rows)


def _best(progress: Progress) -> Section:
    best = progress.best
    if best is None:
        return Section("best", "Best genome", (text("No genome is evaluated yet."),))
    result = f": fitness {number(best.fitness)}, repairs {share(best.pass_at_1)} of the fitness bugs, {best.trainable_parameters:,} trainable parameters"
    genes = f". {heavy_text(best.heavy)}; {light_text(best.light)}" if best.heavy else ""
    warning = "" if best.meets_thresholds else " It does not meet the final thresholds."
    names = sorted(best.scores)
    return Section("best", "Best genome", blocks(
        text(Code(best.genome_id), f"{result}{genes}.{warning}"),
        Table("Its scores", names, [[number(best.scores[name]) for name in names]]),
    ))  # fmt: skip


def _jobs(progress: Progress) -> Block:
    rows = [
        (name, tally.done, tally.running, "–" if tally.waiting is None else tally.waiting, tally.failed, tally.found)
        for name, tally in (("trainings", progress.trainings), ("evaluations", progress.evaluations))
    ]
    return Table("", ("<jobs", "done", "running", "waiting", "failed tries", "in store"), rows)


def _spent(progress: Progress) -> Block:
    times, cost, over = progress.time, progress.cost, progress.status is RunState.FINISHED

    def expected(value: float | None, digits: str) -> str:
        return "" if over or value is None else f" so far, {format(value, digits)} expected at the end"

    phases = f"baselines {clock(times.baselines)}, search {clock(times.searching)}, held-out {clock(times.held_out)}"
    rows = [
        ("wall clock", f"{clock(times.elapsed)} in {plural(progress.sessions, 'session')}"),
        ("by phase", phases),
        ("work in lanes", f"training {clock(times.training)}, evaluation {clock(times.evaluation)}"),
        *(
            (f"device in {name}s", device_text(device))
            for name, device in (("training", progress.device.training), ("evaluation", progress.device.evaluation))
            if device.seconds
        ),
        ("GPU hours", f"{cost.gpu_hours:.3g}{expected(cost.forecast_gpu_hours, '.3g')}"),
    ]
    if cost.money:
        rows.append((f"money, {cost.currency}", f"{cost.money:.2f}{expected(cost.forecast_money, '.2f')}"))
    if cost.used:
        rows.append(("budget", f"{cost.used:.0%} of the nearest limit is spent"))
    return Facts(rows)


def _generations(lines: Sequence[GenerationDetail]) -> Section:
    shown = lines[-MOST_GENERATIONS:]
    rows = [
        (line.generation, line.best or "–", number(line.best_fitness), number(line.mean_fitness), share(line.monitor_pass_at_1),
         number(line.hypervolume), line.unique_adapters, line.infeasible)
        for line in reversed(shown)
    ]  # fmt: skip
    columns = ("generation", "<best", "best fitness", "mean fitness", "monitor bugs", "hypervolume", "adapters", "infeasible")  # fmt: skip
    return Section("generations", "Generations", blocks(
        Table("", columns, rows),
        text(f"The latest {len(shown)} of {len(lines)}.") if len(shown) < len(lines) else None,
    ))  # fmt: skip
