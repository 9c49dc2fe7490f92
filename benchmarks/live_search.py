"""Strategies live, at equal trainings over seeds: evolution against random search and the tuned LoRA; held-out bugs.

    python -m benchmarks.live_search --seeds 20 --minutes 60 --set search.baselines=tuned    coral-tiny, the quickstart's trainings
    python -m benchmarks.live_search --config configs/smollm2.yaml --seeds 3 --trainings 16 --minutes 90

`coral compare` with all that it checks: one store, problems and judge; a result that another run left is charged what it first
cost. Seeds are done one after the other; the same command goes on after the time limit or a stop. The result has a section
per base model, with the values of every seed, and those of the LoRAs that the final table of each run compares its champion with.
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import QUICKSTART, RESULTS, ROOT, commit, write
from coral_core import RunConfig, compare, load_config
from coral_core.comparison.seed_statistics import a12, wilcoxon
from coral_core.comparison.summary import MEASURES, StrategyComparison
from coral_core.report.history_records import History
from coral_core.runs.run_folder import find_run

NAME = "live_search"
VARIANTS = ("evolution", "random")
TRAININGS = 26
"""What the quickstart's generations train at most: 8, and 6 in each of three later ones."""


LINES = ("champion", "base_model", "default_lora", "tuned_lora", "longer_lora")
"""Lines of a run's final table; `longer_lora` was trained as often as the champion, if that was more than once."""


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


def folder_of(options: argparse.Namespace) -> Path:
    """Folder of the comparison: page, data and runs."""
    work: Path = options.work
    return work / f"comparison-{configuration(options).name}"


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
                into=folder_of(options), ended=look,
            )  # fmt: skip
        except (OutOfTimeError, KeyboardInterrupt):
            print("stopped; the same command goes on", flush=True)
            break
        print(f"{seeds} of {options.seeds} seeds", *found.conclusions, sep="\n  ", flush=True)
    return None if found is None else section(found, folder_of(options) / "runs")


def section(found: StrategyComparison, runs: Path) -> dict[str, Any]:
    """What the JSON keeps of a comparison: the values of each seed, medians, tests, and the held-out lines of the runs in `runs`."""
    lines = {
        variant.name: held_out_lines([History.of(find_run(runs, outcome.run_id)) for outcome in found.outcomes if outcome.variant == variant.name])
        for variant in found.variants
    }  # fmt: skip
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
        "held_out_lines": lines,
        "champion_against": {name: against_loras(each) for name, each in lines.items()},
        "standings": [standing.model_dump(mode="json") for standing in found.standings],
        "tests": [test.model_dump(mode="json") for test in (*found.tests, *found.ablations)],
        "conclusions": found.conclusions,
        "notes": found.notes,
    }


def held_out_lines(histories: Sequence[History]) -> dict[str, list[float | None]]:
    """Line of the final table -> its held-out pass@1 with each seed; None where a run has no such line."""
    found = {line: [history.held_out(line) for history in histories] for line in LINES}
    return {
        line: [None if each is None else each.pass_at_1 for each in mine] for line, mine in found.items() if any(mine)
    }


def against_loras(lines: dict[str, list[float | None]]) -> dict[str, dict[str, float]]:
    """The champion against each other line, paired by seed, over the seeds that have both."""
    found = {}
    for line in lines.keys() - {"champion"}:
        pairs = [
            (ours, theirs)
            for ours, theirs in zip(lines["champion"], lines[line], strict=True)
            if ours is not None and theirs is not None
        ]
        if pairs:
            ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            found[line] = {
                "seeds": len(pairs),
                "ours": statistics.median(ours),
                "theirs": statistics.median(theirs),
                "difference": statistics.median(one - other for one, other in pairs),
                "better": sum(one > other for one, other in pairs),
                "worse": sum(one < other for one, other in pairs),
                "a12": a12(ours, theirs),
                "p": wilcoxon(ours, theirs),
            }
    return dict(sorted(found.items()))


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
    parser.add_argument("--page", type=Path, help="folder for a copy of the comparison: Markdown, pictures and data")
    options = parser.parse_args(arguments)
    made = measured(options)
    if made is None:
        return
    if options.page is not None:
        options.page.mkdir(parents=True, exist_ok=True)
        for name in ("comparison.md", "comparison.json", "pictures"):
            source, target = folder_of(options) / name, options.page / name
            shutil.copytree(source, target, dirs_exist_ok=True) if source.is_dir() else shutil.copy(source, target)
    path = options.results / f"{NAME}.json"
    earlier = json.loads(path.read_text())["models"] if path.exists() else {}
    write(NAME, {"models": earlier | {made["base_model"]: made}}, options.results)


if __name__ == "__main__":
    main()
