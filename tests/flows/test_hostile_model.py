"""An evolution whose model writes hostile texts half of the time ends like any other, with the honest scores unchanged."""

import json
import os
from pathlib import Path

import pytest

from tests.rehearsal_runs import ROOT, Coral

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow(reason="a run; tests/scoring/test_boundary.py evaluates the same families in a lane"),
]

SITE = """\
# Every engine of this run: half of the answers, chosen by the problem alone, are hostile.
import zlib

import coral_core.lm.rehearsal as rehearsal
from tests.scoring.hostile import FAMILIES

real = rehearsal._answer
names = sorted(FAMILIES)


def answer(key, prompt, skill, seed, number):
    choice = zlib.crc32(f"{key} {skill}".encode())
    if zlib.crc32(key.encode()) % 2:
        return real(key, prompt, skill, seed, number)
    return FAMILIES[names[choice % len(names)]]("f", (7, 99, 2_000)[choice % 3])


rehearsal._answer = answer
"""


def samples(coral: Coral) -> dict[tuple[str, str], list[object]]:
    """(evaluation's training, problem) -> its samples."""
    found = {}
    for path in (coral.runs / "store" / "evaluations").rglob("*.json"):
        evaluation = json.loads(json.loads(path.read_text())["evaluation"])
        for record in evaluation["records"]:
            found[evaluation["evaluation_digest"], record["problem_id"]] = record["samples"]
    return found


def test_it_ends_and_is_verified(finished: Coral, coral: Coral, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    result = coral.evolve(env={"PYTHONPATH": path}, search__generations="1")
    assert result.returncode == 0, result.stderr
    assert not any(row.get("infeasible") for row in map(json.loads, coral.history().splitlines()))
    honest, mixed = samples(finished), samples(coral)
    both = honest.keys() & mixed.keys()
    same = [key for key in both if honest[key] == mixed[key]]
    assert both and 0.2 * len(both) < len(same) < 0.8 * len(both)
    outcomes = {sample["verdict"]["outcome"] for group in mixed.values() for sample in group}  # type: ignore[index, attr-defined]
    assert {"syntax", "no-function"} <= outcomes
