"""Whole runs whose last generation trains the finalists again."""

from pathlib import Path
from typing import Any

import pytest

from coral_core import evolve
from coral_core.config import RunConfig
from coral_core.genome import REPEAT
from coral_core.report.build_report import build_report
from coral_core.report.wording import heavy_text
from coral_core.runs.records import GenomeRecord
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store
from coral_core.verification import check_all
from coral_core.verification import open_run as check_run
from tests.evolution.test_api import settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Any]:
    made = settings(tmp_path_factory.mktemp("finalists"), executor="inline")
    made["problems"]["fitness"] = 48
    made["search"] |= {"generations": 4, "population": 5, "finalist_share": 0.15, "champion_repeats": 1, "early_stopping": {"enabled": False}}  # fmt: skip
    config = RunConfig.model_validate(made)
    return config, evolve(config)


def test_finalists_are_trained_again_and_one_is_champion(finished: tuple[RunConfig, Any]) -> None:
    _, result = finished
    found = {each.genome.genome_id: each for each in result.history if isinstance(each, GenomeRecord)}
    last = [each for each in found.values() if each.genome.generation == 3]
    assert result.status == "finished" and len(last) == 3
    for each in last:
        parent = found[each.genome.lineage.parents[0]]
        assert each.genome.lineage.operator == REPEAT and each.training_digest != parent.training_digest
        assert each.fitness is not None
    assert result.champion.genome.heavy.first() in {each.genome.heavy.first() for each in last}


def test_verify_follows_every_repeat(finished: tuple[RunConfig, Any]) -> None:
    config, result = finished
    checked, _ = check_run(RunFolder(result.folder), Store(config.store.path))
    assert checked is not None and check_all(checked)
    assert [finding.text for finding in checked.findings if finding.status == "differs"] == []


def test_the_same_command_does_nothing_twice(finished: tuple[RunConfig, Any]) -> None:
    config, result = finished
    again = evolve(config)
    assert again.champion == result.champion and again.history == result.history


def test_the_report_names_a_repeat_and_counts_it_as_no_child(finished: tuple[RunConfig, Any]) -> None:
    _, result = finished
    text = Path(result.folder / "report.md").read_text("utf-8")
    again = result.champion.genome.heavy.first().model_copy(update={"repeat": 1})
    assert heavy_text(again) == f"{heavy_text(again.first())} (trained again, number 1)"
    assert "Finalists, on the fitness split" in text
    report = build_report(RunFolder(result.folder), Store(finished[0].store.path))
    means = [line.mean_fitness for line in report.finalists]
    assert len(means) == 3 and means == sorted(means, reverse=True)
    assert REPEAT not in {line.operator for line in report.operators}
