"""The benchmark of the search's model: both arms are measured on the same draws, and the extra coordinate is the last one."""

from pathlib import Path

import pytest

from benchmarks import surrogate_fit
from coral_core.genome import DEFAULT_LORA, GREEDY, HeavyGenes
from coral_core.search.screening import UPDATE, point
from coral_core.search.table_files import write_part
from coral_core.search.tables import Table
from tests.search.synthetic_table import facts_of, rows_of


def test_both_models_are_measured_on_every_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate_fit, "SIZES", (6,))
    write_part(tmp_path / "part-000.npz", facts_of(), rows_of(facts_of()))
    found = surrogate_fit.measured(tmp_path, 4)
    assert found.keys() == {"correlation_6", "best_6"}
    row = found["correlation_6"]
    assert -1 <= row["without"] <= 1 and row["difference"] == pytest.approx(row["with"] - row["without"])


def test_the_last_coordinate_is_the_size_of_the_update(tmp_path: Path) -> None:
    write_part(tmp_path / "part-000.npz", facts_of(), rows_of(facts_of()))
    config = Table.read(tmp_path).config(0)
    alphas, rates = config.genes.heavy.alpha, config.genes.heavy.learning_rate

    def size(alpha: float, rate: float) -> float:
        genes = DEFAULT_LORA.model_dump() | {"alpha": alpha, "learning_rate": rate}
        place = point(HeavyGenes.model_validate(genes), GREEDY, config)
        assert place[-1] == pytest.approx(place[list(UPDATE)].sum())
        return float(place[-1])

    sizes = [size(alpha, rate) for alpha in (alphas[0], alphas[-1]) for rate in (rates[0], rates[-1])]
    assert min(sizes) == sizes[0] and max(sizes) == sizes[-1] > sizes[0]
