"""The same configuration under three hash seeds and with one or two lanes: is the history the same, byte for byte?"""

import hashlib

from benchmarks.record import Bench, write

SMALL = (
    "search.generations=2",
    "search.population=4",
    "search.elites=1",
    "problems.fitness=24",
    "problems.retention=8",
    "problems.monitor=8",
    "problems.held_out=24",
    "training.steps=8",
    "training.warmup=2",
)


def main() -> None:
    bench = Bench()
    rows = []
    for lanes in (1, 2):
        for hash_seed in ("0", "1", "random"):
            name = f"lanes{lanes}-hash{hash_seed}"
            seconds, _ = bench.evolve(
                name, *SMALL, f"infra.local_lanes={lanes}", environment={"PYTHONHASHSEED": hash_seed}
            )
            row = {"lanes": lanes, "hash_seed": hash_seed, "seconds": round(seconds, 1)}
            row["history_sha256"] = hashlib.sha256(bench.history(name)).hexdigest()
            rows.append(row)
            print(row, flush=True)
    distinct = len({row["history_sha256"] for row in rows})
    print(f"{distinct} distinct histories from {len(rows)} runs with stores of their own")
    write("invariance", {"rows": rows, "distinct_histories": distinct})


if __name__ == "__main__":
    main()
