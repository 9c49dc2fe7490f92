"""From `coral up` to the first finished quickstart on work pools, against the same run with local lanes.

``coral up``, ``coral evolve configs/quickstart.yaml --executor work-pools``, ``coral down``, timed one by
one, then the same quickstart with lanes of its own (``--executor local``) and a server of its own. What
bounds it: processor seconds of the jobs over the cores of the machine is the least that any way can take.
"""

import argparse
import json
import os
import time
from typing import Any

from benchmarks.lanes import Installation
from benchmarks.record import Bench, write


def timings(bench: Bench, runs: str) -> list[dict[str, Any]]:
    """Timings of the jobs that were done, not found."""
    lines = (bench.run_folder(runs) / "timings.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row.get("cost") and not row["cached"]]


def bound(rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What the jobs of a run cost, and how much of its time that explains."""
    cpu = sum(row["cost"]["cpu_seconds"] for row in rows)
    least = cpu / (os.cpu_count() or 1)
    return {
        "jobs": len(rows),
        "job_seconds": sum(row["cost"]["seconds"] for row in rows),
        "job_cpu_seconds": cpu,
        "least_seconds": least,
        "seconds_over_least": seconds / least,
    }


def first_job(bench: Bench, runs: str, begun: float) -> float:
    """Seconds until the first job began to work."""
    return float(min(row["finished"] - row["cost"]["seconds"] for row in timings(bench, runs))) - begun


def evolve(bench: Bench, runs: str, executor: str) -> dict[str, Any]:
    begun = time.time()
    seconds, report = bench.evolve(runs, f"infra.executor={executor}")
    return {
        "seconds": seconds,
        "until_first_job": first_job(bench, runs, begun),
        "counts": report["counts"],
        **bound(timings(bench, runs), seconds),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    bench = Bench()
    started = time.monotonic()
    installation = Installation(bench)
    up = time.monotonic() - started
    try:
        bench.environment["PREFECT_API_URL"] = os.environ["PREFECT_API_URL"]
        pools = evolve(bench, "pools", "work-pools")
        both = time.monotonic() - started
    finally:
        begun = time.monotonic()
        installation.call("down")
    down = time.monotonic() - begun
    alone = Bench()
    local = evolve(alone, "local", "local")
    same = bench.history("pools") == alone.history("local")
    result = {
        "up_seconds": up,
        "pools": pools,
        "up_to_finished_seconds": both,
        "down_seconds": down,
        "local": local,
        "pools_over_local": both / local["seconds"],
        "same_history": same,
    }
    print(json.dumps(result, indent=1))
    print(
        f"coral up {up:.0f} s, quickstart {pools['seconds']:.0f} s, together {both:.0f} s; first job after "
        f"{pools['until_first_job']:.0f} s; jobs use {pools['job_cpu_seconds']:.0f} s of processor, so at least "
        f"{pools['least_seconds']:.0f} s on {os.cpu_count()} cores; down {down:.0f} s. Without pools {local['seconds']:.0f} s."
    )
    write("first_run", result)


if __name__ == "__main__":
    main()
