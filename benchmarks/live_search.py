"""Strategies live, at equal trainings over seeds: evolution, with and without warm starts, against random search; held-out bugs.

    python -m benchmarks.live_search --seeds 20 --minutes 60                    coral-tiny, the quickstart's trainings
    python -m benchmarks.live_search --config configs/smollm2.yaml --seeds 3 --trainings 16 --minutes 90

`coral compare` with all that it checks: one store, problems and judge; a result that another run left is charged what it first
cost. Seeds are done one after the other; the same command goes on after the time limit or a stop. The result has a section
per base model, with the values of every seed.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import QUICKSTART, RESULTS, ROOT, commit, write
from coral_core import RunConfig, compare, load_config
from coral_core.comparison.summary import MEASURES, StrategyComparison

NAME = "live_search"
VARIANTS = ("evolution", "random", "new adapters=evolution:search.variation.warm_start_rate=0")
TRAININGS = 26
"""What the quickstart's generations train at most: 8, and 6 in each of three later ones."""


class OutOfTimeError(Exception):
    """The time limit of this session has passed."""


def configuration(options: argparse.Namespace) -> RunConfig:
    """The configuration that all variants share."""
    settings = {
        "runs": options.work / "runs",
        "store.path": options.work / "store",
        "search.champion_repeats": 0,
        "search.generations": 100,  # the trainings end it
        "problems.monitor": 0,
        "infra.executor": options.executor,
        "infra.training.minutes": 60,
        "infra.evaluation.minutes": 60,
    }
    return load_config(options.config, [*(f"{key}={value}" for key, value in settings.items()), *options.set])


def measured(options: argparse.Namespace) -> dict[str, Any] | None:
    """Do the seeds that are missing, and return the section of this base model; None before the first seed is whole."""
    config, deadline = configuration(options), time.monotonic() + 60 * options.minutes
    found: StrategyComparison | None = None

    def look(*_: object) -> None:
        if time.monotonic() > deadline:
            raise OutOfTimeError

    for seeds in range(1, options.seeds + 1):
        try:
            found = compare(
                config, options.variants, seeds=seeds, budget=f"trainings={options.trainings}", baseline="random",
                into=options.work / f"comparison-{config.name}", ended=look,
            )  # fmt: skip
        except (OutOfTimeError, KeyboardInterrupt):
            print("stopped; the same command goes on", flush=True)
            break
        print(f"{seeds} of {options.seeds} seeds", *found.conclusions, sep="\n  ", flush=True)
    return None if found is None else section(found)


def section(found: StrategyComparison) -> dict[str, Any]:
    """What the JSON keeps of a comparison: the values of each seed, medians, tests."""
    values = {
        variant.name: {
            key: [measure.value(outcome) for outcome in found.outcomes if outcome.variant == variant.name]
            for key, measure in MEASURES.items()
        }
        for variant in found.variants
    }
    return {
        "commit": commit(),
        "base_model": found.base_model_name,
        "problems": found.problems,
        "budget": str(found.budget),
        "seeds": found.seeds,
        "variants": {variant.name: variant.overrides for variant in found.variants},
        "values": values,
        "standings": [standing.model_dump(mode="json") for standing in found.standings],
        "tests": [test.model_dump(mode="json") for test in (*found.tests, *found.ablations)],
        "conclusions": found.conclusions,
        "notes": found.notes,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=QUICKSTART)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trainings", type=int, default=TRAININGS, help="of each variant with each seed")
    parser.add_argument("--minutes", type=float, default=60, help="begin no run after that")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--executor", default="local", choices=("local", "inline"))
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / NAME, help="runs and store, kept between sessions")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    made = measured(options)
    if made is None:
        return
    path = options.results / f"{NAME}.json"
    earlier = json.loads(path.read_text())["models"] if path.exists() else {}
    write(NAME, {"models": earlier | {made["base_model"]: made}}, options.results)


if __name__ == "__main__":
    main()
