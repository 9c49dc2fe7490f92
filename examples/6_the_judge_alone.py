"""Judge patches without a model, a run or a store.

    python examples/6_the_judge_alone.py

Each patch runs in a sandboxed child that holds no answers. The child returns values; this process compares them.
"""

import coral_core
from coral_core.problems import Case, Problem

CALLS = [([0], 0.0), ([1, 2], 1.5), ([0.5, 0.25], 0.375)]

problem = Problem(
    problem_id="mean",
    entry_point="mean",
    buggy="def mean(xs):\n    return sum(xs) / (len(xs) + 1)",
    reference="def mean(xs):\n    return sum(xs) / len(xs)",
    cases=(
        *(Case.of(xs, value=mean, relative_tolerance=1e-9) for xs, mean in CALLS),
        Case.of([], exception="ZeroDivisionError"),
    ),
)

PATCHES = {
    "correct": "def mean(xs):\n    return sum(xs) / len(xs)",
    "not repaired": problem.buggy,
    "breaks a case that worked": "def mean(xs):\n    return sum(xs) / len(xs) if xs else 0.0",
    "does not compile": "def mean(xs) return 0",
    "endless": "def mean(xs):\n    while True:\n        pass",
    "reads a file": "def mean(xs):\n    return len(open('/etc/passwd').read())",
    "claims to pass": "def mean(xs):\n    import os\n    os._exit(0)",
}

with coral_core.Judge(workers=2) as judge:
    verdicts = judge.judge_batch([(problem, patch) for patch in PATCHES.values()])

for name, verdict in zip(PATCHES, verdicts, strict=True):
    repaired = (
        f"{verdict.now_passing}/{verdict.was_failing} repaired, {verdict.still_passing}/{verdict.was_passing} kept"
    )
    print(f"{name:26} {verdict.outcome.value:12} {repaired}")
assert [verdict.passed for verdict in verdicts] == [True] + [False] * (len(PATCHES) - 1)
