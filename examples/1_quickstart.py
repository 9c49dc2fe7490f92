"""Run an evolution from Python, and read its result.

    python examples/1_quickstart.py

The engine runs in this process. It needs no Prefect server.
"""

from pathlib import Path

import coral_core

# A configuration is a YAML file plus overrides, as on the command line. It is validated when it is loaded.
config = coral_core.load_config(Path(__file__).parent / "example.yaml", ["search.generations=3", "seed=7"])


# `evolve` calls `progress` about every second with where the run stands; as text it is one line.
def show(progress: coral_core.Progress) -> None:
    print(f"\r{progress}", end=" ")


result = coral_core.evolve(config, progress=show)

# The champion is a record of its genes and scores; the Pareto front is a tuple of such records.
champion = result.champion
assert champion is not None  # always true for a finished run
print(f"\nchampion {champion.genome.genome_id}: rank {champion.genome.heavy.rank}, fitness {champion.fitness:.3f}")
for record in result.front:
    print(f"front    {record.genome.genome_id}: {record.scores}")

# Champion, base model, default LoRA and the median of generation 0 on the held-out problems.
for line in result.held_out:
    print(f"held-out {line.name}: pass@1 {line.pass_at_1:.3f}")

# The run's folder holds the report and the adapter in PEFT's format. Run this script again: nothing is trained again.
print(f"\nreport  {result.report}\nadapter {result.adapter}")
assert coral_core.open_run(result.folder) == result
