"""Duration of `coral config check` and `coral evolve --dry-run`, and exit of mutated configurations.

Each command is a new process, as in a terminal, five times: wall clock and processor time. Then seeded mutations of the
shipped configurations (tests/config/mutations.py) go through the command line, in one process that is ended by the system when
a mutation uses more than 5 s of processor time.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, Bench, write

TIMES = 5


def timed(command: list[str], bench: Bench) -> dict[str, float]:
    """Median wall clock, and processor time of the best call."""
    walls, cpus = [], []
    for _ in range(TIMES):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        subprocess.run(command, cwd=bench.folder, env=bench.environment, check=True, stdout=subprocess.DEVNULL)
        walls.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"wall_median": round(sorted(walls)[TIMES // 2], 2), "wall_worst": round(max(walls), 2), "cpu_best": round(min(cpus), 2)}  # fmt: skip


def mutated(count: int, bench: Bench) -> dict[str, Any]:
    """How `count` mutations end, from number 10,000 on: none of those that the tests use."""
    first = 10_000
    begun, answers, killed = first, [], []
    while begun < first + count:
        done = subprocess.run(
            [sys.executable, "-m", "tests.config.mutations", str(begun), str(first + count)],
            cwd=bench.folder, env=bench.environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        answers += [line for line in lines if "seed" in line]
        begun = max(line["begin"] for line in lines if "begin" in line) + 1
        if done.returncode:
            killed.append(begun - 1)
    codes = [answer["code"] for answer in answers]
    return {
        "mutations": count,
        "accepted": codes.count(0),
        "refused": codes.count(2),
        "bugs": sum("This is a bug" in answer["err"] for answer in answers),
        "other_exits": sum(code not in (0, 2) for code in codes),
        "over_5_s_of_processor": killed,
        "slowest_cpu_seconds": max(answer["cpu"] for answer in answers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=2000)
    arguments = parser.parse_args()
    bench = Bench()
    coral = [sys.executable, "-m", "flows.cli"]
    settings = ["--set", f"runs={bench.folder}/runs", "--set", f"store.path={bench.folder}/store"]
    os.environ.pop("CORAL_DEBUG", None)
    commands = {
        f"{name}_{what}": [*coral, *words, str(Path(ROOT, "configs", f"{name}.yaml")), *flags, *settings]
        for name in ("quickstart", "production")
        for what, words, flags in (("check", ["config", "check"], []), ("dry_run", ["evolve"], ["--dry-run"]))
    }
    result: dict[str, Any] = {name: timed(command, bench) for name, command in commands.items()}
    write("configuration", {**result, "mutated": mutated(arguments.mutations, bench)})


if __name__ == "__main__":
    main()
