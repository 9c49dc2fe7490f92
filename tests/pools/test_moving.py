"""docs/executors.md as it is written: moving a run between executors, and the snippet."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pools.conftest import SLOW, Pools
from tests.rehearsal_runs import SMALL, Coral
from tests.waiting import until

PAGE = Path(__file__).parents[2] / "docs" / "executors.md"


@pytest.mark.slow(reason="four runs")
def test_a_run_moves_from_local_to_pools_and_back(pools: Pools, tmp_path: Path) -> None:
    whole = Coral(Path(pools.environment["CORAL_HOME"]), tmp_path / "whole")
    assert whole.evolve(base_model__name=SLOW).returncode == 0
    local = Coral(Path(pools.environment["CORAL_HOME"]), pools.folder)
    local.environment["PREFECT_API_URL"] = pools.url
    begun = local.start(base_model__name=SLOW)
    store = pools.runs / "store"
    until(lambda: len(list(store.glob("adapters/*"))) >= 2)
    begun.terminate()
    begun.communicate(timeout=600)
    kept = len(list(store.glob("adapters/*")))
    moved = pools.start(base_model__name=SLOW)
    until(lambda: len(list(store.glob("adapters/*"))) > kept or moved.poll() is not None)
    moved.terminate()
    moved.communicate(timeout=600)
    back = local.evolve(base_model__name=SLOW)
    assert back.returncode == 0, back.stderr
    assert local.history() == whole.history()
    assert pools.work_done("training") >= 1 and len(local.done()) == len(set(local.done()))


@pytest.mark.slow(reason="lanes of its own")
def test_the_snippet_works_as_it_is_printed(pools: Pools) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    settings = SMALL | {"store.path": str(pools.runs / "store")}
    sections: dict[str, list[str]] = {}
    for key, value in settings.items():
        sections.setdefault(key.split(".")[0], []).append(f"  {key.split('.')[1]}: {value}\n")
    (pools.folder / "my.yaml").write_text("".join(f"{name}:\n{''.join(lines)}" for name, lines in sections.items()))
    done = subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=pools.folder,
        env={name: value for name, value in pools.environment.items() if name != "PREFECT_API_URL"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "bugfix" in done.stdout, done.stdout
