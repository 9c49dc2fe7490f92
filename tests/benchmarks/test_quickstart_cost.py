"""benchmarks/quickstart_cost.py: its statistics, and both sides of one seed at a tiny size."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quickstart_cost import main, summary
from benchmarks.record import ROOT
from benchmarks.write_readme import ROWS


def row(new: float, old: float, wins: int, losses: int) -> dict[str, Any]:
    seconds = {"new": new, "old": old}
    return {"cpu_seconds": seconds, "difference": (wins - losses) / 100, "bugs": 100, "only_new": wins, "only_old": losses}  # fmt: skip


def test_the_difference_has_an_interval_over_seeds_and_one_over_bugs() -> None:
    found = summary([row(60, 100, 6, 4), row(90, 100, 4, 4), row(75, 100, 8, 4)])
    assert (found["ratio"], found["cpu_seconds"]) == (0.75, {"old": 300, "new": 225})
    assert found["difference"] == pytest.approx(0.02)
    assert found["interval_by_seed"] == pytest.approx((0.02 - 4.303 * 0.02 / 3**0.5, 0.02 + 4.303 * 0.02 / 3**0.5))
    low, high = found["interval_by_bug"]
    assert low + high == pytest.approx(0.04) and high - low == pytest.approx(
        2 * 1.959964 * (30 - 36 / 300) ** 0.5 / 300
    )
    shown = dict(ROWS["quickstart_cost"]({"rows": [row(1, 1, 0, 0)], "against": "1f1d1b0", **found}))
    assert shown["95 % interval of the difference, over seeds"] == "-0.030 to +0.070"
    assert summary([row(1, 2, 1, 1)])["interval_by_seed"] is None, "one seed tells nothing of the next"


@pytest.mark.slow(reason="two commands with servers of their own; the quick test here has the statistics")
def test_both_sides_of_a_seed_are_compared_and_kept(tmp_path: Path) -> None:
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True).returncode != 0:
        pytest.skip("not a git checkout")
    tiny = {
        "base_model.name": "rehearsal", "search.generations": 2, "search.population": 4, "search.elites": 1,
        "search.champion_repeats": 0, "problems.fitness": 8, "problems.retention": 2, "problems.monitor": 0,
        "problems.held_out": 12, "problems.pairs": 16,
    }  # fmt: skip
    given = ["--seeds", "1", "--against", "HEAD", "--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    for _ in range(2):  # the second time nothing is run
        main([*given, *(part for key, value in tiny.items() for part in ("--set", f"{key}={value}"))])
        found = json.loads((tmp_path / "quickstart_cost.json").read_text())
        (only,) = found["rows"]
        assert found["missing"] == [] and only["bugs"] == 12 and only["seed"] == 0
        assert all(seconds > 0 for seconds in only["command_cpu_seconds"].values())
        assert only["only_new"] == only["only_old"] == 0, "equal code has equal champions"
