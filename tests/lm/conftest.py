"""Small models of many architectures, made once each."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a small model (tests/lm/small_models.py) -> its folder, which tests must leave as it is."""
    root = tmp_path_factory.mktemp("zoo")

    def folder(name: str) -> Path:
        from tests.lm.small_models import save_model

        return root / name if (root / name).exists() else save_model(root / name, name)

    return folder
