"""`coral evolve --dry-run`: the plan of a run, with what the store already has; starts nothing.

The work is bounded, whatever the configuration says: steps that would take long are left out, and the output says so.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from coral_core.bounded_read import LINES, open_file
from coral_core.config import InfraConfig, RunConfig
from coral_core.config.strategy_names import OPTUNA, STRATEGIES
from coral_core.config.tree import BUG_CLASSES
from coral_core.durations import clock
from coral_core.errors import CoralError
from coral_core.evolution.job_runner import Planner
from coral_core.evolution.start_from import Start, find_start, read_start
from coral_core.genome import Genome, HeavyGenes, default_lora
from coral_core.lm.base_model import is_rehearsal, local_path
from coral_core.lm.baselines import tuned_loras
from coral_core.lm.model_check import seen
from coral_core.lm.targets import default_lora_of, for_model
from coral_core.report.wording import plural
from coral_core.runs.identities import Identities, frozen_identities
from coral_core.runs.job_count import JobCount, most_genomes, plan_jobs
from coral_core.runs.records import JobTiming
from coral_core.runs.run_folder import RunFolder, identify_run, run_folders
from coral_core.search.expression import drawing_seconds
from coral_core.search.strategy import make_search
from coral_core.store.store import Store
from flows.cli.markup import echo, print_json, words

SECONDS_TRAINING = 7.0
SECONDS_EVALUATION = 4.0
"""Seconds per job on one core of a laptop, with coral-tiny and the defaults; the base of a guess."""
SECONDS_FIRST_GENERATION = 1.5
"""Longest time that drawing the first generation may take here."""
SECONDS_POINT = 1e-3
"""Seconds that evolution needs for a first genome that is no automaton, in populations of about a thousand."""
SECONDS_TRIAL = 7e-3
"""Seconds that a sampler of Optuna needs for a first genome."""
DRAWS_PER_SEED = 3
"""Automata drawn for one seed, at a guess: seeds are drawn again until enough of them have adapters of their own."""
MOST_PAIRS = 400
MOST_PROBLEMS = 600
"""Largest numbers of training pairs and built-in problems that are built to look adapters up in the store."""
MOST_WEIGHTS = 128 * 2**20
"""Largest base model, in bytes, that is hashed for the same reason."""
MOST_RUNS = 20
"""Number of latest runs that are searched for a pace."""
MOST_TIMINGS = 2**20
"""Bytes that are read from the end of their timings."""


@dataclass(frozen=True)
class Lanes:
    """Largest numbers of jobs that run at a time: of each kind, and of both `together`."""

    training: int
    evaluation: int
    together: int

    def __str__(self) -> str:
        if self.together < self.training + self.evaluation:
            return f"{self.together} lane{'s' if self.together > 1 else ''}"
        return f"{self.training} training and {self.evaluation} evaluation lanes"


@dataclass(frozen=True)
class Pace:
    """Mean seconds of a training and of an evaluation, and the run that they were measured in ("": a guess)."""

    training: float
    evaluation: float
    run_id: str = ""


def dry_run(config: RunConfig, edition: int, as_json: bool, notes: Sequence[str] = ()) -> None:
    """Print the plan: largest number of jobs, adapters of the first generation in the store, estimated time.

    Args:
        config: A configuration that passed `coral_core.evolution.preflight.check`.
        edition: Of the run that would be.
        as_json: Print JSON.
        notes: What that check could not look at, one sentence each.
    """
    search = config.search
    identity = identify_run(config, edition)
    folder = RunFolder.of(config, identity)
    # where jobs run on this machine the evolution identifies the model again, so frozen identities are not used
    identities = frozen_identities(folder, config.infra) if config.infra.executor == "work-pools" else None
    planner = Planner(config, identity, identities)
    start = _start(folder, config)
    base = planner.lanes.training if planner.lanes else seen(config)
    seeded = (for_model(config, base) if base else config).model_copy(update={"seed": identity.run_seed})
    default = default_lora_of(base) if base else default_lora(config.base_model.name)
    first: tuple[Genome, ...] | None = None
    if _quickly_drawn(config):
        first = make_search(seeded, start.genomes, default).ask()
    adapters = {heavy.digest(): heavy for genome in first or () for heavy in genome.heavy.chain()}
    stored = _stored(planner, adapters.values()) if first is not None else None
    plan = plan_jobs(config, len(adapters) or None)
    jobs = plan.total
    lanes, pace = lanes_of(config.infra), find_pace(config)
    seconds = round(estimate(jobs, lanes, pace, search.population)) if pace else None
    from flows.cli.plan import as_data, job_plans, remarks_on, show

    planned = job_plans(config)
    if as_json:
        print_json({
            "run_id": identity.run_id,
            "default_lora": default,
            "baselines": search.baselines,
            "tuned_candidates": tuned_loras(base) if base and search.baselines == "tuned" else None,
            "starts_from": start.previous.run_id if start.genomes and start.previous else None,
            "generations": plan.generations,
            "population": search.population,
            "genomes_at_most": most_genomes(config),
            "trainings_at_most": jobs.trainings,
            "evaluations_at_most": jobs.evaluations,
            "first_generation": {"adapters": len(adapters) if first is not None else None, "in_store": stored},
            "lanes": asdict(lanes),
            "estimated_seconds": seconds,
            "pace_from": (pace.run_id or "guess") if pace else None,
            "jobs": [as_data(job) for job in planned],
            "not_checked": notes,
            "genomes": [genome.model_dump(mode="json", exclude={"automaton"}) for genome in first or ()],
        })  # fmt: skip
        return
    echo(f"run [bold]{identity.run_id}[/] (nothing was started)")
    genomes, size = most_genomes(config), min(search.population, most_genomes(config))
    echo(f"{plural(plan.generations, 'generation')} of {plural(size, 'genome')} by {search.strategy}, {genomes} in all")
    if start.start_from != "nothing":
        echo(words(start.text))
    if search.baselines == "tuned":
        tuned = plan_jobs(config).baselines
        echo(
            f"baselines: base model, default LoRA, tuned LoRA; at most {tuned.trainings} of the trainings are for them"
        )
    echo(f"at most {jobs.trainings} trainings and {jobs.evaluations} evaluations on {lanes}")
    drawn = f"{len(adapters)} distinct adapters" if first is not None else "not drawn here (the strategy is a plug-in, or a population of this size takes long)"  # fmt: skip
    known = f"{stored} of them in the store already" if stored is not None else "how many of them the store has is known when the evolution starts"  # fmt: skip
    echo(f"first generation: {drawn}; {known}", words(_estimate_text(config, seconds, pace)))
    if planned:
        show(planned, config)
        echo(*(words(remark, "yellow") for remark in remarks_on(config)))
    echo(*(words(f"not checked here: {note}", "dim") for note in notes))


def _quickly_drawn(config: RunConfig) -> bool:
    """Whether the first generation may be drawn here: it takes no long time, and runs no code of a plug-in."""
    search = config.search
    if search.strategy == "evolution":
        if search.variation.seeds != "automaton":
            return SECONDS_POINT * search.population < SECONDS_FIRST_GENERATION
        draws = DRAWS_PER_SEED * search.population * search.diversity.spread
        return drawing_seconds(config.automaton, draws) < SECONDS_FIRST_GENERATION
    if search.strategy in OPTUNA:
        return SECONDS_TRIAL * search.population < SECONDS_FIRST_GENERATION
    return search.strategy in STRATEGIES


def _start(folder: RunFolder, config: RunConfig) -> Start:
    """The start of the run; earlier runs are read only where it would start from one of them."""
    if (frozen := read_start(folder)) is not None:
        return frozen
    return find_start(config, folder.run_id) if config.search.start_from != "nothing" else Start()


def _stored(planner: Planner, adapters: Iterable[HeavyGenes]) -> int | None:
    """Number of `adapters` that the store has; None where their digests would take long to compute."""
    config, folder = planner.config, Store(planner.config.store.path).root / "adapters"
    if not folder.is_dir() or not any(os.scandir(folder)):
        return 0
    problems = config.problems
    foreign = {problems.source, problems.training.source} - {"auto", "builtin", "jsonl"}
    sizes = problems.fitness + problems.retention + problems.monitor + problems.held_out
    large = problems.pairs > MOST_PAIRS or (problems.source == "builtin" and sizes > MOST_PROBLEMS)
    if foreign or large or not set(problems.bug_classes) >= set(BUG_CLASSES):
        return None
    if planner.lanes is None:
        if config.infra.executor == "work-pools" or not _quickly_identified(config):
            return None
        planner.lanes = Identities.here(config)
    return sum((folder / planner.training(heavy).digest()).exists() for heavy in adapters)


def _quickly_identified(config: RunConfig) -> bool:
    """Whether the base model is on this machine and at most `MOST_WEIGHTS` large."""
    if is_rehearsal(config.base_model):
        return True
    folder = local_path(config.base_model)
    return (
        folder is not None and sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) <= MOST_WEIGHTS
    )


def lanes_of(infra: InfraConfig) -> Lanes:
    """Largest numbers of lanes of the executor, from its configuration (for `local` also this machine's cores)."""
    if infra.executor == "inline":
        return Lanes(1, 1, 1)
    training, evaluation = infra.training.lanes, infra.evaluation.lanes
    if infra.executor == "work-pools":
        return Lanes(training, evaluation, training + evaluation)
    together = infra.local_lanes or os.cpu_count() or 1
    return Lanes(min(training, together), min(evaluation, together), together)


def estimate(jobs: JobCount, lanes: Lanes, pace: Pace, population: int) -> float:
    """Estimated seconds of a run in which nothing is reused: the largest of three bounds.

    The bounds are the trainings on their lanes, the evaluations on theirs, and both kinds on all lanes together. Lanes
    beyond the size of a generation count as idle.

    Args:
        jobs: Largest numbers of trainings and evaluations.
        lanes: Lanes of each kind, and together.
        pace: Seconds per job.
        population: Genomes of a generation.
    """
    training, evaluation = jobs.trainings * pace.training, jobs.evaluations * pace.evaluation
    return max(
        training / min(lanes.training, population),
        evaluation / min(lanes.evaluation, population),
        (training + evaluation) / min(lanes.together, 2 * population),
    )


def _estimate_text(config: RunConfig, seconds: float | None, pace: Pace | None) -> str:
    if seconds is None or pace is None:
        return (
            f"no estimate: no earlier run here used the base model {config.base_model.name} with these sizes "
            f"(a job may take at most {config.infra.training.minutes:g} minutes of training, {config.infra.evaluation.minutes:g} of evaluation)"
        )
    origin = f"by the pace of {pace.run_id}" if pace.run_id else "a guess, from the pace of coral-tiny on a laptop: no run here had this base model and these sizes"  # fmt: skip
    return f"estimated {clock(seconds)} when nothing is reused ({origin})"


def find_pace(config: RunConfig) -> Pace | None:
    """The pace of the latest run whose jobs are comparable; without one a guess for coral-tiny, None for other models."""
    wanted = _kind(config)
    for folder in reversed(run_folders(config.runs)[-MOST_RUNS:]):
        with suppress(CoralError, OSError):
            if _kind(folder.config()) == wanted and (pace := _measured(folder)) is not None:
                return pace
    if config.base_model.name != "coral-tiny":
        return None
    default = RunConfig()
    work = config.training.steps * config.training.batch_size / (default.training.steps * default.training.batch_size)
    bugs = (config.problems.fitness + config.problems.retention) / (
        default.problems.fitness + default.problems.retention
    )
    return Pace(SECONDS_TRAINING * work, SECONDS_EVALUATION * bugs * config.generation.samples)


def _kind(config: RunConfig) -> tuple[object, ...]:
    """Everything that jobs must share to be comparable in time: model, recipe, decoding, problems, and where they run."""
    infra = config.infra
    where = (infra.training.deployment, infra.evaluation.deployment) if infra.executor == "work-pools" else ("here",)
    problems = (config.problems.source, config.problems.path, config.problems.fitness, config.problems.retention)
    return config.base_model, config.training, config.generation, config.genes.light.token_limit, problems, where


def _measured(folder: RunFolder) -> Pace | None:
    """Mean seconds of the jobs that a run did, without cache hits; None when it did none of one kind."""
    with open_file(folder.path / "timings.jsonl", LINES) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_TIMINGS))
        lines = file.read(MOST_TIMINGS).split(b"\n")
    seconds: dict[str, list[float]] = {"training": [], "evaluation": []}
    for line in lines:
        if b'"type":"job"' in line:
            with suppress(ValueError):
                timing = JobTiming.model_validate_json(line)
                if not timing.cached:
                    seconds[timing.kind].append(timing.cost.seconds)
    if not all(seconds.values()):
        return None
    means = {kind: sum(each) / len(each) for kind, each in seconds.items()}
    return Pace(means["training"], means["evaluation"], folder.run_id)
