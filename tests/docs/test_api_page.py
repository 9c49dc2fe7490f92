"""The Python of docs/api.md runs as it is printed, from the first block to the last."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow(reason="an evolution with real trainings; tests/examples has one in make test")
def test_the_blocks_run_one_after_the_other(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 4 and len(blocks[0].split("\n\n")[-1].splitlines()) <= 10
    done = subprocess.run(
        [sys.executable, "-c", "".join(blocks)], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "finished: " in done.stdout and done.stdout.splitlines()[-1] == "echo fixed"
