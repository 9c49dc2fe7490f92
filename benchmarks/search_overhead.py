"""Processor time that a strategy needs per genome, without trainings: ask and tell, with five objectives.

Scores come from a digest of the genes. One search per strategy: four generations of 1,000 genomes; of 32 for the samplers of
Optuna that estimate densities, which would take hours. Evolution is measured with its models (`search.surrogate`) and without
them. Beside it stands one training of the quickstart. Times are process CPU time, so other load does not count.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import QUICKSTART, write
from coral_core.config import RunConfig, load_config
from coral_core.config.strategy_names import STRATEGIES
from coral_core.digest import seed_from
from coral_core.evolution.job_runner import Planner
from coral_core.genome import Genome, default_lora
from coral_core.lanes.lane import training_request
from coral_core.lm.engine_client import EngineProcess
from coral_core.search.archive import Scored
from coral_core.search.selection import fitness
from coral_core.search.strategy import make_search

OBJECTIVES = ("bugfix", "retention", "cost", "runtime", "style")
POPULATION, SMALL = 1000, 32
GENERATIONS = 4
GOAL_MS = 2.0
GOAL_SHARE = 0.01
"""Of a training, with models."""
WITHOUT_MODELS = "evolution without models"


def scored(genome: Genome, config: RunConfig) -> Scored:
    numbers = {name: seed_from(name, genome.genes_digest()) % 1001 / 1000 for name in OBJECTIVES}
    return Scored(genome=genome, scores=numbers, fitness=fitness(numbers, config.scoring.weights))


def measured(strategy: str, population: int) -> dict[str, Any]:
    """Milliseconds of CPU time per genome in each generation: ask and tell, and naming champion and front."""
    config = RunConfig.model_validate(
        {
            "search": {
                "strategy": strategy.removesuffix(" without models"), "population": population, "generations": GENERATIONS,
                "early_stopping": {"enabled": False}, "surrogate": {"enabled": strategy != WITHOUT_MODELS},
            },
            "scoring": {"roles": dict.fromkeys(OBJECTIVES, "objective")},
            "genes": {"heavy": {"rank": [1, 2, 4, 8, 16, 32, 64, 128]}},
        }
    )  # fmt: skip
    small = config.search.model_copy(update={"population": 8})
    warm = make_search(config.model_copy(update={"search": small}))  # imports and the calibration of automata
    warm.tell([scored(genome, config) for genome in warm.ask()])
    warm.best(), warm.front()
    search, spent = make_search(config), []
    while not search.done:
        began = time.process_time()
        genomes = search.ask()
        asked = time.process_time()
        results = [scored(genome, config) for genome in genomes]
        told = time.process_time()
        search.tell(results)
        search.best(), search.front()
        ended = time.process_time()
        spent.append((asked - began + ended - told) * 1e3 / len(genomes))
    return {
        "population": population,
        "ms_per_genome": [round(each, 3) for each in spent],
        "worst_ms_per_genome": round(max(spent), 3),
        "version": search.version,
    }


def training_seconds() -> float:
    """CPU seconds of one training of the quickstart: the default LoRA."""
    config = load_config(QUICKSTART)
    job = Planner.of_config(config).training(default_lora(config.base_model.name))
    engine = EngineProcess()
    try:
        engine.load(config.base_model)
        with tempfile.TemporaryDirectory() as folder:
            return engine.train(training_request(job, Path(folder)), 1800).cost.cpu_seconds
    finally:
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", nargs="*", default=[*STRATEGIES, WITHOUT_MODELS])
    arguments = parser.parse_args()
    training = training_seconds()
    found = {}
    for name in arguments.strategies:
        found[name] = measured(name, SMALL if name.startswith("tpe") else POPULATION)
        found[name]["share_of_a_training"] = round(found[name]["worst_ms_per_genome"] / 1e3 / training, 5)
        print(name, found[name], flush=True)
    if {*STRATEGIES} <= set(found):
        write(
            "search_overhead",
            {
                "objectives": list(OBJECTIVES),
                "goal_ms": GOAL_MS,
                "goal_share": GOAL_SHARE,
                "training_cpu_seconds": training,
                "strategies": found,
            },
        )


if __name__ == "__main__":
    main()
