"""Gene tables: what is written is read again, scores are those of scoring.objectives, hostile files are refused."""

import math
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from coral_core.errors import TableError
from coral_core.genome import GREEDY
from coral_core.search.table_files import LARGEST_ARRAY, MEASURES, columns_of, read_part, write_part
from coral_core.search.tables import Table
from tests.search.synthetic_table import LIGHTS, PROBLEMS, facts_of, genome_of, row_of, rows_of, synthetic_table

FACTS = facts_of()
DIVERGED = len(synthetic_table().cells) - 1
SAMPLED = GREEDY.model_copy(update={"sampling": True, "temperature": 0.6, "token_limit": 70})


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / "part-000.npz"
    write_part(path, FACTS, [row_of(FACTS, cell, replicate) for cell, replicate in ((0, 0), (DIVERGED, 1), (7, 1))])
    return path


def test_parts_read_like_the_rows_that_were_written(tmp_path: Path) -> None:
    rows = rows_of(FACTS)
    for number, some in enumerate((rows[:70], rows[70:])):
        write_part(tmp_path / f"part-{number:03d}.npz", FACTS, reversed(some))
    read, table = Table.read(tmp_path), synthetic_table()
    assert read.facts == FACTS and read.missing == ()
    for cell in range(len(table.cells)):
        for light in LIGHTS:
            for replicate in range(2):
                genome = genome_of(cell, light)
                assert read.observed(genome, replicate) == table.observed(genome, replicate)
    assert np.array_equal(read.losses(genome_of(3), 0), table.losses(genome_of(3), 0))
    assert read.cost(genome_of(3)) == table.cost(genome_of(3))


def test_equal_rows_give_equal_bytes(tmp_path: Path, part: Path) -> None:
    again = tmp_path / "again.npz"
    write_part(again, FACTS, [row_of(FACTS, cell, replicate) for cell, replicate in ((7, 1), (0, 0), (DIVERGED, 1))])
    assert again.read_bytes() == part.read_bytes()


def test_what_is_kept_per_problem_is_exact(part: Path) -> None:
    row, table = row_of(FACTS, 7, 1), Table(*read_part(part))
    for result, light in zip(row.results, LIGHTS, strict=True):
        found = table.outcomes(genome_of(7, light), 1)
        assert found is not None and found.passed.tolist() == list(result.passed)
        for name in MEASURES:
            kept = [None if math.isnan(value) else value for value in getattr(found, name).tolist()]
            assert kept == list(getattr(result, name))
    assert table.losses(genome_of(7), 1) == pytest.approx(row.losses, rel=1e-3)
    assert len(table.missing) == 2 * len(table.cells) - 3


def test_scores_of_a_part_of_the_problems() -> None:
    table, genome = synthetic_table(), genome_of(7, LIGHTS[0])
    result = row_of(FACTS, 7, 0).results[0]
    some = [0, 4, 5, 8]  # two bugs, one that the base repairs, one right function
    scores = table.observed(genome, 0, some)
    assert scores is not None
    assert scores["bugfix"] == pytest.approx(sum(result.bugfix[n] for n in (0, 4, 8)) / 3)
    assert scores["retention"] == pytest.approx((result.passed[4] + result.passed[5]) / 2)
    assert table.observed(genome, 0, range(len(PROBLEMS))) == table.observed(genome, 0)
    assert (table.observed(genome, 0, [0]) or {})["retention"] == 1.0


def test_expected_is_the_mean_of_the_feasible_replicates() -> None:
    table = synthetic_table()
    first, second = table.observed(genome_of(7), 0), table.observed(genome_of(7), 1)
    expected = table.expected(genome_of(7))
    assert first and second and expected and first != second
    assert expected == pytest.approx({name: (first[name] + second[name]) / 2 for name in first})
    assert table.expected(genome_of(7), seen={0}) == second
    diverged = genome_of(DIVERGED)
    assert table.observed(diverged, 1) is None and table.infeasible(diverged, 1) == "diverged"
    assert table.outcomes(diverged, 1) is None
    assert table.expected(diverged) == table.observed(diverged, 0) and table.expected(diverged, seen={0}) is None


def test_light_genes_move_to_the_nearest_setting() -> None:
    table = synthetic_table()
    hot = SAMPLED.model_copy(update={"temperature": 0.39})
    cold = SAMPLED.model_copy(update={"temperature": 0.41})
    assert table.placed(genome_of(0, hot)).light == LIGHTS[1]
    assert table.placed(genome_of(0, cold)).light == LIGHTS[2]
    greedy = SAMPLED.model_copy(update={"sampling": False})  # its temperature has no effect
    assert table.placed(genome_of(0, greedy)).light == LIGHTS[0]


def test_genes_outside_and_rows_not_made_are_refused(part: Path) -> None:
    table = Table(*read_part(part))
    strange = genome_of(0).model_copy(update={"heavy": genome_of(0).heavy.model_copy(update={"rank": 3})})
    with pytest.raises(TableError, match=r"'rank': 3.*no cell of table synthetic"):
        table.observed(strange, 0)
    with pytest.raises(TableError, match=r"cell 1, replicate 0 .*not made yet.*117 missing rows"):
        table.expected(genome_of(1))


def test_rows_of_another_table_are_refused(tmp_path: Path, part: Path) -> None:
    write_part(tmp_path / "part-001.npz", facts_of(replicates=3), [row_of(FACTS, 1, 0)])
    with pytest.raises(TableError, match="another table than part-000"):
        Table.read(tmp_path)
    with pytest.raises(TableError, match="stands twice"):
        Table(FACTS, columns_of(FACTS, [row_of(FACTS, 1, 0)] * 2))
    with pytest.raises(TableError, match="no part"):
        Table.read(tmp_path / "nothing")


def changed(part: Path, **arrays: np.ndarray) -> None:
    with np.load(part, allow_pickle=False) as old:
        np.savez_compressed(part, **{**old, **arrays})


def oversized(part: Path) -> None:
    changed(part, losses=np.zeros((1, LARGEST_ARRAY // 2 + 1), dtype=np.float16))


def lying_header(part: Path) -> None:
    """An array of a few bytes that announces terabytes."""
    head = BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)})
    with zipfile.ZipFile(part) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(part, "w") as new:
        for name, content in (entries | {"losses.npy": head.getvalue()}).items():
            new.writestr(name, content)


def pickled(part: Path) -> None:
    changed(part, cell=np.array([{"a": 1}], dtype=object))


HOSTILE = {
    "no zip": lambda part: part.write_bytes(b"PK\x03\x04 and so on"),
    "empty": lambda part: part.write_bytes(b""),
    "cut": lambda part: part.write_bytes(part.read_bytes()[:-200]),
    "a link": lambda part: (part.rename(part.with_name("other")), part.symlink_to(part.with_name("other"))),
    "pickle": pickled,
    "too large": oversized,
    "a lying header": lying_header,
    "another name": lambda part: changed(part, more=np.zeros(1)),
    "a code without value": lambda part: changed(part, bugfix_values=np.zeros(1)),
    "a reason without text": lambda part: changed(part, reason=np.array([0, 9, 0], dtype=np.uint16)),
    "scores above 1": lambda part: changed(part, style_values=np.array([0.0, 7.0])),
    "scores that are no numbers": lambda part: changed(part, bugfix_values=np.full(9, np.nan)),
    "too few rows": lambda part: changed(part, cell=np.zeros(2, dtype=np.uint32)),
    "too few bits": lambda part: changed(part, passed=np.zeros((6, 1), dtype=np.uint8)),
    "fractional codes": lambda part: changed(part, bugfix=np.zeros((6, 60))),
    "no facts": lambda part: changed(part, facts=np.frombuffer(b"{}", dtype=np.uint8)),
    "facts that are no text": lambda part: changed(part, facts=np.full(9, 255, dtype=np.uint8)),
}


@pytest.mark.parametrize("damage", HOSTILE)
def test_hostile_files_are_refused(part: Path, damage: str) -> None:
    HOSTILE[damage](part)
    with pytest.raises(TableError, match=r"part-000\.npz: no part of a gene table"):
        Table.read(part.parent)
