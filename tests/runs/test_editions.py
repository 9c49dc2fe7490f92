"""Each scheduled run is an edition of its own, also where two share a date; run again it stays the one that it was."""

import json
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from coral_core.config import RunConfig
from coral_core.evolution.start_from import freeze_start
from coral_core.runs.editions import scheduled_edition, stamp
from coral_core.runs.run_folder import RunFolder, identify_run
from tests.report.synthetic_run import make_run

BERLIN = ZoneInfo("Europe/Berlin")
FIRST = datetime(2026, 3, 29, 1, 30, tzinfo=BERLIN)
SECOND = datetime(2026, 3, 30, 1, 30, tzinfo=BERLIN)
"""The clocks go forward between them: both are on the 29th by UTC."""


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    before, _ = make_run(tmp_path)
    return before.config()


def night(config: RunConfig, start: datetime, flow_run_id: str) -> RunFolder:
    """What `evolve` does with a scheduled run."""
    identity = identify_run(config, scheduled_edition(config, start))
    return RunFolder.create(config, identity, [], flow_run_id, "", stamp(start))


def test_two_nights_of_one_date_are_two_editions(config: RunConfig) -> None:
    assert FIRST.astimezone(UTC).date() == SECOND.astimezone(UTC).date()
    first, second = night(config, FIRST, "a"), night(config, SECOND, "b")
    assert first.run_id.endswith("-e20260329") and second.run_id.endswith("-e202603292330")
    assert night(config, datetime(2026, 3, 31, 1, 30, tzinfo=BERLIN), "c").run_id.endswith("-e20260330")


def test_run_again_it_keeps_its_edition(config: RunConfig) -> None:
    first, second = night(config, FIRST, "a"), night(config, SECOND, "b")
    assert night(config, FIRST, "another flow run").path == first.path
    assert night(config, SECOND.astimezone(UTC), "b").path == second.path
    by_hand = RunFolder.create(config, identify_run(config, 20260329), [], "by hand")
    assert by_hand.path == first.path and by_hand.sound_facts().scheduled == "2026-03-29T00:30:00+00:00"
    assert night(config, SECOND, "d").path == second.path


def test_a_run_by_hand_has_the_date_already(config: RunConfig) -> None:
    RunFolder.create(config, identify_run(config, 20260329), [])
    assert night(config, FIRST, "a").run_id.endswith("-e202603290030")


def test_a_folder_that_was_never_begun_is_taken(config: RunConfig) -> None:
    folder = night(config, FIRST, "a")
    (folder.path / "run.json").unlink()  # killed between its two files
    assert night(config, FIRST, "a").path == folder.path
    (folder.path / "run.json").write_text("{")
    assert night(config, FIRST, "a").path != folder.path


def test_the_second_night_names_the_first_as_the_one_before(config: RunConfig) -> None:
    first = night(config, FIRST, "a")
    sample = next(Path(config.runs).glob("*-e1"))
    for name in ("history.jsonl", "timings.jsonl"):
        (first.path / name).write_bytes((sample / name).read_bytes())
    rows = [json.loads(line) for line in (first.path / "timings.jsonl").read_text().splitlines()]
    rows[-1]["started"] += 1e6  # it finished after the sample
    (first.path / "timings.jsonl").write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
    start = freeze_start(night(config, SECOND, "b"), config)
    assert start.previous is not None and start.previous.run_id == first.run_id
