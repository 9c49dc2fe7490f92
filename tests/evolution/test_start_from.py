"""What a run starts from is found once, frozen, and never exchanged unseen."""

import json
from pathlib import Path

import pytest

from coral_core.config import RunConfig
from coral_core.config.tree import SearchConfig
from coral_core.errors import StoreError
from coral_core.evolution.start_from import find_start, freeze_start, read_start
from coral_core.runs.records import RunRecord, SessionTiming
from coral_core.runs.run_folder import HistoryWriter, RunFolder, identify_run
from tests.report.synthetic_run import PROBLEMS, make_run


def made(root: Path, edition: int = 2, start_from: str = "last-champion", name: str = "synthetic") -> RunFolder:
    """The folder of another edition of the synthetic run."""
    config = RunConfig(
        name=name,
        runs=str(root / "runs"),
        problems=PROBLEMS,
        search=SearchConfig.model_validate({"generations": 2, "population": 4, "start_from": start_from}),
    )
    return RunFolder.create(config, identify_run(config, edition), [])


def test_the_last_finished_run_of_the_name_is_found_champion_first(tmp_path: Path) -> None:
    before, _ = make_run(tmp_path)
    folder = made(tmp_path)
    start = freeze_start(folder, folder.config())
    assert start.previous is not None and start.previous.run_id == before.run_id
    assert start.previous.champion == "g001-001" and start.previous.fitness == pytest.approx(0.7)
    assert start.previous.held_out_pass_at_1 == pytest.approx(20 / 30)
    assert start.genomes[0].heavy.rank == 4
    assert len({genome.genes_digest() for genome in start.genomes}) == len(start.genomes) == 2
    assert all(genome.genome_id.startswith(f"{before.run_id}/g0") for genome in start.genomes)
    assert start.record() is not None and before.run_id in start.text


@pytest.mark.parametrize("hidden", ["unfinished", "another name", "itself"])
def test_no_earlier_run_starts_fresh_and_says_so(tmp_path: Path, hidden: str) -> None:
    before, _ = make_run(tmp_path, finished=hidden != "unfinished")
    folder = made(tmp_path, name="synthetic-2" if hidden == "another name" else "synthetic")
    start = find_start(folder.config(), before.run_id if hidden == "itself" else folder.run_id)
    assert start.genomes == () and start.previous is None and "no earlier run of this name has finished" in start.text


def test_what_finishes_later_changes_nothing(tmp_path: Path) -> None:
    folder = made(tmp_path)
    first = freeze_start(folder, folder.config())
    make_run(tmp_path)
    assert freeze_start(folder, folder.config()) == first and first.previous is None


def test_the_last_to_finish_counts_and_a_replay_does_not(tmp_path: Path) -> None:
    before, _ = make_run(tmp_path)
    other = made(tmp_path, edition=5)
    HistoryWriter(other).add(*[r for r in before.history() if not isinstance(r, RunRecord)])
    run = next(r for r in before.history() if isinstance(r, RunRecord))
    HistoryWriter(other).add(*[run, *[r for r in before.history() if not isinstance(r, RunRecord)]])
    for folder, ended in ((before, 300.0), (other, 400.0), (before, 500.0)):  # the last line: a replay of the first
        folder.append_timing(SessionTiming(started=ended, seconds=1, trainings=0, evaluations=0, outcome="finished"))
    config = made(tmp_path).config()
    found = find_start(config, identify_run(config, 2).run_id).previous
    assert found is not None and found.run_id == other.run_id


def test_a_broken_run_is_passed_over_and_named(tmp_path: Path) -> None:
    before, _ = make_run(tmp_path)
    lines = (before.path / "history.jsonl").read_text().splitlines()
    (before.path / "history.jsonl").write_text("\n".join([lines[0][:40], *lines[1:]]) + "\n")
    folder = made(tmp_path)
    start = freeze_start(folder, folder.config())
    assert start.passed_over == (before.run_id,) and "could not be read" in start.text


def test_a_start_from_nothing_still_knows_the_run_before_and_leaves_history_alone(tmp_path: Path) -> None:
    before, _ = make_run(tmp_path)
    folder = made(tmp_path, start_from="nothing")
    start = freeze_start(folder, folder.config())
    assert start.genomes == () and start.previous is not None and start.previous.run_id == before.run_id
    assert start.record() is None
    assert "start" not in json.loads((before.path / "history.jsonl").read_text().splitlines()[0])


def begun(tmp_path: Path) -> RunFolder:
    """A run that began from the synthetic one, with its first line of history."""
    before, _ = make_run(tmp_path)
    folder = made(tmp_path)
    start = freeze_start(folder, folder.config())
    run = next(record for record in before.history() if isinstance(record, RunRecord))
    HistoryWriter(folder).add(*[run.model_copy(update={"start": start.record()})])
    assert freeze_start(folder, folder.config()) == start == read_start(folder)
    return folder


@pytest.mark.parametrize(("damage", "says"), [("gone", "is gone"), ("cut", "cannot be read"), ("other", "is not what")])
def test_an_exchanged_start_is_refused(tmp_path: Path, damage: str, says: str) -> None:
    folder = begun(tmp_path)
    path = folder.path / "start.json"
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        data = json.loads(path.read_text())
        data["genomes"] = data["genomes"][1:]
        path.write_text(json.dumps(data))
    with pytest.raises(StoreError, match=says):
        freeze_start(folder, folder.config())


def test_runs_without_the_key_keep_their_ids_and_the_key_makes_another_run() -> None:
    plain, carrying = RunConfig(), RunConfig(search=SearchConfig(start_from="last-champion"))
    assert identify_run(plain).run_id != identify_run(carrying).run_id
    assert identify_run(plain).run_seed == identify_run(carrying).run_seed


def test_a_run_of_another_version_is_passed_over(tmp_path: Path) -> None:
    """Its configuration has a key that is gone: that must not stop every new run of the name."""
    before, _ = make_run(tmp_path)
    config = before.path / "config.yaml"
    config.write_text(config.read_text() + "a_key_of_old: 1\n")
    folder = made(tmp_path)
    assert freeze_start(folder, folder.config()).passed_over == (before.run_id,)


@pytest.mark.parametrize("kept", ["final", "run"])
def test_a_history_without_a_first_or_a_last_record_is_passed_over(tmp_path: Path, kept: str) -> None:
    before, _ = make_run(tmp_path)
    lines = (before.path / "history.jsonl").read_text().splitlines()
    left = lines[1:] if kept == "final" else ["[]", *lines[1:-1], '"final"']
    (before.path / "history.jsonl").write_text("\n".join(left) + "\n")
    folder = made(tmp_path)
    assert freeze_start(folder, folder.config()).previous is None
