from pathlib import Path

import pytest
from synthetic_run import make_run

from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store


@pytest.fixture
def finished_run(tmp_path: Path) -> tuple[RunFolder, Store]:
    return make_run(tmp_path)


@pytest.fixture
def open_run(tmp_path: Path) -> tuple[RunFolder, Store]:
    return make_run(tmp_path, finished=False)
