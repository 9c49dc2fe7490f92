"""Runs of strategies whose generations are not all of one size, and runs whose strategy has changed since they began."""

from pathlib import Path

import pytest

from coral_core import RunConfig, evolve
from coral_core.report.build_report import build_report
from coral_core.runs.records import FinalRecord, GenerationRecord, GenomeRecord, RunRecord
from coral_core.runs.run_folder import RunFolder
from coral_core.search.random_search import RandomSearch
from coral_core.search.strategy import StrategyError
from coral_core.store.store import Store
from coral_core.verification import Finding, check_all
from coral_core.verification import open_run as open_verified
from tests.evolution.test_api import settings


def config(folder: Path, strategy: str, generations: int = 9) -> RunConfig:
    given = settings(folder)
    given["problems"] = {"fitness": 4, "retention": 2, "monitor": 0, "held_out": 4, "pairs": 8}
    given["search"] = {"strategy": strategy, "population": 4, "generations": generations}
    heavy = {"rank": [4, 8], "alpha": [16], "dropout": [0], "target_modules": ["q", "q+v", "all"], "adapter": ["lora"], "learning_rate": [1e-3]}  # fmt: skip
    return RunConfig.model_validate(given | {"genes": {"heavy": heavy}})


def checked(folder: Path) -> list[Finding]:
    run, broken = open_verified(RunFolder(folder), Store(folder.parent.parent / "store"))
    assert run is not None, broken
    check_all(run)
    return run.findings


@pytest.mark.parametrize(
    ("strategy", "genomes", "reason"),
    [
        ("grid", [4, 2], "all 6 adapters of the grid were tried"),
        pytest.param(
            "fixed",
            [1],
            "the strategy fixed has one genome",
            marks=pytest.mark.slow(reason="two runs; make test has grid"),
        ),
    ],
)
def test_a_search_that_ends_early_is_a_whole_run(
    tmp_path: Path, strategy: str, genomes: list[int], reason: str
) -> None:
    result = evolve(config(tmp_path, strategy))
    final = result.history[-1]
    assert isinstance(final, FinalRecord) and final.reason == reason
    sizes = [sum(isinstance(each, GenomeRecord) and each.genome.generation == number for each in result.history) for number in range(len(genomes))]  # fmt: skip
    assert sizes == genomes
    assert sum(isinstance(each, GenerationRecord) for each in result.history) == len(genomes)
    assert [finding for finding in checked(result.folder) if finding.status == "differs"] == []
    assert build_report(RunFolder(result.folder), Store(tmp_path / "store")).strategy == strategy
    before = (result.folder / "history.jsonl").read_bytes()
    evolve(config(tmp_path, strategy))
    assert (result.folder / "history.jsonl").read_bytes() == before, "running it again is a replay"


def test_a_run_is_not_continued_with_another_version_of_its_strategy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RandomSearch, "version", "library 1")
    result = evolve(config(tmp_path, "random", 1))
    run = result.history[0]
    assert isinstance(run, RunRecord) and run.strategy_version == "library 1"
    before = (result.folder / "history.jsonl").read_bytes()
    monkeypatch.setattr(RandomSearch, "version", "library 2")
    with pytest.raises(
        StrategyError, match=r"begun with library 1, here is library 2. Install that version, or .*--again"
    ):
        evolve(config(tmp_path, "random", 1))
    assert (result.folder / "history.jsonl").read_bytes() == before
    (search,) = [finding for finding in checked(result.folder) if finding.check == "search"]
    assert search.status == "note" and "the strategy was library 1, here is library 2" in search.text
