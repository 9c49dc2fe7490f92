"""benchmarks/gene_table.py at a tiny size: rows equal a run's results, calls go on where others ended."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import gene_table
from benchmarks.gene_table import LIGHTS, PLANS, Maker, Plan, configuration, main, order
from coral_core.config.gene_space import HeavyGeneSpace
from coral_core.errors import TableError
from coral_core.execution.inline import NO_LIMIT
from coral_core.jobs.job_content import problem_set
from coral_core.lanes.lane import Lane
from coral_core.lm.engine_client import InlineEngine
from coral_core.problem_sources.families import B_FAMILIES, EXCHANGED
from coral_core.search.table_files import columns_of
from coral_core.search.tables import Table, cells_of
from coral_core.store.store import Store

SMALL = ("problems.fitness=8", "problems.retention=4", "problems.monitor=0", "problems.held_out=4", "problems.pairs=16")
ONE = {"dropout": (0.0,), "alpha": (16,), "learning_rate": (5e-3,), "target_modules": ("q",), "adapter": ("lora",)}


def tiny_plan(*settings: str, exchanged: bool = False, **candidates: tuple[float, ...]) -> Plan:
    heavy = HeavyGeneSpace.model_validate(ONE | {"rank": (2,)} | candidates)
    return Plan("tiny", heavy, (*SMALL, *settings), exchanged=exchanged)


def rehearsal_plan(*settings: str) -> Plan:
    """Three cells of a base model without torch; the one with the largest learning rate diverges."""
    return tiny_plan("base_model.name=rehearsal", *settings, learning_rate=(2e-3, 5e-3, 5e-2))


REAL = pytest.mark.slow(
    reason="loads torch, two trainings, each twice: 30 CPU seconds; rehearsal covers all but the engine"
)


@pytest.mark.parametrize("model", ["rehearsal", pytest.param("coral-tiny", marks=REAL)])
def test_rows_hold_what_a_run_computes(tmp_path: Path, model: str) -> None:
    """Two cells through `Maker` and through the lane of an evolution: equal scores, passes and losses."""
    settings = ("training.steps=6", "training.warmup=2", f"base_model.name={model}")
    plan = tiny_plan(*settings, rank=(2, 16))
    lights = (LIGHTS[0], LIGHTS[3])
    maker = Maker(plan, configuration(plan, tmp_path), lights=lights)
    store = Store(tmp_path / "store")
    store.prepare()
    engine = InlineEngine()
    lane = Lane(store, engine)
    try:
        maker.prepare(engine)
        keys = [(0, 0), (1, 1)]
        rows = [maker.row(engine, *key) for key in keys]
        table = Table(maker.facts, columns_of(maker.facts, rows))
        base = lane.evaluate(maker.planner.evaluation(None), NO_LIMIT)
        assert base.passed == tuple(item.problem_id for item in table.facts.problems if item.base_passes)
        assert base.scores == table.facts.base_scores
        for cell, replicate in keys:
            trained = lane.train(maker.planner.training(table.cells[cell], replicate), NO_LIMIT)
            for number, light in enumerate(lights):
                job = maker.planner.evaluation(table.cells[cell], light, replicate=replicate)
                evaluation, genome = lane.evaluate(job, NO_LIMIT), table.genome(cell, number)
                assert table.observed(genome, replicate) == evaluation.scores
                outcomes = table.outcomes(genome, replicate)
                assert outcomes is not None
                names = [item.problem_id for item in table.facts.problems]
                assert [name for name, won in zip(names, outcomes.passed, strict=True) if won] == list(
                    evaluation.passed
                )
            losses = [point.loss for point in trained.losses]
            assert table.losses(table.genome(cell), replicate) == pytest.approx(losses, rel=1e-3)
    finally:
        lane.close()
        maker.close()


@pytest.fixture
def rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Arguments of calls for a table of `rehearsal_plan`."""
    monkeypatch.setitem(gene_table.PLANS, "quickstart", rehearsal_plan())
    yield ["quickstart", "--tables", str(tmp_path / "tables"), "--work", str(tmp_path / "work"), "--lanes", "1"]


def test_calls_go_on_where_others_ended_and_only_with_the_same_problems(
    rehearsed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rows = tmp_path / "tables" / "quickstart", tmp_path / "work" / "tiny" / "rows"
    monkeypatch.setattr(gene_table, "pack", lambda *_: None)  # killed before it could pack
    main([*rehearsed, "--rows", "2"])
    assert len(list(rows.glob("*.json"))) == 2 and not folder.exists()
    monkeypatch.undo()
    monkeypatch.setitem(gene_table.PLANS, "quickstart", rehearsal_plan())
    kept = {path.name: path.read_bytes() for path in rows.glob("*.json")}
    main(rehearsed)
    assert not list(rows.glob("*.json"))
    table = Table.read(folder)
    assert table.missing == ()
    assert {table.infeasible(table.genome(cell), 0) for cell in range(3)} == {"", "diverged"}
    assert "6 of 6 trainings made (3 cells x 2); 2 infeasible" in (tmp_path / "tables" / "README.md").read_text()
    for name, content in kept.items():
        (rows / name).write_bytes(content)  # killed between the part and the removal of its rows
    assert gene_table.pack(folder, rows.parent, table.facts, set(table.made), "") is None
    assert not list(rows.glob("*.json")) and [path.name for path in folder.iterdir()] == ["part-000.npz"]
    main([*rehearsed, "--dry-run"])
    assert "6 rows asked for, 0 to make" in capsys.readouterr().out
    monkeypatch.setitem(gene_table.PLANS, "quickstart", rehearsal_plan("problems.data_seed=7"))
    with pytest.raises(TableError, match="table tiny: problems is"):
        main(rehearsed)


def test_two_calls_at_once_are_refused(rehearsed: list[str], tmp_path: Path) -> None:
    with gene_table.work_folder(tmp_path / "work" / "tiny"), pytest.raises(TableError, match="another call"):
        main([*rehearsed, "--rows", "1"])


def test_shards_cover_the_table_once() -> None:
    rows = order(800, 2)
    assert len(rows) == len(set(rows)) == 1600
    shards = [rows[n::10] for n in range(10)]
    assert sorted(row for shard in shards for row in shard) == sorted(rows)
    assert max(cell for cell, _ in shards[0]) > 700 and min(cell for cell, _ in shards[0]) < 100


def test_the_tables_are_those_of_the_plan() -> None:
    cells = {name: cells_of(configuration_genes(name)) for name in PLANS}
    assert {name: len(found) for name, found in cells.items()} == {"quickstart": 800, "second": 200}
    assert set(cells["second"]) <= set(cells["quickstart"])


def configuration_genes(name: str) -> gene_table.GenesConfig:
    return gene_table.GenesConfig(heavy=PLANS[name].heavy)


def test_the_second_table_has_problems_of_other_families(tmp_path: Path) -> None:
    plan = tiny_plan(exchanged=True)
    problems = problem_set(configuration(plan, tmp_path).problems)
    learnt = {family.name for family in EXCHANGED.learnt}
    assert not learnt & {family.name for family in B_FAMILIES}
    assert {item.family for item in problems.fitness[:8]} <= learnt
    assert {pair.family for pair in problems.pairs if pair.bug_class != "none"} <= learnt
    assert len(problems.fitness) == 12 and len(problems.pairs) == 16 and sum(p.retention for p in problems.fitness) == 2
