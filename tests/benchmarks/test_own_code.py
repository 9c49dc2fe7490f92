"""benchmarks/own_code.py on a small project: its figures, and that it goes on."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import own_code
from benchmarks.write_readme import ROWS
from tests.rehearsal_runs import ROOT


@pytest.mark.slow(reason="recording, bugs and four trainings; test_real_model has the figures of such a run")
def test_a_package_is_searched_to_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_code, "source_of", lambda name: ROOT / "examples" / "functions")
    monkeypatch.setattr(own_code, "PYTHON", Path(sys.executable))
    monkeypatch.setenv("CORAL_HOME", str(tmp_path / "home"))
    given = [
        "--packages",
        "functions",
        "--model",
        "coral-tiny",
        "--population",
        "4",
        "--generations",
        "1",
        "--steps",
        "1",
    ]
    for _ in range(2):  # the second call finds all in the store
        own_code.main([*given, "--work", str(tmp_path), "--results", str(tmp_path)])
    found = json.loads((tmp_path / "own_code.json").read_text())
    (row,) = found["packages"]
    assert row["finished"] and row["adapters"] == 4 and row["held_out"] > 0
    for line in own_code.LINES:
        low, high = row["interval"][line]
        assert low <= row[line] <= high and row[line] == row["repaired"][line] / row["held_out"]
    assert row["champion_minus_default"]["bugs"] == row["held_out"]
    assert any("champion repairs" in what for what, _ in ROWS["own_code"](found))
