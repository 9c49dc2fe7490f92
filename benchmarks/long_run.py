"""A long evolution with trivial jobs: database growth per genome, memory and speed from start to end.

Database: pages in use (SQLite's own count), between the end of the first tenth of the generations and the end, so
that the empty database is not counted. Memory: resident set of the control process, medians of the second, the middle
and the last tenth of the generations.
"""

import argparse
import json
import sqlite3
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.record import Bench, write

SETTINGS = [
    "base_model.name=rehearsal",
    "search.early_stopping.enabled=false",
    "problems.fitness=4",
    "problems.retention=2",
    "problems.monitor=0",
    "problems.held_out=4",
    "problems.pairs=8",
]


def database(path: Path) -> tuple[int, int]:
    """Bytes in use, and task runs."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    try:
        pages, free, size = (
            connection.execute(f"pragma {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size, connection.execute("select count(*) from task_run").fetchone()[0]
    finally:
        connection.close()


def resident(pid: int) -> float:
    """Resident set in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS"))


def generations_done(history: Path) -> int:
    return history.read_bytes().count(b'"type": "generation"') if history.exists() else 0


def watch(bench: Bench, overrides: list[str]) -> list[dict[str, Any]]:
    """Runs the evolution; a sample whenever a generation has ended."""
    process = subprocess.Popen(bench.command("long", *overrides), env=bench.environment, stdout=subprocess.DEVNULL)
    path = bench.folder / "home" / "prefect" / "prefect.db"
    samples: list[dict[str, Any]] = []
    while process.poll() is None:
        time.sleep(0.2)
        found = list((bench.folder / "long").glob("*/run.json"))
        done = generations_done(found[0].parent / "history.jsonl") if found else 0
        if done and (not samples or samples[-1]["generations"] != done):
            try:
                used, tasks = database(path)
                memory = resident(process.pid)
            except (OSError, sqlite3.Error, StopIteration):
                continue
            samples.append({"generations": done, "when": time.time(), "bytes": used, "task_runs": tasks, "rss": memory})
    if process.returncode:
        raise SystemExit(f"coral evolve ended with {process.returncode}")
    return samples


def part(samples: list[dict[str, Any]], low: float, high: float) -> list[dict[str, Any]]:
    """The samples between two shares of the run."""
    last = samples[-1]["generations"]
    return [sample for sample in samples if low * last <= sample["generations"] <= high * last]


def pace(samples: list[dict[str, Any]], population: int) -> float:
    """Seconds per genome."""
    first, last = samples[0], samples[-1]
    seconds = float(last["when"] - first["when"])
    return seconds / max(1, int(last["generations"] - first["generations"]) * population)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--population", type=int, default=8)
    parser.add_argument("--strategy", default="evolution", help="random: nearly every genome has an adapter of its own")
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    bench = Bench()
    sizes = [f"search.generations={options.generations}", f"search.population={options.population}"]
    sizes.append(f"search.strategy={options.strategy}")
    bench.evolve("warm", *SETTINGS, "search.generations=1")  # migrations
    samples = watch(bench, [*SETTINGS, *sizes])
    first, last = part(samples, 0.1, 1)[0], samples[-1]
    genomes = (last["generations"] - first["generations"]) * options.population
    memory = {
        name: statistics.median(sample["rss"] for sample in part(samples, low, high))
        for name, low, high in (("start", 0.1, 0.2), ("middle", 0.45, 0.55), ("end", 0.9, 1))
    }
    result = {
        "generations": last["generations"],
        "population": options.population,
        "database_bytes_per_genome": (last["bytes"] - first["bytes"]) / genomes,
        "task_runs_per_genome": (last["task_runs"] - first["task_runs"]) / genomes,
        "resident_mb": memory,
        "seconds_per_genome": {
            "first_quarter": pace(part(samples, 0.05, 0.25), options.population),
            "last_quarter": pace(part(samples, 0.75, 1), options.population),
        },
    }
    print(json.dumps(result, indent=1))
    if not options.no_record:
        write("long_run", result | {"samples": samples[:: max(1, len(samples) // 40)]})


if __name__ == "__main__":
    main()
