"""The inline executor: in order, one at a time, without second tries, and nothing booked where nobody pays."""

from pathlib import Path
from typing import Any

import pytest

from coral_core.config import RunConfig
from coral_core.errors import ConfigError, EngineError
from coral_core.evolution.job_runner import Planner
from coral_core.execution import InlineExecutor, make_executor
from coral_core.genome import default_lora
from coral_core.lanes.lane import Lane
from coral_core.store.store import Store


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "store": {"path": str(tmp_path / "store")},
            "base_model": {"name": "rehearsal"},
            "infra": {"executor": "inline"},
            "problems": {"fitness": 4, "retention": 0, "monitor": 0, "held_out": 4, "pairs": 8},
        }
    )


def test_jobs_run_one_by_one_in_this_process(config: RunConfig) -> None:
    planner, heavy = Planner.of_config(config), default_lora("rehearsal")
    with make_executor(config) as executor:
        assert isinstance(executor, InlineExecutor)
        futures: list[Any] = [executor.submit_training(planner.training(heavy, n)) for n in range(3)]
        assert len(executor.running()) <= 1
        assert [future.result(timeout=300).infeasible for future in futures] == [None] * 3
        assert executor.running() == () and executor.held() is None


def test_an_error_is_not_retried_and_names_its_cause(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def fail(*_: Any) -> None:
        tries.append(1)
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(Lane, "train", fail)
    job = Planner.of_config(config).training(default_lora("rehearsal"))
    with make_executor(config) as executor, pytest.raises(EngineError, match="by zero") as caught:
        executor.submit_training(job).result(timeout=300)
    assert isinstance(caught.value.__cause__, ZeroDivisionError) and tries == [1]


def test_without_a_ledger_nothing_is_booked(config: RunConfig, tmp_path: Path) -> None:
    store = Store(config.store.path)
    store.prepare()
    job = Planner.of_config(config).training(default_lora("rehearsal"))
    with InlineExecutor(config.infra, store) as executor:
        executor.submit_training(job).result(timeout=300)
    assert not list((tmp_path / "store").glob("ledger/accounts/*"))


def test_work_pools_are_refused_with_a_remedy(config: RunConfig) -> None:
    pools = config.model_copy(update={"infra": config.infra.model_copy(update={"executor": "work-pools"})})
    with pytest.raises(ConfigError, match="work-pools") as refused:
        make_executor(pools)
    assert "coral evolve" in refused.value.remedy
