"""`coral evolve --dry-run`: what would run, from the store as it is; starts nothing."""

import json
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from coral_core.config import RunConfig
from coral_core.genome import HeavyGenes, default_lora
from coral_core.identities import Identities, frozen_identities
from coral_core.lm.base import identify
from coral_core.plan import Planner
from coral_core.run import RunFolder, identify_run, run_folders
from coral_core.search.base import make_search
from coral_core.start import find_start, read_start
from coral_core.store import Store
from flows.cli.foreign import words

SECONDS_TRAINING = 7.0
SECONDS_EVALUATION = 4.0
"""Per job on one core of a laptop with coral-tiny; replaced by the store's own costs where there are any."""


def dry_run(config: RunConfig, edition: int, as_json: bool) -> None:
    """Print the plan: jobs at most, what the store already has of the first generation, estimated time."""
    identity = identify_run(config, edition)
    folder = RunFolder(Path(config.runs).expanduser() / identity.run_id)
    planner = Planner(config, identity, frozen_identities(folder, config.infra))
    if planner.lanes is None and config.infra.executor != "work-pools":
        planner.lanes = Identities.alike(identify(config.base_model))
    start = read_start(folder) or find_start(config, identity.run_id)
    search = make_search(config.model_copy(update={"seed": identity.run_seed}), start.genomes)
    first = search.ask()
    adapters = {genome.heavy.digest(): genome.heavy for genome in first}
    stored = _stored(Store(config.store.path), planner, adapters.values()) if planner.lanes else None
    fresh = config.search.population - (config.search.elites if config.search.strategy == "evolution" else 0)
    later = (config.search.generations - 1) * fresh
    trainings = len(adapters) + later + 1 + config.search.champion_repeats
    evaluations = (
        len(first)
        + later
        + 2
        + (config.search.generations if config.problems.monitor else 0)
        + 4
        + config.search.champion_repeats
    )
    training_seconds, evaluation_seconds = _pace(config)
    lanes = {"inline": 1, "local": config.infra.local_lanes or 2, "work-pools": config.infra.training.lanes}[
        config.infra.executor
    ]
    seconds = (trainings * training_seconds + evaluations * evaluation_seconds) / lanes
    plan = {
        "run_id": identity.run_id,
        "default_lora": default_lora(config.base_model.name).model_dump(mode="json"),
        "starts_from": start.previous.run_id if start.genomes and start.previous else None,
        "generations": config.search.generations,
        "population": config.search.population,
        "trainings_at_most": trainings,
        "evaluations_at_most": evaluations,
        "first_generation": {"adapters": len(adapters), "in_store": stored},
        "estimated_seconds": round(seconds),
        "genomes": [genome.model_dump(mode="json", exclude={"automaton"}) for genome in first],
    }
    if as_json:
        print(json.dumps(plan, indent=1))
        return
    out = Console(highlight=False)
    out.print(f"run [bold]{identity.run_id}[/] (nothing was started)")
    out.print(
        f"{config.search.generations} generations of {config.search.population} genomes by {config.search.strategy}"
    )
    if start.start_from != "nothing":
        out.print(words(start.text))
    out.print(f"at most {trainings} trainings and {evaluations} evaluations on {lanes} lanes")
    known = "how many of them the store has depends on the lanes' machines" if stored is None else f"{stored} of them in the store already"  # fmt: skip
    out.print(f"first generation: {len(adapters)} distinct adapters, {known}")
    out.print(f"estimated {seconds / 60:.1f} minutes when nothing is reused")


def _stored(store: Store, planner: Planner, adapters: Iterable[HeavyGenes]) -> int:
    return sum(store.adapter_path(planner.training(heavy).digest()).exists() for heavy in adapters)


def _pace(config: RunConfig) -> tuple[float, float]:
    """Mean seconds of a training and of an evaluation in the latest run of this machine, or the defaults."""
    for folder in reversed(run_folders(config.runs)):
        timings = [t for t in folder.timings() if t.type == "job" and not t.cached]
        pace = []
        for kind, default in (("training", SECONDS_TRAINING), ("evaluation", SECONDS_EVALUATION)):
            seconds = [t.cost.seconds for t in timings if t.type == "job" and t.kind == kind]
            pace.append(sum(seconds) / len(seconds) if seconds else default)
        if timings:
            return pace[0], pace[1]
    return SECONDS_TRAINING, SECONDS_EVALUATION
