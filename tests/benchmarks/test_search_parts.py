"""The replay of parts of a search: each arm pays for what it does, and differs from evolution."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import search_parts
from benchmarks.write_readme import ROWS
from coral_core.search.table_files import write_part
from coral_core.search.tables import Table
from tests.search.synthetic_table import facts_of, rows_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "synthetic"
    made.mkdir()
    write_part(made / "part-000.npz", facts_of(), rows_of(facts_of()))
    return made


def test_arms_pay_for_what_they_do(folder: Path) -> None:
    table = Table.read(folder)
    genome = table.genome(0)
    cost, lights = table.cost(genome), len(table.lights)
    spent = {}
    for name, (_, arm) in search_parts.ARMS.items():
        play = search_parts.Play(table, 0)
        arm(play, genome)
        spent[name] = play.spent
    whole = cost.training + sum(table.cost(table.genome(0, light)).evaluation for light in range(lights))
    assert spent["evolution"] == spent["species"] == pytest.approx(cost.training + cost.evaluation)
    assert spent["best light setting"] == pytest.approx(whole)
    assert spent["evolution"] <= spent["raced light settings"] <= whole
    play = search_parts.Play(table, 0, losses=[0.0] * search_parts.LEAST_SEEN)
    assert search_parts.ended_by_loss(play, genome).scores is None and play.ended == 1
    assert play.spent == pytest.approx(search_parts.LOSS_STAGE * cost.training)


def test_all_arms_are_compared(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["search_parts", str(folder), "--seeds", "3", "--trainings", "10", "--into", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", given)
    search_parts.main()
    whole = json.loads((tmp_path / "search_parts.json").read_text())
    found = whole["tables"][folder.name]
    lanes = {f"{name}, {count} lanes" for name in ("generations", "steady state") for count in search_parts.LANES}
    assert found["arms"].keys() == {*search_parts.ARMS, "evolution, free", "best light setting, free", *lanes}
    for count in search_parts.LANES:
        assert 0 < found["arms"][f"steady state, {count} lanes"]["idle"] < 1
    assert found["arms"]["evolution"]["a12"] == 0.5
    assert found["raw"]["best light setting"]["champion"] != found["raw"]["evolution"]["champion"]
    assert len(ROWS["search_parts"](whole)) == len(search_parts.ARMS) + len(search_parts.LANES)
