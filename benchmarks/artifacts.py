"""Cost of artifacts per finished job in API calls and milliseconds, against the same evolution without them.

Both sides run in one process against one real server, in turn, with a new run (edition) each time. Counted are the
publisher's own requests, and its time: CPU of reading the files and drawing, wall clock of requests. Making the first
rows and the last update are in it.
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from typing import Any

from benchmarks.record import QUICKSTART, Bench, write
from coral_core.config import load_config
from coral_core.evolution.listener import Listener

SETTINGS = [
    "base_model.name=rehearsal",
    "search.early_stopping.enabled=false",
    "problems.fitness=4",
    "problems.retention=2",
    "problems.monitor=0",
    "problems.held_out=4",
    "problems.pairs=8",
]


class Silent(Listener):
    """A publisher that shows nothing: the other side."""

    def __init__(self, *_: object) -> None: ...

    async def __aenter__(self) -> "Silent":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def generation_run(self, number: int, flow_run_id: str) -> None: ...


def measure(options: argparse.Namespace, bench: Bench) -> list[dict[str, Any]]:
    """A row per evolution, sides alternating."""
    from flows.evolve import evolve
    from flows.observe import artifacts

    real, kept = artifacts.Publisher, []

    class Kept(real):  # type: ignore[valid-type, misc]
        """The real one, which can be asked afterwards."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.calls, self.spent_seconds = 0, 0.0
            kept.append(self)

        async def _request(self, *arguments: Any, **content: Any) -> Any:
            started = time.perf_counter()
            self.calls += 1
            try:
                return await super()._request(*arguments, **content)
            finally:
                self.spent_seconds += time.perf_counter() - started

        def _timed(self, what: Any) -> Any:
            started = time.thread_time()
            try:
                return what()
            finally:
                self.spent_seconds += time.thread_time() - started

        def _read(self) -> Any:
            return self._timed(super()._read)

        def _draw(self) -> Any:
            return self._timed(super()._draw)

    rows: list[dict[str, Any]] = []
    for edition in range(
        2 * options.repeats + 1
    ):  # the first one warms up (imports, fonts, the server) and is not counted
        with_artifacts = bool(edition % 2) or not edition
        artifacts.Publisher = Kept if with_artifacts else Silent  # type: ignore[assignment, misc]
        config = load_config(
            QUICKSTART,
            [
                *SETTINGS,
                f"search.generations={options.generations if edition else 2}",
                f"runs={bench.folder}/runs",
                f"store.path={bench.folder}/store-{edition}",
            ],
        )
        started, cpu = time.perf_counter(), time.process_time()
        result = asyncio.run(evolve(config, edition=edition + 1))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        with open(f"{result['folder']}/timings.jsonl") as file:
            jobs = sum(json.loads(line)["type"] == "job" for line in file)
        row: dict[str, Any] = {"artifacts": with_artifacts, "jobs": jobs, "seconds": seconds, "cpu_seconds": cpu}
        if with_artifacts:
            row |= {"calls": kept[-1].calls, "publisher_seconds": kept[-1].spent_seconds}
        print(row, flush=True)
        rows += [row] if edition else []
    artifacts.Publisher = real  # type: ignore[misc]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3, help="evolutions of each side")
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    bench = Bench()
    os.environ["CORAL_HOME"] = bench.environment["CORAL_HOME"]
    os.environ.pop("PREFECT_API_URL", None)
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    os.environ["PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL"] = "WARNING"
    from flows.prefect_api.flow_run_process import drain
    from flows.prefect_api.local_server import api

    with api():
        rows = measure(options, bench)
        drain()  # or Prefect waits at the end of this process for a server that is gone
    ours = [row for row in rows if row["artifacts"]]
    sides = {
        name: [row["seconds"] / row["jobs"] for row in rows if row["artifacts"] is with_artifacts]
        for name, with_artifacts in (("with", True), ("without", False))
    }
    result = {
        "generations": options.generations,
        "calls_per_job": sum(row["calls"] for row in ours) / sum(row["jobs"] for row in ours),
        "milliseconds_per_job": 1000 * sum(row["publisher_seconds"] for row in ours) / sum(row["jobs"] for row in ours),
        "wall_milliseconds_per_job": {name: 1000 * statistics.median(values) for name, values in sides.items()},
        "runs": rows,
    }
    print(json.dumps({name: value for name, value in result.items() if name != "runs"}, indent=1))
    if not options.no_record:
        write("artifacts", result)


if __name__ == "__main__":
    main()
