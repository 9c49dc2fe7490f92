"""The page about the gene tables: its figures, on whole tables and on parts of one."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gene_table_page import Scores, explained, levels, section, variance_rows, write_page
from coral_core.search.selection import fitness
from coral_core.search.table_files import columns_of, write_part
from coral_core.search.tables import Table
from tests.search.synthetic_table import facts_of, row_of, rows_of, synthetic_table

FACTS = facts_of()


def test_main_effects_of_a_gene_that_decides_alone() -> None:
    table = synthetic_table()
    ranks = levels(table)["rank"]
    decided = np.array([float(rank) for rank in ranks])
    assert explained(decided, ranks) == pytest.approx(1.0)
    assert abs(explained(decided, levels(table)["alpha"])) < 0.05
    mixed = decided / decided.std() + np.random.default_rng(0).normal(size=len(decided))
    assert 0.3 < explained(mixed, ranks) < 0.7
    holes = np.where(np.arange(len(decided)) % 3, decided, np.nan)
    assert explained(holes, ranks) == pytest.approx(1.0)
    assert math.isnan(explained(np.ones(9), list("aabbccdde"))) and math.isnan(explained(decided, ["a"] * len(ranks)))


def test_noise_is_the_spread_of_replicates_around_their_mean() -> None:
    scores, weights = Scores(synthetic_table()), FACTS.scoring.weights
    table = synthetic_table()
    first, second = (table.observed(table.genome(7), replicate) or {} for replicate in (0, 1))
    assert scores.by_name["fitness"][7, :, 0].tolist() == [fitness(found, weights) for found in (first, second)]
    pairs = scores.by_name["bugfix"]
    gaps = (pairs[:, 0] - pairs[:, 1])[np.isfinite(pairs).all(axis=1)]
    assert scores.noise("bugfix") == pytest.approx(math.sqrt((gaps**2).mean() / 2))
    assert scores.noise("cost") == 0
    diverged = len(table.cells) - 1  # one of its replicates
    assert scores.expected("bugfix")[diverged].tolist() == pairs[diverged, 0].tolist()


def test_the_cost_of_a_table_is_explained_by_rank_and_modules() -> None:
    shares = {gene: values[-1] for gene, values in variance_rows(Scores(synthetic_table()))}
    assert shares["rank"] + shares["target_modules"] > 0.9 and abs(shares["alpha"]) < 0.05
    assert shares["noise of the mean"] == 0


@pytest.mark.parametrize("rows", [1, 2, 9, 120])
def test_a_page_for_any_part_of_a_table(tmp_path: Path, rows: int) -> None:
    (tmp_path / "synthetic").mkdir()
    assert "No table is made yet" in write_page(tmp_path).read_text()
    write_part(tmp_path / "synthetic" / "part-000.npz", FACTS, rows_of(FACTS)[:rows])
    text = write_page(tmp_path).read_text()
    assert f"{rows} of 120 trainings made (60 cells x 2)" in text and "nan" not in text
    assert ("default LoRA: r8 alpha 16 attention" in text) == (rows == 120)
    best = re.search(r"\| greedy.*|\| sampling.*", text)
    assert best and write_page(tmp_path).read_text() == text


def test_a_table_of_infeasible_cells_has_a_page() -> None:
    rows = [row_of(FACTS, 0, 0).model_copy(update={"infeasible": "diverged", "results": ()})]
    text = section(Table(FACTS, columns_of(FACTS, rows)), 10)
    assert "1 infeasible" in text and "nan" not in text
