"""Write bugs into a file of JSON lines, check them, and evolve on them.

    python examples/3_bugs_in_a_file.py

Use this for bugs from an issue tracker or from another benchmark. All fields are in docs/problems.md.
"""

import json
import tempfile
from pathlib import Path

import coral_core

# Each bug is a function in two versions, and calls with their expected results.
FUNCTIONS: dict[str, tuple[str, str, str, list[tuple[tuple[object, ...], object]]]] = {
    "area": ("def area(w, h):\n    return w * h", "w * h", "w * w", [((2, 3), 6), ((1, 1), 1), ((5, 4), 20)]),
    "last": ("def last(xs):\n    return xs[-1]", "[-1]", "[0]", [(([1, 2],), 2), (([7],), 7), (([3, 1, 4],), 4)]),
    "is_even": ("def is_even(n):\n    return n % 2 == 0", "== 0", "== 1", [((0,), True), ((3,), False), ((8,), True)]),
    "top": ("def top(a, b):\n    return a if a > b else b", "a > b", "a < b", [((1, 2), 2), ((5, 3), 5), ((4, 4), 4)]),
    "size": ("def size(n):\n    return -n if n < 0 else n", "n < 0", "n > 0", [((-3,), 3), ((0,), 0), ((2,), 2)]),
    "half": ("def half(n):\n    return n // 2", "n // 2", "n // 3", [((4,), 2), ((9,), 4), ((1,), 0)]),
    "join": (
        "def join(a, b):\n    return a + b",
        "a + b",
        "b + a",
        [(("x", "y"), "xy"), (("", "z"), "z"), (("a", "a"), "aa")],
    ),
    "first": ("def first(s):\n    return s[:1]", "[:1]", "[1:]", [(("abc",), "a"), (("",), ""), (("z",), "z")]),
}
SPLITS = ["fitness"] * 4 + ["held_out"] * 4

file = Path(tempfile.mkdtemp()) / "bugs.jsonl"
with file.open("w") as lines:
    for (name, (text, right, wrong, calls)), split in zip(FUNCTIONS.items(), SPLITS, strict=True):
        problem = {
            "type": "problem",
            "id": name,
            "split": split,
            "entry_point": name,
            "reference": text,
            "buggy": text.replace(right, wrong),
            "cases": [{"arguments": list(arguments), "value": value} for arguments, value in calls],
        }
        print(json.dumps(problem), file=lines)

config = coral_core.load_config(
    Path(__file__).parent / "example.yaml",
    ["name=file-of-bugs", "problems.source=jsonl", f"problems.path={file}", "problems.monitor=0"],
)

# A problem is usable if its reference passes and its buggy version does not. `coral problems check` does the same.
problems = coral_core.load_problems(config.problems)
with coral_core.Judge() as judge:
    for bug in (*problems.fitness, *problems.held_out):
        reference, buggy = judge.judge_batch([(bug, bug.reference), (bug, bug.buggy)])
        print(f"{bug.problem_id:13} reference {reference.outcome.value}, buggy version {buggy.outcome.value}")
        assert reference.passed and not buggy.passed

# The file has no training pairs, so adapters train on mutants of built-in functions.
result = coral_core.evolve(config)
assert result.champion is not None
print(f"\nchampion {result.champion.genome.genome_id} of {result.run_id}")
