"""A small run is killed (SIGKILL) at seeded random times and restarted: are jobs repeated, is the history the same?

Counts jobs done more than once and compares the final history with that of an
undisturbed run in a store of its own.
"""

import argparse
import os
import random
import signal
import subprocess
import time

from benchmarks.record import Bench, write

SMALL = (
    "search.generations=2",
    "search.population=4",
    "search.elites=1",
    "search.early_stopping.enabled=false",
    "problems.fitness=24",
    "problems.retention=8",
    "problems.monitor=8",
    "problems.held_out=24",
    "training.steps=8",
    "training.warmup=2",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    bench = Bench()
    undisturbed, _ = bench.evolve("undisturbed", *SMALL)
    rng = random.Random(options.seed)
    kills = []
    # every session must get further than the last, or twenty kills would need twenty whole runs
    for number in range(options.kills):
        after = rng.uniform(0.15, 1.0) * undisturbed
        process = subprocess.Popen(
            bench.command("killed", *SMALL), env=bench.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=after)
            finished = True
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            finished = False
        kills.append({"number": number, "after_seconds": round(after, 2), "run_had_finished": finished})
        print(kills[-1], flush=True)
        if finished:
            _forget_tail(bench)
    time.sleep(3)
    seconds, _ = bench.evolve("killed", *SMALL)
    done = bench.trainings("killed")
    repeated = len(done) - len(set(done))
    same = bench.history("killed") == bench.history("undisturbed")
    print(f"{options.kills} kills: {repeated} jobs done twice, history identical: {same}")
    write(
        "kills",
        {
            "kills": kills,
            "jobs": len(set(done)),
            "repeated": repeated,
            "identical": same,
            "undisturbed_seconds": undisturbed,
            "last_seconds": seconds,
        },
    )


def _forget_tail(bench: Bench) -> None:
    """After a session that finished, drop a third of the store's entries so that the next kill hits real work again."""
    import json
    import shutil

    store = bench.folder / "killed" / "store"
    timings = bench.run_folder("killed") / "timings.jsonl"
    entries = sorted([*store.glob("adapters/*"), *store.glob("evaluations/*.json")])
    gone = set()
    for path in entries[::3]:
        gone.add(path.stem if path.suffix == ".json" else path.name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    rows = [json.loads(line) for line in timings.read_text().splitlines()]
    timings.write_text("".join(json.dumps(row) + "\n" for row in rows if row.get("digest") not in gone))


if __name__ == "__main__":
    main()
