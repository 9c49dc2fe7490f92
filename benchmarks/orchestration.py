"""Wall clock per genome of a run whose jobs take no time: what flows, tasks, artifacts, store and judge cost."""

import argparse
import json

from benchmarks.record import Bench, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--population", type=int, default=16)
    options = parser.parse_args()
    bench = Bench()
    overrides = [
        "base_model.name=rehearsal",
        f"search.generations={options.generations}",
        f"search.population={options.population}",
        "search.early_stopping.enabled=false",
        "problems.fitness=8",
        "problems.retention=2",
        "problems.monitor=0",
        "problems.held_out=8",
        "problems.pairs=8",
    ]
    bench.evolve("warm", *overrides, "search.generations=1")  # migrations of the server's database
    _, report = bench.evolve("null", *overrides)
    timings = [json.loads(line) for line in (bench.run_folder("null") / "timings.jsonl").read_text().splitlines()]
    session = next(row for row in timings if row["type"] == "session")
    genomes = options.generations * options.population
    result = {
        "genomes": genomes,
        "seconds": session["seconds"],
        "seconds_per_genome": session["seconds"] / genomes,
        "counts": report["counts"],
    }
    print(
        f"{genomes} genomes in {session['seconds']:.1f} s after server start: {result['seconds_per_genome']:.3f} s a genome"
    )
    write("orchestration", result)


if __name__ == "__main__":
    main()
