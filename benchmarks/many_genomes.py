"""500 genomes through one server on Postgres: time per genome, errors, threads, memory and database growth.

One evolution of trivial jobs (rehearsed, without length) on work pools: 10 generations of 50 genomes,
through a real Prefect server whose database is Postgres, and real process workers. Reported: wall
clock a genome, threads and memory of the control process over time, growth of the database, lines of
any log (server, workers, Postgres, flow runs) at level ERROR or above, lane starts. A second part
counts lane starts in a run of 4 generations whose jobs have length.

Postgres: ``--database postgresql+asyncpg://...`` takes a running one (empty); without it one is
started from the binaries of this machine, in a folder of its own.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.lanes import Installation
from benchmarks.record import Bench, write

ERROR = re.compile(r"\b(ERROR|CRITICAL|FATAL|PANIC)\b|Traceback")
SMALL = (
    "problems.fitness=8",
    "problems.retention=2",
    "problems.monitor=2",
    "problems.held_out=4",
    "problems.pairs=8",
    "infra.executor=work-pools",
)


@contextlib.contextmanager
def postgres(port: int = 4433) -> Iterator[tuple[str, Path]]:
    """A Postgres of our own; its URL and its log. Root runs it as the user ``postgres``, since it refuses root."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    binaries = found[-1].parent
    if not (binaries / "initdb").is_file():
        raise SystemExit("no Postgres here: install postgresql, or give --database postgresql+asyncpg://...")
    folder = Path(tempfile.mkdtemp(prefix="coral-postgres-"))
    prefix = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] if os.getuid() == 0 else []
    if prefix:
        shutil.chown(folder, "postgres", "postgres")

    def call(*command: str) -> None:
        subprocess.run([*prefix, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)

    log = folder / "log"
    call(str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "prefect", "-A", "trust")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
    call(str(binaries / "pg_ctl"), "-D", str(folder / "data"), "-w", "-l", str(log), "-o", options, "start")
    try:
        call(str(binaries / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "prefect")
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/prefect", log
    finally:
        call(str(binaries / "pg_ctl"), "-D", str(folder / "data"), "-m", "fast", "stop")


def database_bytes(url: str) -> int:
    import asyncio

    import asyncpg  # comes with Prefect

    async def ask() -> int:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            return int(await connection.fetchval("select pg_database_size(current_database())"))
        finally:
            await connection.close()

    return asyncio.run(ask())


class Watch:
    """Threads and memory of a process, once a second."""

    def __init__(self, pid: int) -> None:
        self.rows: list[tuple[float, int, int]] = []
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        started = time.monotonic()
        while not self._over.wait(1.0):
            with contextlib.suppress(OSError, KeyError, ValueError):
                lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
                facts = {key: value for key, _, value in (line.partition(":") for line in lines)}
                self.rows.append(
                    (round(time.monotonic() - started), int(facts["Threads"]), int(facts["VmRSS"].split()[0]))
                )

    def close(self) -> dict[str, Any]:
        self._over.set()
        self._thread.join()
        quarter = len(self.rows) // 4
        second, last = self.rows[quarter : 2 * quarter], self.rows[-quarter:]

        def middle(rows: list[tuple[float, int, int]], column: int) -> float:
            return statistics.median(row[column] for row in rows)

        return {
            "threads": {
                "most": max(row[1] for row in self.rows),
                "second_quarter": middle(second, 1),
                "last_quarter": middle(last, 1),
            },
            "memory_mb": {"second_quarter": middle(second, 2) / 1024, "last_quarter": middle(last, 2) / 1024},
            "timeline": {"second, threads, kB": self.rows[:: max(1, len(self.rows) // 60)]},
        }


def errors_in(logs: list[Path]) -> list[str]:
    return [
        f"{log.name}: {line[:200]}"
        for log in logs
        for line in log.read_text(errors="replace").splitlines()
        if ERROR.search(line)
    ]


def flow_run_errors() -> list[str]:
    """Lines of flow runs at level ERROR or above, as the server has them."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterLevel

    with get_client(sync_client=True) as client:
        return [log.message[:200] for log in client.read_logs(log_filter=LogFilter(level=LogFilterLevel(ge_=40)))]


def lane_starts(store: Path) -> dict[str, int]:
    notes = [json.loads(path.read_text()) for path in (store / "queue" / "lanes").glob("*.json")]
    return {name: sum(note["queue"] == name for note in notes) for name in ("training", "evaluation")}


def many(bench: Bench, url: str, population: int, generations: int) -> dict[str, Any]:
    before = database_bytes(url)
    command = bench.command(
        "many",
        *SMALL,
        "base_model.name=rehearsal",
        f"search.population={population}",
        f"search.generations={generations}",
    )
    started = time.monotonic()
    run = subprocess.Popen(command, env=bench.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    watch = Watch(run.pid)
    _, said = run.communicate()
    seconds = time.monotonic() - started
    seen = watch.close()
    report = json.loads((bench.run_folder("many") / "report.json").read_text())
    rows = [json.loads(line) for line in bench.history("many").splitlines()]
    genomes = sum(row.get("type") == "genome" for row in rows)
    return {
        "exit_code": run.returncode,
        "said": said.strip()[-500:],
        "genomes": genomes,
        "counts": report["counts"],
        "seconds": seconds,
        "seconds_per_genome": seconds / genomes,
        "database_bytes_per_genome": (database_bytes(url) - before) / genomes,
        "lane_starts": lane_starts(bench.folder / "many" / "store"),
        **seen,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--population", type=int, default=50)
    parser.add_argument("--generations", type=int, default=10)
    parser.add_argument("--database", help="URL of an empty Postgres database")
    options = parser.parse_args()
    own = contextlib.nullcontext((options.database, Path(os.devnull))) if options.database else postgres()
    with own as (url, log):
        bench = Bench()
        bench.environment["PREFECT_API_DATABASE_CONNECTION_URL"] = url
        installation = Installation(bench)
        bench.environment["PREFECT_API_URL"] = os.environ["PREFECT_API_URL"]
        try:
            result = many(bench, url, options.population, options.generations)
            settings = (*SMALL, "search.generations=4", "search.population=8")
            bench.evolve("four", *settings, "base_model.name=rehearsal:train=3,evaluate=1")
            result["lane_starts_of_4_generations"] = lane_starts(bench.folder / "four" / "store")
            result["errors"] = flow_run_errors()
        finally:
            installation.call("down")
        home = bench.folder / "home"
        result["errors"] += errors_in([*home.glob("*.log"), *([log] if log.is_file() else [])])
    print(f"{result['genomes']} genomes in {result['seconds']:.0f} s: {result['seconds_per_genome']:.3f} s each")
    print(f"threads {result['threads']}, memory {result['memory_mb']}, lane starts {result['lane_starts']}")
    print(
        f"database: {result['database_bytes_per_genome'] / 1000:.1f} kB a genome; errors in logs: {result['errors'][:5]}"
    )
    print(f"4 generations with jobs of length: lane starts {result['lane_starts_of_4_generations']}, of 2 and 3 lanes")
    write("many_genomes", result)


if __name__ == "__main__":
    main()
