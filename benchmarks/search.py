"""Strategies played on gene tables over seeds: evolution against random, grid, Sobol, TPE and NSGA-II at equal trainings.

    python -m benchmarks.search TABLE [TABLE ...]        plays, and writes results/search.json
    python -m benchmarks.search --check                  computes p and A12 again from the raw data in it
    python -m benchmarks.search TABLE --into DIR --seeds 50 --variants "few=evolution:search.surrogate.children=4"

Beside the strategies, variants of evolution are played, each with one part switched off or exchanged: the ablations. They are
written as for `coral compare`, and compared with evolution as it is, at the smallest budget.

Each strategy is played with each seed at each budget, as it would run: a search knows its budget. The champion is valued by
the mean of its replicates, and by those that the search did not see; the front by the mean of its genomes. Raw values of
all seeds are in the JSON. Defaults may be tuned on one table; the last table that is named is the one whose comparisons
stand at the top.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, write
from coral_core.comparison.plan import Variant
from coral_core.comparison.seed_statistics import a12, a12_interval, wilcoxon
from coral_core.config import dump_yaml, parse_config
from coral_core.config.tree import SearchConfig
from coral_core.errors import TableError
from coral_core.search.play import play
from coral_core.search.strategy import make_search
from coral_core.search.tables import Table

OURS = "evolution"
STRATEGIES = (OURS, "random", "grid", "sobol", "tpe", "tpe-fitness", "nsga2", "fixed")
ABLATIONS = (
    "no finalists=evolution:search.finalist_share=0",
    "no models=evolution:search.surrogate.enabled=false",
    "all children for the champion=evolution:search.surrogate.front_share=0",
    "all children for the front=evolution:search.surrogate.front_share=1",
    "4 children=evolution:search.surrogate.children=4",
    "automata=evolution:search.variation.seeds=automaton",
    "automata also later=evolution:search.variation.seeds=automaton,search.variation.seed_rate=0.35",
    "uniform seeds=evolution:search.variation.seeds=uniform",
    "one draw per seed=evolution:search.diversity.spread=1",
    "a third seeds later=evolution:search.variation.seed_rate=0.35",
    "two elites=evolution:search.elites=2",
    "tournament=evolution:search.selection=tournament",
)
BUDGETS = (32, 48)
METRICS = ("champion", "unseen", "hypervolume")
"""Of the champion: fitness by the mean of all replicates, and by those that the search did not see; None when its repeats have seen
all."""
MOST_GENERATIONS = 10_000
DIGITS = 6
"""Decimals of raw values."""
TABLES = Path(__file__).parent / "tables"


@lru_cache(maxsize=1)
def _table(folder: Path) -> Table:
    return Table.read(folder)


def played(folder: Path, variant: Variant, budget: int, seed: int) -> dict[str, Any]:
    """One play: values at the end, of the first generation, and after each training."""
    table = _table(folder)
    search = SearchConfig(strategy=variant.strategy, trainings=budget, generations=MOST_GENERATIONS)
    search = search.model_copy(update={"early_stopping": search.early_stopping.model_copy(update={"enabled": False})})
    config = table.config(seed, search)
    if variant.overrides:
        config = parse_config(dump_yaml(config), variant.name, variant.overrides)
    found = play(make_search(config), table, seed, budget)
    first = {scored.genome.heavy.digest() for scored in found.results if scored.genome.generation == 0}
    champion = [round(step.expected, DIGITS) for step in found.steps]
    unseen = [None if step.unseen is None else round(step.unseen, DIGITS) for step in found.steps]
    volume = [round(step.hypervolume, DIGITS) for step in found.steps]
    fill = budget - len(found.steps)  # a strategy that ended early keeps what it has
    return {
        "champion": champion + champion[-1:] * fill,
        "unseen": unseen + unseen[-1:] * fill,
        "hypervolume": volume + volume[-1:] * fill,
        "first": champion[len(first) - 1],
        "first_trainings": len(first),
        "trainings": len(found.steps),
    }


def measured(
    folder: Path, variants: Sequence[Variant], seeds: int, processes: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Raw values and median curves of each variant on one table, by budget."""
    with ProcessPoolExecutor(processes) as pool:
        for variant in variants:
            strategy = variant.name
            raw: dict[str, Any] = {}
            for budget in BUDGETS if strategy in STRATEGIES else BUDGETS[:1]:
                began = time.perf_counter()
                jobs = [(folder, variant, budget, seed) for seed in range(seeds)]
                plays = list(pool.map(played, *zip(*jobs, strict=True), chunksize=4))
                seconds = processes * (time.perf_counter() - began) / seeds
                raw[str(budget)] = {
                    **{metric: [one[metric][-1] for one in plays] for metric in METRICS},
                    **{key: [one[key] for one in plays] for key in ("first", "first_trainings", "trainings")},
                    **{f"{metric}_curve": curve([one[metric] for one in plays]) for metric in METRICS},
                }
                print(f"{folder.name} {strategy} {budget}: {seconds:.2f} s a play, " + ", ".join(
                    f"{metric} {raw[str(budget)][f'{metric}_curve'][-1]}" for metric in METRICS), flush=True)  # fmt: skip
            yield strategy, raw


def curve(plays: Iterable[Sequence[float | None]]) -> list[float | None]:
    """Median over seeds after each training; None where a seed has no value."""
    medians: list[float | None] = []
    for values in zip(*plays, strict=True):
        known = [value for value in values if value is not None]
        medians.append(round(statistics.median(known), DIGITS) if len(known) == len(values) else None)
    return medians


def comparisons(raw: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every metric, budget and baseline or ablation: ours against theirs, paired by seed.

    >>> ours = {"32": {"champion": [0.6, 0.7], "hypervolume": [0.2, 0.2]}}
    >>> theirs = {"32": {"champion": [0.5, 0.7], "hypervolume": [0.2, 0.3]}}
    >>> comparisons({"evolution": ours, "random": theirs})["champion_32_vs_random"]["a12"]
    0.625
    """
    found = {}
    for budget in raw[OURS]:
        for baseline in (name for name, budgets in raw.items() if name != OURS and budget in budgets):
            for metric in METRICS:
                ours, theirs = raw[OURS][budget][metric], raw[baseline][budget][metric]
                if None in ours or None in theirs:
                    continue
                interval = a12_interval(ours, theirs)
                found[f"{metric}_{budget}_vs_{baseline}"] = {
                    "a12": a12(ours, theirs),
                    "a12_interval": [interval.low, interval.high],
                    "p": wilcoxon(ours, theirs),
                    "seeds": len(ours),
                    "ours": statistics.median(ours),
                    "theirs": statistics.median(theirs),
                }
    return found


def breeding(raw: dict[str, Any]) -> dict[str, Any]:
    """The champion over the best of generation 0: by how much, p, share of seeds, and random's share at the same sizes."""
    found = {}
    for strategy in (OURS, "random"):
        for budget, values in raw.get(strategy, {}).items():
            better = [last > first for last, first in zip(values["champion"], values["first"], strict=True)]
            found[f"{strategy}_{budget}"] = {
                "first": statistics.median(values["first"]),
                "last": statistics.median(values["champion"]),
                "p": wilcoxon(values["champion"], values["first"]),
                "share_better": sum(better) / len(better),
                "seeds": len(better),
            }
    return found


def reached(raw: dict[str, Any]) -> dict[str, int | None]:
    """Trainings after which our median is as high as random's at the end; None: never."""
    found: dict[str, int | None] = {}
    for budget, values in raw[OURS].items():
        for metric in METRICS if "random" in raw else ():
            goal = raw["random"][budget][f"{metric}_curve"][-1]
            curve_ = values[f"{metric}_curve"]
            found[f"{metric}_{budget}"] = next(
                (n for n, value in enumerate(curve_, 1) if value is not None and value >= goal), None
            )
    return found


def unbiased(raw: dict[str, Any]) -> dict[str, Any] | None:
    """Without finalists, the champion against random's in the replicates that neither was chosen by; None where not played."""
    without, budget = raw.get("no finalists"), str(BUDGETS[0])
    if without is None or "random" not in raw:
        return None
    ours, theirs = without[budget]["unseen"], raw["random"][budget]["unseen"]
    interval = a12_interval(ours, theirs)
    return {"a12": a12(ours, theirs), "a12_interval": [interval.low, interval.high], "p": wilcoxon(ours, theirs)}


def result(tables: dict[str, Any]) -> dict[str, Any]:
    """The content of the JSON: comparisons of the last table at the top, and of each table with its raw values."""
    each = {}
    for name, raw in tables.items():
        baselines = {key: values for key, values in raw.items() if key in STRATEGIES}
        ablations = {key: values for key, values in raw.items() if key not in STRATEGIES or key == OURS}
        each[name] = {
            "comparisons": comparisons(baselines),
            "ablations": comparisons(ablations),
            "breeding": breeding(raw),
            "reached": reached(raw),
            "unbiased": unbiased(raw),
            "raw": raw,
        }
    last = list(each)[-1]
    shown = ("comparisons", "ablations", "breeding", "reached")
    return {"table": last, **{key: each[last][key] for key in shown}, "tables": each}


def check(path: Path) -> list[str]:
    """Differences between the figures in a JSON and those that its raw values give; empty when there are none."""
    found = json.loads(path.read_text())
    again = json.loads(json.dumps(result({name: each["raw"] for name, each in found["tables"].items()})))
    return [f"{path}: {key} is not what the raw values give" for key, value in again.items() if found.get(key) != value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", type=Path, help=f"folders; default: all complete ones in {TABLES}")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument("--variants", nargs="*", default=list(ABLATIONS), help="of evolution; default: the ablations")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--into", type=Path, default=RESULTS, help="folder of search.json")
    parser.add_argument(
        "--check", action="store_true", help="compute the figures again from the raw values, and exit 1 if they differ"
    )
    options = parser.parse_args()
    if options.check:
        if wrong := check(options.into / "search.json"):
            parser.exit(1, "\n".join(wrong) + "\n")
        print("all figures follow from the raw values")
        return
    if options.seeds < 2:
        parser.error("--seeds: at least 2")
    names = [OURS, *(name for name in options.strategies if name != OURS), *options.variants]
    variants = [Variant.parse(name) for name in names]
    tables: dict[str, Any] = {}
    for folder in options.tables or sorted(path for path in TABLES.iterdir() if path.is_dir()):
        table = Table.read(folder)
        if table.missing and not options.tables:
            print(f"{folder}: {len(table.missing)} rows are missing; left out")
            continue
        if table.missing:
            raise TableError(f"{folder}: {len(table.missing)} rows are missing", remedy="Make them: make gene-table.")
        raw = tables[table.name] = {}
        for name, values in measured(folder, variants, options.seeds, options.processes):
            raw[name] = values
            write("search", {"seeds": options.seeds, "budgets": BUDGETS, **result(tables)}, options.into)
    if not tables:
        parser.error(f"no complete gene table in {TABLES}")
    found = result(tables)
    for name, figures in (found["comparisons"] | found["ablations"]).items():
        print(
            f"{name:36s} A12 {figures['a12']:.3f}  p {figures['p']:.2g}  {figures['ours']:.4f} against {figures['theirs']:.4f}"
        )


if __name__ == "__main__":
    main()
