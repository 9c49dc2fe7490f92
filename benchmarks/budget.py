"""How far an evolution on work pools exceeds its budget, undisturbed and with kills in between.

A real server, real process workers, rehearsed trainings of 6 s on 2 lanes, evaluations of 2 s on 3. Read afterwards from the accounts and claims:

- what was spent when the limit closed, and in the end, against the limit;
- jobs that began after the limit was reached (must be none);
- the same with the evolution killed (SIGKILL) half-way and again when the limit is near, and started again.
"""

import argparse
import json
import os
import signal
import subprocess
import time
from typing import Any

from benchmarks.lanes import Installation
from benchmarks.record import Bench, write

TRAIN = 6.0
SETTINGS = [
    f"base_model.name=rehearsal:train={TRAIN},evaluate=2",
    "infra.executor=work-pools",
    "search.generations=6",
    "search.early_stopping.enabled=false",
]


def run(bench: Bench, name: str, limit: float, kills: int) -> dict[str, Any]:
    """Start, kill `kills` times, wait until it is held, and a while longer; then look."""
    from coral_core.ledger import Ledger
    from coral_core.store.store import Store

    settings = [*SETTINGS, f"budget.evolution.gpu_hours={limit / 3600}"]
    command = bench.command(name, *settings)
    environment = bench.environment | {"PREFECT_API_URL": os.environ["PREFECT_API_URL"]}
    store = Store(bench.folder / name / "store")
    ledger = Ledger(store)
    output = bench.folder / f"{name}.log"

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, env=environment, stdout=output.open("ab"), stderr=subprocess.STDOUT)

    def spent() -> float:
        run_ids = [path.parent.name for path in (bench.folder / name).glob("*/run.json")]
        return ledger.standing(run_ids[0]).spent.gpu_hours * 3600 if run_ids and _budget(store) else 0.0

    process, done, closed_at, seen, late = start(), 0, 0.0, set[str](), 0
    deadline = time.monotonic() + 600
    held_since: float | None = None
    in_flight: int | None = None
    while time.monotonic() < deadline and (held_since is None or time.monotonic() - held_since < 15):
        time.sleep(0.05)
        now = spent()
        claims = {
            (p.name, json.loads(p.read_bytes())["token"])
            for p in store.root.glob("queue/*/claims/*.json")
            if p.exists()
        }
        fresh = {token for _, token in claims} - seen
        seen |= fresh
        if now >= limit and in_flight is None:
            in_flight = len(claims - fresh)
        if now >= limit:
            late += len(fresh)  # a claim that is new although the limit was reached before
        if done < kills and now > limit * (0.4 + 0.4 * done):
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
            process = start()
        if held_since is None and b"paused: the limit" in output.read_bytes()[-4000:] and not claims:
            held_since, closed_at = time.monotonic(), now
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    return {
        "limit_seconds": limit,
        "spent_when_held": closed_at,
        "spent_in_the_end": spent(),
        "over_the_limit": max(0.0, spent() / limit - 1),
        "in_flight_at_the_limit": in_flight or 0,
        "began_after_the_limit": late,
        "kills": done,
        "held": held_since is not None,
        "jobs": len(seen),
    }


def _budget(store: Any) -> bool:
    return any((store.root / "ledger" / "budgets").glob("*.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=240.0, help="lane seconds")
    options = parser.parse_args()
    bench = Bench()
    installation = Installation(bench)
    try:
        calm = run(bench, "calm", options.limit, 0)
        killed = run(bench, "killed", options.limit, 2)
    finally:
        installation.call("down")
    for name, found in (("undisturbed", calm), ("two kills", killed)):
        print(
            f"{name}: {found['spent_in_the_end']:.1f} of {found['limit_seconds']:.0f} lane seconds, {found['jobs']} jobs, "
            f"{found['in_flight_at_the_limit']} in flight at the limit, {found['began_after_the_limit']} began after the limit was reached"
        )
    write("budget", {"undisturbed": calm, "killed": killed})


if __name__ == "__main__":
    main()
