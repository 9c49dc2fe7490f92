from pathlib import Path

import pytest

from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store
from tests.report.synthetic_run import make_run


@pytest.fixture
def finished_run(tmp_path: Path) -> tuple[RunFolder, Store]:
    return make_run(tmp_path)


@pytest.fixture
def open_run(tmp_path: Path) -> tuple[RunFolder, Store]:
    return make_run(tmp_path, finished=False)
