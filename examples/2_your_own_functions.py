"""Evolve an adapter that repairs bugs in your own functions.

    python examples/2_your_own_functions.py

The source `package` runs the tests of a directory once, records the calls that they make, and inserts bugs into the tested
functions. `coral init own.yaml --from DIR` writes a configuration like this one for your directory.
"""

from pathlib import Path

import coral_core

HERE = Path(__file__).parent

config = coral_core.load_config(
    HERE / "example.yaml",
    [
        "name=own-functions",
        "problems.source=package",
        f"problems.path={HERE / 'functions'}",
        "problems.fitness=8",
        "problems.retention=0",
        "problems.monitor=0",
        "problems.held_out=4",
    ],
)

# Look at the problems before you spend anything on them.
problems = coral_core.load_problems(config.problems)
print(
    f"{len(problems.fitness)} bugs for the search, {len(problems.held_out)} held out, {len(problems.pairs)} training pairs"
)
bug = problems.fitness[0]
print(f"\n{bug.problem_id}: {len(bug.cases)} cases, {bug.bug_class}\n{bug.buggy}")

# No function is in two splits, so the held-out score is about functions that neither training nor search has seen.
result = coral_core.evolve(config)
assert result.champion is not None
print(f"champion {result.champion.genome.genome_id} repairs {result.champion.pass_at_1:.0%} of the fitness bugs")
