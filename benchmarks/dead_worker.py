"""A worker is killed: seconds until `coral health`, `coral doctor` and the Prefect UI report it.

A local installation (`coral up`, nothing else on it), the worker of coral-a100 ended by kill -9 at a random moment between
two of its heartbeats. From then on, in one go: `coral health --json` again and again until its check
"worker responsiveness" is bad, and beside it the API's own status of that worker, which is what the UI shows. The text of
`coral doctor --installation` is taken once the check is bad, to show that it says the same.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any

from benchmarks.lanes import Installation
from benchmarks.record import Bench, write

POOL = "coral-a100"
CHECK = "worker responsiveness"
MOST_SECONDS = 240.0


def offline(url: str, done: dict[str, float], started: float) -> None:
    """Note when the API calls the worker OFFLINE."""
    while time.monotonic() - started < MOST_SECONDS:
        request = urllib.request.Request(
            f"{url}/work_pools/{POOL}/workers/filter", b"{}", {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            if all(worker["status"] == "OFFLINE" for worker in json.load(answer)):
                done["offline"] = time.monotonic() - started
                return
        time.sleep(0.5)


def health(bench: Bench) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "flows.cli", "health", "--json", "--runs", str(bench.folder / "runs")]
    done = subprocess.run(command, env=bench.environment, capture_output=True, text=True)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    return done.returncode, checks[CHECK]


def doctor(bench: Bench) -> list[str]:
    """Its lines about workers."""
    command = [sys.executable, "-m", "flows.cli", "doctor", "--installation"]
    done = subprocess.run(command, env=bench.environment, capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if CHECK in line]


def wait_until_well(bench: Bench) -> None:
    """Workers send their first heartbeat some seconds after their start."""
    deadline = time.monotonic() + 120
    while (check := health(bench)[1])["state"] == "bad":
        if time.monotonic() > deadline:
            raise SystemExit(f"the installation is not well before the kill: {check}")
        time.sleep(1)


def kill_once(bench: Bench, wait: float) -> dict[str, Any]:
    """Kill the worker `wait` seconds from now; seconds until each side knows."""
    url = bench.environment["PREFECT_API_URL"]
    wait_until_well(bench)
    time.sleep(wait)
    state = json.loads((bench.folder / "home" / "up.json").read_text())
    pid = next(worker["pid"] for worker in state["workers"] if worker["pool"] == POOL)
    os.kill(pid, signal.SIGKILL)
    started = time.monotonic()
    done: dict[str, float] = {}
    other = threading.Thread(target=offline, args=(url, done, started))
    other.start()
    looks = 0
    while time.monotonic() - started < MOST_SECONDS:
        code, check = health(bench)
        looks += 1
        if check["state"] == "bad":
            break
    red = time.monotonic() - started
    said = doctor(bench)
    doctor_red = time.monotonic() - started
    other.join()
    return {
        "seconds_to_red_in_health": red,
        "seconds_to_red_in_doctor": doctor_red,
        "seconds_to_offline_in_api": done.get("offline"),
        "health_exit_code": code,
        "health_says": check,
        "doctor_says": said,
        "looks": looks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    bench = Bench()
    installation = Installation(bench)
    bench.environment["PREFECT_API_URL"] = os.environ["PREFECT_API_URL"]
    instants = random.Random(5)
    results = []
    try:
        for number in range(options.kills):
            results.append(kill_once(bench, instants.uniform(0, 30)))
            print(json.dumps(results[-1], indent=1), flush=True)
            if number + 1 < options.kills:
                installation.call("up", "--port", os.environ["PREFECT_API_URL"].split(":")[2].split("/")[0])
    finally:
        installation.call("down")
    worst_red = max(result["seconds_to_red_in_doctor"] for result in results)
    worst_offline = max(result["seconds_to_offline_in_api"] or float("inf") for result in results)
    print(
        f"worst of {len(results)}: red after {worst_red:.0f} s (at most 70), OFFLINE after {worst_offline:.0f} s (at most 130)"
    )
    write("dead_worker", {"worst": {"red": worst_red, "offline": worst_offline}, "kills": results})


if __name__ == "__main__":
    main()
