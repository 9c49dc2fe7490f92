"""Add a problem source of your own: check it, and evolve on it.

    pip install --no-deps -e examples/plug_in
    python examples/5_a_problem_source.py

A source is a function from the section `problems` of a configuration to a `ProblemSet`. `plug_in/example_plug_in.py` defines
one, and `plug_in/pyproject.toml` registers it under the name `arithmetic`.
"""

from pathlib import Path

from example_plug_in import load_arithmetic

import coral_core
from coral_core.problem_sources.source_conformance import complaints

config = coral_core.load_config(
    Path(__file__).parent / "example.yaml", ["name=own-source", "problems.source=arithmetic", "problems.monitor=0"]
)

# Put this line into a test of your plug-in: it loads twice, judges every problem, and looks for functions in two splits.
assert complaints(load_arithmetic, config.problems) == []

result = coral_core.evolve(config)
for line in result.held_out:
    print(f"{line.name}: {line.pass_at_1:.0%} of the held-out bugs")
