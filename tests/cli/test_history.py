"""`coral problems history` and `coral problems show`: fixes, reasons, and where a problem comes from."""

import json
from pathlib import Path

import pytest

from coral_core.config import load_config
from coral_core.errors import ConfigError
from coral_core.problem_sources import load_problems
from coral_core.problem_sources.history.fix import CommitOutcome, Reason
from coral_core.problem_sources.history.walk import History
from flows.cli import history as command
from tests.problem_sources.test_time_splits import fixed

FOUND = History(
    revision="a" * 40,
    outcomes=(
        fixed(1, 400, message="Repair f1\n\nIt was [bold]wrong\x1b[31m.", failing=("tests/test_f.py::test_f1",), refused=("m.py:g: why",)),
        CommitOutcome(commit="b" * 40, author_time=86_400, message="Merge", reason=Reason.MERGE),
        CommitOutcome(commit="c" * 40, author_time=-1, message="Old", reason=Reason.UNREADABLE, detail="its author date cannot be read"),
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def walked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "walk", lambda settings, progress: FOUND)


def test_fixes_and_reasons_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    command.history(Path("clone"))
    shown = capsys.readouterr().out
    assert "1971-02-05" in shown and "m.py:f1" in shown and "Repair f1" in shown
    assert "1 problems in 3 commits (333 per 1,000)" in shown
    assert "1 commits: a merge commit" in shown


def test_one_commit_is_told_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    command.history(Path("clone"), why=FOUND.outcomes[0].commit)
    shown = capsys.readouterr().out
    assert "It was [bold]wrong" in shown and "\x1b" not in shown
    assert "fails before, passes after: tests/test_f.py::test_f1" in shown
    assert "no problem: m.py:g: why" in shown
    command.history(Path("clone"), why="ccc")
    assert (
        "gives no problem: objects are missing, damaged or too large (its author date cannot be read)"
        in capsys.readouterr().out
    )
    with pytest.raises(ConfigError, match="--why 1234: 0 of the 3 commits begin so"):
        command.history(Path("clone"), why="1234")


def test_json_has_every_commit(capsys: pytest.CaptureFixture[str]) -> None:
    command.history(Path("clone"), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["reasons"] == {"a merge commit": 1, "objects are missing, damaged or too large": 1}
    assert [commit["author_date"] for commit in found["commits"]] == ["1971-02-05", "1970-01-02", None]
    assert found["commits"][0]["problems"] == [{"function": "m.py:f1", "cases": 6, "recorded": 6, "failing": 0.5}]


def test_a_problem_is_shown_with_its_commit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "provenance", lambda name, python: FOUND.outcomes[0])
    config = tmp_path / "c.yaml"
    config.write_text("problems: {fitness: 4, retention: 0, monitor: 0, held_out: 4, pairs: 8}\n")
    with pytest.raises(ConfigError, match=r"builtin: 0 of the \d+ problems"):
        command.show("builtin", config=config)
    problem = load_problems(load_config(config, []).problems).fitness[0]
    command.show(problem.problem_id, config=config)
    shown = capsys.readouterr().out
    assert "Repair f1" in shown and "--- buggy" in shown and "+++ right" in shown
    command.show(problem.problem_id, config=config, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["split"], found["entry_point"]) == ("fitness", problem.entry_point)
    assert found["commit"]["author_date"] == "1971-02-05"
