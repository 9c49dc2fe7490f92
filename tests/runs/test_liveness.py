"""Whether the evolution of a run lives, as this machine and as another one sees it."""

import errno
import fcntl
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coral_core.config import RunConfig
from coral_core.errors import ConfigError
from coral_core.runs.run_folder import SILENT_SECONDS, RunFolder, identify_run
from coral_core.runs.run_lock import hold, is_held, refuse_if_held


def folder(root: Path, **facts: object) -> RunFolder:
    config = RunConfig(runs=str(root))
    made = RunFolder.create(config, identify_run(config), [])
    path = made.path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    return made


def silent(made: RunFolder) -> None:
    """Its last beat was some time ago."""
    old = (made.path / "beat").stat().st_mtime - SILENT_SECONDS - 1
    os.utime(made.path / "beat", (old, old))


@pytest.mark.parametrize("host", [platform.node(), "elsewhere"])
def test_without_a_lock_it_tells_by_its_beat(tmp_path: Path, host: str) -> None:
    made = folder(tmp_path, host=host)
    assert made.lives() is True
    silent(made)
    assert made.lives() is False
    (made.path / "beat").unlink()
    assert made.lives() is False


@contextmanager
def session(path: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that works on the run in `path`."""
    code = "import sys; from pathlib import Path; from coral_core.runs.run_lock import hold\nwith hold(Path(sys.argv[1])): print('up', flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_one_session_at_a_time(tmp_path: Path) -> None:
    with session(folder(tmp_path).path) as first:
        made = folder(tmp_path, pid=first.pid)
        for refused in (lambda: refuse_if_held(made.path), lambda: hold(made.path).__enter__()):
            with pytest.raises(ConfigError) as caught:
                refused()
            text = str(caught.value)
            assert text.startswith(f"{made.run_id} is running already: process {first.pid} on {platform.node()}")
            assert f"coral cancel {made.run_id}" in text and "--again" in text
        first.kill()  # -9: nobody gives anything back
        first.wait()
        with hold(made.path):
            assert is_held(made.path)
    assert is_held(made.path) is False


def test_the_lock_tells_who_lives(tmp_path: Path) -> None:
    made = folder(tmp_path)
    with session(made.path):
        silent(made)
        assert made.lives() is True
        assert folder(tmp_path, host="elsewhere").lives() is True, "another container on this file system"
    assert folder(tmp_path).lives() is False, "it beats, and holds no lock"
    assert folder(tmp_path, host="elsewhere").lives() is True, "another machine may not share its lock"


def test_without_locks_sessions_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = folder(tmp_path)

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold(made.path), hold(made.path):
        assert is_held(made.path) is None and made.lives() is True
        silent(made)
        assert made.lives() is False
