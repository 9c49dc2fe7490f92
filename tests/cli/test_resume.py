"""What `coral resume` may change: of a run that lives its budget, and nothing that would have no effect."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from coral_core.config import RunConfig
from coral_core.errors import ConfigError
from coral_core.hold import hold
from coral_core.ledger import Ledger
from coral_core.run import RunFolder, identify_run
from coral_core.store import Store
from flows.cli.stop import resume


@pytest.fixture
def living(tmp_path: Path) -> Iterator[RunFolder]:
    config = RunConfig.model_validate({"runs": str(tmp_path / "runs"), "store": {"path": str(tmp_path / "store")}})
    Store(config.store.path).prepare()
    folder = RunFolder.create(config, identify_run(config), [])
    Ledger(Store(config.store.path)).set_budget(folder.run_id, config.budget)
    with hold(folder.path):
        yield folder


def test_of_a_living_run_only_the_budget_changes(living: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    before = (living.path / "config.yaml").read_bytes()
    with pytest.raises(ConfigError) as caught:
        resume(str(living.path), set_=["budget.evolution.gpu_hours=3", "infra.linger=5"])
    text = str(caught.value)
    assert text.startswith(f"--set infra.linger=5: {living.run_id} is running") and "coral cancel" in text
    assert (living.path / "config.yaml").read_bytes() == before
    resume(str(living.path), set_=["budget.evolution.gpu_hours=3"])
    assert "it goes on" in capsys.readouterr().out
    assert living.config().budget.evolution.gpu_hours == 3
    assert Ledger(Store(living.config().store.path)).budget(living.run_id).evolution.gpu_hours == 3


def test_a_limit_in_money_needs_prices_here_too(living: RunFolder) -> None:
    with pytest.raises(ConfigError, match=r"--set budget\.day\.money=5: .* budget\.price\.training is 0"):
        resume(str(living.path), set_=["budget.day.money=5"])
    prices = ["budget.price.training=1", "budget.price.evaluation=0.5"]
    resume(str(living.path), set_=["budget.day.money=5", *prices])
    assert living.config().budget.day.money == 5
