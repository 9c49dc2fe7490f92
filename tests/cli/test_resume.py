"""What `coral resume` may change: of a run that lives its budget, and nothing that would have no effect."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from coral_core.config import RunConfig
from coral_core.errors import ConfigError
from coral_core.ledger import Ledger
from coral_core.runs.run_folder import RunFolder, identify_run
from coral_core.runs.run_lock import hold
from coral_core.store.store import Store
from flows.cli import evolve
from flows.cli.places import store_of
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


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFolder, list[RunConfig]]:
    """A run with relative paths that was started in one folder, and now it is another; and what is run."""
    (tmp_path / "first").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    config = RunConfig()
    Store(config.store.path).prepare()
    folder = RunFolder.create(config, identify_run(config), [])
    with hold(folder.path):
        pass  # it ran, and has ended
    (tmp_path / "second" / "runs" / "store").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "second")
    ran: list[RunConfig] = []
    monkeypatch.setattr(evolve, "run_it", lambda config, *_: ran.append(config))
    return folder, ran


@pytest.mark.parametrize("named", ["path", "id"])
def test_a_run_goes_on_where_it_was_started(elsewhere: tuple[RunFolder, list[RunConfig]], named: str) -> None:
    folder, ran = elsewhere
    where = {"runs": "../first/runs"} if named == "id" else {}
    resume(folder.run_id if named == "id" else "../first/runs/" + folder.run_id, **where)
    assert ran[0].runs == str(folder.path.parent) and ran[0].store.path == str(folder.path.parent / "store")
    assert store_of(folder).root == folder.path.parent / "store"  # not the one that lies here
    assert Path.cwd() == folder.path.parent.parent, "problems, models and templates are named from there"


def test_a_place_that_is_given_is_meant_from_here(elsewhere: tuple[RunFolder, list[RunConfig]], tmp_path: Path) -> None:
    folder, ran = elsewhere
    resume(str(folder.path), set_=["store.path=big/store"])
    assert ran[0].runs == str(folder.path.parent) and ran[0].store.path == str(tmp_path / "second" / "big" / "store")
