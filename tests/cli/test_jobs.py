"""`coral jobs clear`, without a server."""

import os
from pathlib import Path

import pytest

from coral_core.errors import ConfigError
from coral_core.queue.queue import Failure, JobQueue, Ticket
from coral_core.runs.run_folder import RunFolder
from coral_core.runs.run_lock import hold
from coral_core.store.store import Store
from flows.cli.jobs import _genes, clear, retry


def test_only_jobs_that_stay_away_are_cleared_and_only_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an evolution that runs they would come back; of another user they are not ours to clear."""
    store = Store(tmp_path / "store")
    store.prepare()
    queue = JobQueue(store, "training")
    queue.prepare()
    queue.submit(Ticket(kind="training", digest="a" * 64, run_id="mine-1", job={}, seconds=1))
    folder = RunFolder(tmp_path / "runs" / "mine-1")
    folder.path.mkdir(parents=True)
    (folder.path / "run.json").write_text("{}")
    places = {"store": str(store.root), "runs": str(tmp_path / "runs")}
    with hold(folder.path), pytest.raises(ConfigError, match="is running, and would put its jobs back"):
        clear("training", run="mine-1", **places)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    with pytest.raises(ConfigError, match="only one's own jobs can be cleared"):
        clear("training", run="mine-1", **places)
    monkeypatch.undo()
    assert len(queue.waiting("mine-1")) == 1
    clear("training", run="mine-1", **places)
    assert not queue.waiting("mine-1")


@pytest.fixture
def shared(tmp_path: Path) -> JobQueue:
    """One job that two runs wanted and that failed for both."""
    store = Store(tmp_path / "store")
    store.prepare()
    queue = JobQueue(store, "training")
    queue.prepare()
    failure = Failure(lane="a", host="box", error="OSError", message="no space left")
    for run_id in ("mine-1", "mine-2"):
        ticket = Ticket(kind="training", digest="a" * 64, run_id=run_id, job={}, seconds=1)
        queue.set_aside(ticket.after(failure))
    return queue


def test_a_job_is_tried_again_for_every_run_that_wants_it(shared: JobQueue, capsys: pytest.CaptureFixture[str]) -> None:
    retry("a" * 12, store=str(shared.store.root))
    assert "waits again for 2 runs" in capsys.readouterr().out
    assert not shared.all_failed()
    assert [len(shared.waiting(run_id)) for run_id in ("mine-1", "mine-2")] == [1, 1]


def test_a_run_may_be_named_by_its_beginning(shared: JobQueue, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(shared.store.root)
    with pytest.raises(ConfigError, match=r"mine-: 2 runs begin like that. Runs with jobs in training: mine-1, mine-2"):
        clear("training", run="mine-", store=store)
    with pytest.raises(
        ConfigError, match=r"other: no runs begin like that. Runs with jobs in training: mine-1, mine-2"
    ):
        clear("training", run="other", store=store)
    shared.submit(Ticket(kind="training", digest="b" * 64, run_id="longer-name-1", job={}, seconds=1))
    clear("training", run="longer", store=store)
    assert "of longer-name-1" in capsys.readouterr().out and not shared.waiting("longer-name-1")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "large", "no genes"])
def test_genes_are_read_of_a_file_of_bounded_size_alone(tmp_path: Path, kind: str) -> None:
    file = Path("/dev/zero") if kind == "device" else tmp_path / "genes.json"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "large":
        file.write_bytes(b" " * 2_000_000)
    elif kind == "no genes":
        file.write_text('{"genome": 5}')
    with pytest.raises(ConfigError, match="holds no genes"):
        _genes(file)
