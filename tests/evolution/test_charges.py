"""Limits on the cost of a search: a result that is in the store already is charged what it first cost."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from coral_core.api import EvolutionResult, evolve
from coral_core.config import RunConfig, parse_config
from coral_core.config.budget_config import LanePrices
from coral_core.errors import ConfigError
from coral_core.evolution.charges import Charged, Charges, reached
from coral_core.genome import HeavyGenes
from coral_core.report.history_records import History
from coral_core.runs.records import FinalRecord
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store
from coral_core.verification import check_all, open_run


def run(folder: Path, **search: Any) -> EvolutionResult:
    config = {
        "name": "charged",
        "runs": str(folder),
        "store": {"path": str(folder / "store")},
        "base_model": {"name": "rehearsal"},
        "infra": {"executor": "inline"},
        "search": {"generations": 3, "population": 4, "elites": 2, "strategy": "random"} | search,
        "budget": {"price": {"training": 2.0, "evaluation": 1.0}},
        "problems": {"fitness": 8, "retention": 4, "monitor": 4, "held_out": 8, "pairs": 16},
    }
    return evolve(RunConfig.model_validate(config))


def no_warm_start(heavy: HeavyGenes) -> str:
    raise AssertionError(f"no genome goes on with {heavy}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvolutionResult]:
    """A run without limits, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


def test_a_cache_hit_is_charged_what_it_first_cost(whole: tuple[Path, EvolutionResult]) -> None:
    folder, first = whole
    for limit, text in ({"gpu_seconds": 1e-9}, "1e-09 GPU seconds"), ({"money": 1e-12}, "1e-12 USD"):
        again = run(folder, **limit)  # everything that it asks for is in the store
        final = again.history[-1]
        assert isinstance(final, FinalRecord) and final.reason == f"all {text} are spent"
        assert History.of(RunFolder(again.folder)).genomes.keys() == {f"g000-00{slot}" for slot in range(4)}
        checked, _ = open_run(RunFolder(again.folder), Store(folder / "store"))
        assert checked is not None and check_all(checked)
        assert [finding.text for finding in checked.findings if finding.status == "differs"] == []
    assert len(History.of(RunFolder(first.folder)).genomes) == 12


def test_adapters_and_evaluations_are_charged_once(tmp_path: Path) -> None:
    result = run(tmp_path, strategy="evolution")
    store = Store(tmp_path / "store")
    records = list(History.of(RunFolder(result.folder)).genomes.values())
    charges = Charges(store, LanePrices(training=3600, evaluation=7200), no_warm_start)
    for record in [*records, *records]:
        charges.add(record)
    adapters, evaluations = {r.training_digest for r in records}, {r.evaluation_digest for r in records}
    assert len(evaluations) < len(records)  # elites come again
    trained = sum(store.read_adapter(digest).cost.seconds for digest in adapters)  # type: ignore[union-attr]
    evaluated = sum(store.read_evaluation(digest).cost.seconds for digest in evaluations)  # type: ignore[union-attr]
    total = charges.total
    assert (total.trainings, total.evaluations) == (len(adapters), len(evaluations))
    assert total.gpu_seconds == pytest.approx(trained + evaluated)
    assert total.money == pytest.approx(trained + 2 * evaluated)


def test_an_unknown_cost_is_not_free(whole: tuple[Path, EvolutionResult], tmp_path: Path) -> None:
    folder, result = whole
    store = Store(shutil.copytree(folder / "store", tmp_path / "store"))
    records = list(History.of(RunFolder(result.folder)).genomes.values())
    store.remove("adapter", records[0].training_digest)
    charges = Charges(store, LanePrices(), no_warm_start)
    for record in records:
        charges.add(record)
    assert charges.total.gpu_seconds is None and charges.total.trainings > 1
    assert reached(RunConfig.model_validate({"search": {"gpu_seconds": 1e9}}), charges.total)
    assert not reached(RunConfig(), charges.total) and not reached(RunConfig(), Charged())


def test_money_needs_prices() -> None:
    with pytest.raises(ConfigError, match=r"c.yaml:1: .*search.money 5 needs prices"):
        parse_config("search: {money: 5}", "c.yaml")
