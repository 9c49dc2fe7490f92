"""Small models of many architectures, made once each."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from coral_core.lm.engine_client import InlineEngine
    from coral_core.lm.requests import AdapterFolder


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a small model (tests/lm/small_models.py) -> its folder, which tests must leave as it is."""
    root = tmp_path_factory.mktemp("zoo")

    def folder(name: str) -> Path:
        from tests.lm.small_models import save_model

        return root / name if (root / name).exists() else save_model(root / name, name)

    return folder


@pytest.fixture(scope="module")
def torch_engine() -> "InlineEngine":
    """The torch engine with coral-tiny."""
    from coral_core.config.tree import BaseModelConfig
    from coral_core.lm.engine_client import InlineEngine

    engine = InlineEngine()
    engine.load(BaseModelConfig(name="coral-tiny"))
    return engine


@pytest.fixture(scope="module")
def each_adapter(tmp_path_factory: pytest.TempPathFactory) -> "dict[str, AdapterFolder]":
    """A LoRA, a DoRA and an rsLoRA of coral-tiny, by name."""
    from tests.lm.test_vllm_engine import saved_adapter

    root = tmp_path_factory.mktemp("adapters")
    return {
        "lora": saved_adapter(root / "lora"),
        "dora": saved_adapter(root / "dora", adapter="dora"),
        "rslora": saved_adapter(root / "rslora", scaling="rslora", rank=9),
    }
