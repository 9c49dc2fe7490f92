"""Run an evolution on Prefect work pools of this machine, and look at it.

    python examples/7_work_pools.py

`coral up` starts a server, three work pools and their workers. The same configuration runs on pools of other machines:
docs/work-pools.md.
"""

import json
import subprocess
import sys
from pathlib import Path

import coral_core

CONFIG = Path(__file__).parent / "example.yaml"


def coral(*arguments: str) -> str:
    """Output of a `coral` command."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


coral("up")
try:
    # Training jobs go to the pool coral-a100, evaluation jobs to coral-a10g. Lanes keep the base model in memory.
    report = json.loads(coral("evolve", str(CONFIG), "--executor", "work-pools", "--json"))
    print(f"{report['counts']['trainings']} trainings, {report['counts']['evaluations']} evaluations on work pools")
    for pool in json.loads(coral("status", "--json"))["pools"]:
        print(f"{pool['name']}: {pool['workers_online']} worker, {pool['running']} running")
finally:
    coral("down")

# The executor is no part of a run's identity: the run of the pools continues, or here is found finished, in this process.
result = coral_core.evolve(coral_core.load_config(CONFIG))
assert result.run_id == report["run_id"]
assert result.champion is not None
print(f"champion {result.champion.genome.genome_id} of {result.run_id}")
