"""The walks in CONTRIBUTING.md name files that exist and know each other, and have the lengths of its table."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("### Four walks")[2].partition("\n## ")[0]
WALKS = {
    name: [step[:-3] if step.startswith("flows/") else f"coral_core/{step}" for step in steps.split(" → ")]
    for name, steps in re.findall(r"^- \*\*(.+?)\*\*: (.+)$", re.sub(r"\n  ", " ", TEXT), re.MULTILINE)
}
COUNTS = dict(re.findall(r"^\| (.+?) \| .+? \| (\d+ files, \d+ returns?) \|$", TEXT, re.MULTILINE))


def names(step: str, other: str) -> bool:
    """Whether file `step` imports file `other`, its package, or starts it as a script."""
    module = other.replace("/", ".")
    words = (f"from {module} import", f"from {module.rpartition('.')[0]} import", f'"{other.rpartition("/")[2]}.py"')
    text = (ROOT / f"{step}.py").read_text(encoding="utf-8")
    return any(word in text for word in words)


def test_the_table_counts_every_walk() -> None:
    assert WALKS.keys() == COUNTS.keys() and len(WALKS) == 4


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_is_as_long_as_the_table_says(name: str) -> None:
    steps = WALKS[name]
    files = set(steps)
    assert [step for step in files if not (ROOT / f"{step}.py").is_file()] == []
    returns = len(steps) - len(files)
    assert COUNTS[name] == f"{len(files)} files, {returns} return{'s' * (returns != 1)}"


@pytest.mark.parametrize("name", WALKS)
def test_the_files_of_a_walk_know_each_other(name: str) -> None:
    files = set(WALKS[name])
    alone = [
        step
        for step in files
        if not any(step != other and (names(step, other) or names(other, step)) for other in files)
    ]
    assert alone == []
