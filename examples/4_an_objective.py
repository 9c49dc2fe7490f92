"""Add an objective of your own: check it, and select by it.

    pip install --no-deps -e examples/plug_in
    python examples/4_an_objective.py

An objective is a function of the judged patches that returns a number in [0, 1]. `plug_in/example_plug_in.py` defines one,
and `plug_in/pyproject.toml` registers it under the name `short_patches`.
"""

from pathlib import Path

from example_plug_in import short_patches

import coral_core
from coral_core.scoring.objective_conformance import complaints

# Put this line into a test of your plug-in: it calls the objective on empty, correct, wrong and broken evaluations.
assert complaints(short_patches) == []  # type: ignore[arg-type]  # mypy knows no attributes of functions

# Roles: objective (traded off), constraint (has a threshold) or report (shown only). Weights are given whole.
config = coral_core.load_config(
    Path(__file__).parent / "example.yaml", ["name=own-objective", "scoring.roles={short_patches: objective}"]
)
result = coral_core.evolve(config)
for record in result.front:
    print(record.genome.genome_id, "short_patches", record.scores["short_patches"], "bugfix", record.scores["bugfix"])
