"""What `coral test-patch` makes of files that are no code."""

import os
import threading
from pathlib import Path

import pytest

from coral_core.errors import ConfigError
from coral_core.judge import judge
from flows.cli import judge_patch
from flows.cli.judge_patch import MOST_BYTES, read_patch


def test_what_never_ends_is_not_read_to_its_end() -> None:
    text, note = read_patch("/dev/zero")
    assert "\0" in text and f"more than {MOST_BYTES} bytes" in note
    assert judge_patch.LONGEST_PATCH == judge.LONGEST_PATCH


@pytest.mark.parametrize("size", [0, 10, MOST_BYTES, MOST_BYTES + 1, 10_000_000])
def test_files_of_any_size(tmp_path: Path, size: int) -> None:
    file = tmp_path / "patch.py"
    file.write_bytes(b"#" * size)
    text, note = read_patch(str(file))
    assert (text == "#" * size and not note) if size <= MOST_BYTES else ("\0" in text and note)


def test_a_pipe_is_read_and_a_folder_refused(tmp_path: Path) -> None:
    """As a shell gives one: coral test-patch PROBLEM <(git show HEAD~1:module.py)"""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"x = 1\n"))
    writer.start()
    assert read_patch(str(pipe)) == ("x = 1\n", "")
    writer.join()
    with pytest.raises(ConfigError, match="Is a directory"):
        read_patch(str(tmp_path))
    (tmp_path / "latin.py").write_bytes(b"x = '\xff'")
    text, note = read_patch(str(tmp_path / "latin.py"))
    assert "\0" in text and "byte 5" in note
