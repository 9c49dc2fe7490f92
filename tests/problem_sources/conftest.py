"""Three directories hold test files of their own, which are data here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

collect_ignore = ["odd_package", "package_like", "quixbugs_like"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Recordings of a module's tests are kept apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("CORAL_HOME", str(folder))
        yield folder
