"""Whether the evolution of a run lives, as this machine and as another one sees it."""

import json
import os
from pathlib import Path

from coral_core.config import RunConfig
from coral_core.run import SILENT_SECONDS, RunFolder, identify_run


def folder(root: Path, **facts: object) -> RunFolder:
    config = RunConfig(runs=str(root))
    made = RunFolder.create(config, identify_run(config), [])
    path = made.path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    return made


def test_a_process_of_this_machine_is_looked_up(tmp_path: Path) -> None:
    assert folder(tmp_path).lives() is True
    assert folder(tmp_path, pid=2**22 + 1).lives() is False


def test_another_machine_or_container_tells_by_its_beat(tmp_path: Path) -> None:
    made = folder(tmp_path, host="elsewhere", pid=1)
    assert made.lives() is None, "made before there were beats"
    made.beat()
    assert made.lives() is True
    old = (made.path / "beat").stat().st_mtime - SILENT_SECONDS - 1
    os.utime(made.path / "beat", (old, old))
    assert made.lives() is False
