"""`coral jobs clear`, without a server."""

from pathlib import Path

import pytest

from coral_core.errors import ConfigError
from coral_core.hold import hold
from coral_core.queue import JobQueue, Ticket
from coral_core.run import RunFolder
from coral_core.store import Store
from flows.cli.jobs import clear


def test_only_jobs_that_stay_away_are_cleared_and_only_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an evolution that runs they would come back; of another user they are not ours to clear."""
    store = Store(tmp_path / "store")
    store.prepare()
    queue = JobQueue(store, "training")
    queue.prepare()
    queue.join("mine-1", "", 1.0)
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
