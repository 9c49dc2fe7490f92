"""What a source states about its splits is in the history and in the report."""

from pathlib import Path
from typing import Any

import pytest

from coral_core import problem_sources
from coral_core.api import evolve
from coral_core.config import ProblemsConfig, RunConfig
from coral_core.problem_sources import load_problems
from coral_core.problems.problem import ProblemSet
from coral_core.report.history_records import History
from coral_core.runs.run_folder import RunFolder

NOTE = "Time runs forward: [held-out] is newer than fitness"
SIZES = {"fitness": 4, "retention": 2, "monitor": 0, "held_out": 4, "pairs": 8}


class Entry:
    """A plug-in's entry point."""

    value = "their.module:load"

    def load(self) -> Any:
        return source


def source(config: ProblemsConfig) -> ProblemSet:
    made = load_problems(ProblemsConfig.model_validate(SIZES))
    return made.model_copy(update={"source": "mine", "notes": (NOTE,)})


def test_notes_reach_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem_sources, "plugin_sources", lambda: {"mine": Entry()})
    config = {
        "name": "noted",
        "runs": str(tmp_path),
        "store": {"path": str(tmp_path / "store")},
        "base_model": {"name": "rehearsal"},
        "infra": {"executor": "inline"},
        "search": {"generations": 1, "population": 4, "strategy": "random"},
        "problems": {"source": "mine", **SIZES},
    }
    result = evolve(RunConfig.model_validate(config))
    record = History.of(RunFolder(result.folder)).run
    assert record is not None and record.problems["notes"] == [NOTE]
    assert NOTE in (result.folder / "report.html").read_text() and NOTE in (result.folder / "report.json").read_text()
