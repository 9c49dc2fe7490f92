"""What the search's model of the fitness knows after a few trainings, with and without the size of the update as a coordinate.

    python -m benchmarks.surrogate_fit [TABLE ...] [--draws 100]

A model is fitted to random cells of a gene table at random light settings, one replicate each, and predicts all others. Its
prediction is compared with the mean of the replicates: the correlation, and the mean of the 20 genomes that it likes best.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import write
from benchmarks.search import TABLES
from coral_core.config import RunConfig
from coral_core.search.play import replicate_of
from coral_core.search.screening import point
from coral_core.search.selection import fitness
from coral_core.search.surrogate import Array, Surrogate
from coral_core.search.tables import Table

SIZES = (16, 32, 48)
BEST = 20
"""Genomes that the model likes best, whose mean is taken."""


def points_of(table: Table, config: RunConfig) -> dict[str, Array]:
    """Coordinates of every cell at every light setting, with and without the size of the update."""
    genomes = [table.genome(cell, light) for cell in range(len(table.cells)) for light in range(len(table.lights))]
    whole = np.array([point(genome.heavy, genome.light, config) for genome in genomes])
    return {"with": whole, "without": whole[:, :-1]}


def measured(folder: Path, draws: int) -> dict[str, Any]:
    """Correlations and means of the best, by number of trainings: means, and the mean difference with its standard error."""
    table = Table.read(folder)
    weights = table.facts.scoring.weights
    points = points_of(table, table.config(0))
    lights = len(table.lights)

    def value(index: int, seed: int | None = None) -> float:
        genome = table.genome(*divmod(index, lights))
        seen = (
            table.expected(genome) if seed is None else table.observed(genome, replicate_of(table, seed, genome.heavy))
        )
        return fitness(seen or {}, weights)

    truth = np.array([value(index) for index in range(len(points["with"]))])
    found: dict[str, Any] = {}
    for size in SIZES:
        rows: dict[str, list[tuple[float, float]]] = {name: [] for name in points}
        for seed in range(draws):
            rng = np.random.default_rng(seed)
            chosen = rng.choice(len(table.cells), size, replace=False) * lights + rng.integers(lights, size=size)
            seen = np.array([value(int(index), seed) for index in chosen])
            rest = np.setdiff1d(np.arange(len(truth)), chosen)
            for name, places in points.items():
                expected = Surrogate(places[chosen], seen).predict(places[rest])[0]
                liked = rest[np.argsort(-expected, kind="stable")[:BEST]]
                rows[name].append((float(np.corrcoef(expected, truth[rest])[0, 1]), float(truth[liked].mean())))
        for place, what in enumerate(("correlation", "best")):
            each = {name: [row[place] for row in rows[name]] for name in rows}
            gaps = [one - other for one, other in zip(each["with"], each["without"], strict=True)]
            found[f"{what}_{size}"] = {
                **{name: statistics.fmean(values) for name, values in each.items()},
                "difference": statistics.fmean(gaps),
                "standard_error": statistics.stdev(gaps) / len(gaps) ** 0.5,
            }
            print(f"{table.name} {size} trainings, {what}: " + ", ".join(f"{k} {v:.4f}" for k, v in found[f"{what}_{size}"].items()))  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", type=Path, help=f"folders; default: all complete ones in {TABLES}")
    parser.add_argument("--draws", type=int, default=100)
    options = parser.parse_args()
    if options.draws < 2:
        parser.error("--draws: at least 2")
    folders = options.tables or sorted(path for path in TABLES.iterdir() if any(path.glob("part-*.npz")))
    tables = {folder.name: measured(folder, options.draws) for folder in folders if not Table.read(folder).missing}
    if not tables:
        parser.error("no complete gene table: make gene-table")
    write("surrogate_fit", {"draws": options.draws, "tables": tables})


if __name__ == "__main__":
    main()
