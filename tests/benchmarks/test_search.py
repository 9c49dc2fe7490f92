"""The benchmark of strategies on a gene table: its figures follow from its raw values, and `--check` sees when not."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import search
from coral_core.comparison.seed_statistics import a12, wilcoxon
from coral_core.search.table_files import write_part
from tests.search.synthetic_table import facts_of, rows_of


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["search", *map(str, arguments)])
    search.main()


def test_figures_follow_from_the_raw_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "BUDGETS", (8, 10))
    (tmp_path / "table").mkdir()
    write_part(tmp_path / "table" / "part-000.npz", facts_of(), rows_of(facts_of()))
    shared = ("--into", tmp_path)
    variant = "few=evolution:search.surrogate.children=2"
    run(
        monkeypatch, tmp_path / "table", "--seeds", 3, "--strategies", "random", "fixed", "--variants", variant, *shared
    )
    found = json.loads((tmp_path / "search.json").read_text())
    names = {
        f"{metric}_{budget}_vs_{other}"
        for metric in search.METRICS
        for budget in (8, 10)
        for other in ("random", "fixed")
    }
    assert found["comparisons"].keys() == names and found["table"] == "synthetic"
    assert found["ablations"].keys() == {f"{metric}_8_vs_few" for metric in search.METRICS}
    raw = found["tables"]["synthetic"]["raw"]
    assert raw["few"] != raw["evolution"]
    ours, theirs = raw["evolution"]["10"]["champion"], raw["random"]["10"]["champion"]
    figures = found["comparisons"]["champion_10_vs_random"]
    assert (figures["a12"], figures["p"], figures["seeds"]) == (a12(ours, theirs), wilcoxon(ours, theirs), 3)
    assert raw["evolution"]["8"]["trainings"] == [8, 8, 8] and raw["fixed"]["8"]["trainings"] == [1, 1, 1]
    assert len(raw["fixed"]["8"]["champion_curve"]) == 8
    run(monkeypatch, "--check", *shared)
    assert "all figures follow" in capsys.readouterr().out
    found["comparisons"]["champion_8_vs_random"]["p"] = 0.001
    (tmp_path / "search.json").write_text(json.dumps(found))
    with pytest.raises(SystemExit):
        run(monkeypatch, "--check", *shared)
    assert "comparisons is not what the raw values give" in capsys.readouterr().err


def test_no_table_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "TABLES", tmp_path)
    with pytest.raises(SystemExit):
        run(monkeypatch, "--into", tmp_path)
    assert "no complete gene table" in capsys.readouterr().err
    write_part(tmp_path / "part-000.npz", facts_of(), rows_of(facts_of())[:5])
    with pytest.raises(search.TableError, match="115 rows are missing"):
        run(monkeypatch, tmp_path, "--into", tmp_path)
