"""Duration of `coral status` on an empty server and on one with 5,000 flow runs, and which packages it imports.

A Prefect server of its own with the house's pools and deployments, no worker. The command is timed against the empty
server first; then 5,000 flow runs (rows copied in the server's database from a few that the API made, all with their
states: done, failed, running, on all three pools) and thousands of entries in the store and ten runs of 200 generations
are put there, and it is timed again, in the same process and the same minute. Each call is a new process, as in a
terminal, which afterwards lists which heavy packages it has imported.
"""

import argparse
import hashlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.record import Bench, write

HEAVY = ("torch", "transformers", "peft", "matplotlib", "prefect", "numpy")
CODE = (
    "import sys\nfrom flows.cli import main\nsys.argv = ['coral', 'status', '--json', *sys.argv[1:]]\n"
    "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code, ended.code\n"
    f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
)
STATES = (("COMPLETED", 0.94), ("FAILED", 0.03), ("CRASHED", 0.02), ("RUNNING", 0.01))


def serve(bench: Bench) -> str:
    """A server with pools and deployments; returns its URL."""
    os.environ["CORAL_HOME"] = bench.environment["CORAL_HOME"]
    os.environ.pop("PREFECT_API_URL", None)
    from flows.prefect_api.local_server import join

    url = join(0)
    from flows.installation.pool_templates import Place
    from flows.installation.server_setup import setup

    for _ in setup(Place(workdir=str(bench.folder))):
        pass
    bench.environment |= {"PREFECT_API_URL": url, "PREFECT_HOME": os.environ["PREFECT_HOME"]}
    return url


def fill(database: Path, count: int) -> dict[str, int]:
    """Copy flow runs until there are `count`; returns how many are in which state."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State, StateType

    templates: dict[str, list[str]] = {}
    with get_client(sync_client=True) as client:
        for name in ("train-adapters/train-adapters", "evaluate-genomes/evaluate-genomes", "evolve/evolve"):
            deployment = client.read_deployment_by_name(name)
            for state, _ in STATES:
                parameters = {} if name.startswith("evolve") else {"store": "/nowhere"}
                run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
                client.set_flow_run_state(run.id, State(type=StateType(state)), force=True)
                templates.setdefault(state, []).append(str(run.id))
    connection = sqlite3.connect(database, timeout=60)
    made: dict[str, int] = {}
    for state, share in STATES:
        for number in range(round(share * count) - len(templates[state])):
            _copy(connection, templates[state][number % len(templates[state])])
        made[state] = round(share * count)
    connection.commit()
    connection.close()
    return made


def _copy(connection: sqlite3.Connection, run_id: str) -> None:
    """One more flow run with its states, as `run_id` has them."""
    new = str(uuid.uuid4())
    for table, key in (("flow_run", "id"), ("flow_run_state", "flow_run_id")):
        cursor = connection.execute(f"select * from {table} where {key} = ?", (run_id,))
        names = [column[0] for column in cursor.description]
        for row in cursor.fetchall():
            values = dict(zip(names, row, strict=True))
            if table == "flow_run":
                values |= {"id": new, "idempotency_key": None, "state_id": None}
            else:
                values |= {"id": str(uuid.uuid4()), "flow_run_id": new}
            marks = ", ".join("?" for _ in values)
            connection.execute(f"insert into {table} ({', '.join(values)}) values ({marks})", list(values.values()))
    connection.execute(
        "update flow_run set state_id = (select id from flow_run_state where flow_run_id = ? order by timestamp desc limit 1) where id = ?",
        (new, new),
    )


def fill_store(root: Path, adapters: int, evaluations: int) -> None:
    """Entries as the store lays them out, small; status must look at names and sizes only."""
    for number in range(adapters):
        folder = root / "adapters" / hashlib.sha256(f"a{number}".encode()).hexdigest()
        folder.mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors", "training.json", "manifest.json"):
            (folder / name).write_bytes(b"x" * 1000)
    (root / "evaluations").mkdir(parents=True, exist_ok=True)
    for number in range(evaluations):
        name = hashlib.sha256(f"e{number}".encode()).hexdigest()
        (root / "evaluations" / f"{name}.json").write_bytes(b"x" * 20_000)


def fill_runs(runs: Path, count: int, generations: int, population: int) -> None:
    """Runs that are under way, with long histories."""
    from coral_core.config import RunConfig
    from coral_core.genome import GREEDY, Genome, Lineage, default_lora
    from coral_core.jobs.jobs import Cost
    from coral_core.runs.records import GenerationRecord, GenomeRecord, JobTiming, Phase, Record
    from coral_core.runs.run_folder import HistoryWriter, RunFolder, identify_run

    heavy = default_lora("coral-tiny")
    for number in range(count):
        config = RunConfig(name="many", seed=number, runs=str(runs))
        folder = RunFolder.create(config, identify_run(config), [])
        records: list[Record] = []
        for generation in range(generations):
            for slot in range(population):
                name = f"g{generation:03d}-{slot:03d}"
                digest = hashlib.sha256(f"{number}{name}".encode()).hexdigest()
                genome = Genome(
                    genome_id=name,
                    generation=generation,
                    slot=slot,
                    heavy=heavy,
                    light=GREEDY,
                    lineage=Lineage(parents=(), operator="seed"),
                )
                records.append(
                    GenomeRecord(
                        genome=genome,
                        training_digest=digest,
                        evaluation_digest=digest,
                        scores={"bugfix": 0.5, "retention": 0.5, "cost": 0.5},
                        fitness=0.5,
                        pass_at_1=0.5,
                    )
                )
                cost = Cost(seconds=1.0)
                timing = JobTiming(
                    session=1.0,
                    phase=Phase.SEARCHING,
                    generation=generation,
                    kind="training",
                    digest=digest,
                    label=name,
                    cached=False,
                    finished=time.time(),
                    waited=1.0,
                    cost=cost,
                )
                folder.append_timing(timing)
            records.append(
                GenerationRecord(
                    generation=generation, best="g000-000", best_fitness=0.5, mean_fitness=0.4, front=("g000-000",),
                    hypervolume=0.2, unique_adapters=1, monitor_pass_at_1=0.5,
                )
            )  # fmt: skip
        HistoryWriter(folder).add(*records)


def timed(bench: Bench, runs: Path, repeats: int) -> dict[str, Any]:
    seconds, imported, shown = [], set(), {}
    for _ in range(repeats):
        command = [sys.executable, "-c", CODE, "--runs", str(runs)]
        started = time.perf_counter()
        done = subprocess.run(command, env=bench.environment, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - started)
        imported.add(done.stderr.strip().splitlines()[-1])
        shown = json.loads(done.stdout)
    return {
        "seconds": {"median": statistics.median(seconds), "worst": max(seconds), "all": seconds},
        "heavy_packages_imported": sorted(imported),
        "pools": shown["pools"],
        "store": shown["store"],
        "evolutions": len(shown["evolutions"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flow-runs", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    bench = Bench()
    serve(bench)
    try:
        empty = timed(bench, bench.folder / "none", options.repeats)
        states = fill(Path(os.environ["PREFECT_HOME"]) / "prefect.db", options.flow_runs)
        only_server = timed(bench, bench.folder / "none", options.repeats)
        runs = bench.folder / "runs"
        fill_store(runs / "store", 2000, 5000)
        fill_runs(runs, 10, 200, 8)
        full = timed(bench, runs, options.repeats)
    finally:
        from flows.prefect_api.local_server import leave

        leave()
    for name, found in (("empty server", empty), ("5,000 flow runs", only_server), ("and store and runs", full)):
        print(f"{name}: median {found['seconds']['median']:.2f} s, worst {found['seconds']['worst']:.2f} s")
        print(f"  heavy packages imported: {found['heavy_packages_imported']}")
    write("status", {"flow_runs": states, "empty": empty, "many_flow_runs": only_server, "many_of_everything": full})


if __name__ == "__main__":
    main()
