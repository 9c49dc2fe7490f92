"""Comparisons live, with the rehearsal, and on a gene table: budgets, resuming, what they say."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from coral_core import compare
from coral_core.comparison.outcomes import Outcome, Point, _changes, _ended
from coral_core.comparison.page import comparison_page, write_comparison
from coral_core.comparison.plan import Entrant, Plan
from coral_core.comparison.run_plan import folder_of, run_plan
from coral_core.comparison.summary import StrategyComparison, Verdict, summarise
from coral_core.config import RunConfig
from coral_core.errors import ConfigError, StoreError, TableError
from coral_core.evolution.charges import Charged
from coral_core.evolution.loop import NoChampionError
from coral_core.report.markdown import markdown
from coral_core.runs.run_folder import RunFolder
from coral_core.search.table_files import write_part
from tests.search.synthetic_table import facts_of, rows_of


def config(folder: Path, **more: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "small",
            "runs": str(folder),
            "store": {"path": str(folder / "store")},
            "base_model": {"name": "rehearsal"},
            "infra": {"executor": "inline"},
            "search": {"generations": 2, "population": 4, "elites": 1, "champion_repeats": 1},
            "problems": {"fitness": 8, "retention": 4, "monitor": 4, "held_out": 8, "pairs": 16},
            "budget": {"price": {"training": 2.0, "evaluation": 1.0}},
            **more,
        }
    )


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StrategyComparison]:
    folder = tmp_path_factory.mktemp("live")
    return folder, compare(config(folder), ["evolution", "random"], seeds=1, budget="trainings=6")


def test_every_run_spends_the_budget_on_one_store(live: tuple[Path, StrategyComparison]) -> None:
    folder, found = live
    assert {outcome.charged.trainings for outcome in found.outcomes} == {6}
    assert all(outcome.charged.gpu_seconds and outcome.charged.money for outcome in found.outcomes)
    for outcome in found.outcomes:
        assert outcome.points[0].spent == 1 and outcome.points[-1].spent <= 6
        values = [(point.fitness, point.hypervolume) for point in outcome.points]
        assert all(one != other for one, other in itertools.pairwise(values)), "only where a value changes"
    [page] = folder.glob("comparisons/small-*/comparison.html")
    runs = [RunFolder(path) for path in (page.parent / "runs").iterdir()]
    assert {run.run_id for run in runs} == {outcome.run_id for outcome in found.outcomes}
    assert {run.config().store.path for run in runs} == {str(folder / "store")}
    assert found == StrategyComparison.model_validate_json((page.parent / "comparison.json").read_bytes())


def test_one_seed_is_not_tested_and_says_so(live: tuple[Path, StrategyComparison]) -> None:
    _, found = live
    assert {test.verdict for test in found.tests} == {Verdict.TOO_FEW_SEEDS} and not found.not_helped
    assert {test.measure for test in found.tests} == {"fitness", "hypervolume", "held_out", "repeats"}
    text = markdown(comparison_page(found))
    assert "Too few seeds for a test: with 1 Wilcoxon's smallest possible p is 1." in text


def test_finished_runs_are_read_and_more_seeds_added(live: tuple[Path, StrategyComparison]) -> None:
    folder, before = live
    [page] = folder.glob("comparisons/small-*/comparison.json")
    plan = Plan.make(config(folder), ["evolution", "random"], 2, "trainings=6")
    assert folder_of(plan) == page.parent
    begun: list[tuple[str, int]] = []
    read: list[Outcome] = []

    def ended(entrant: Entrant, number: int, count: int, outcome: Outcome | None) -> None:
        if outcome is None:
            begun.append((entrant.variant.name, entrant.seed))
        else:
            read.append(outcome)

    async def stopped(one: RunConfig) -> bool:
        return False

    assert asyncio.run(run_plan(plan, page.parent, stopped, ended)) is None
    assert begun == [("evolution", 1)] and read == list(before.outcomes)
    assert compare(config(folder), ["evolution", "random"], seeds=1, budget="trainings=6", ended=ended) == before
    assert begun == [("evolution", 1)]


def test_seconds_charge_what_is_in_the_store(live: tuple[Path, StrategyComparison]) -> None:
    """Everything that the runs ask for is there; they are charged and end as if it had been computed."""
    folder, before = live
    cost = before.outcomes[0].charged.gpu_seconds
    assert cost is not None
    found = compare(config(folder), ["evolution", "random"], seeds=1, budget=f"gpu_seconds={cost / 2}")
    for outcome in found.outcomes:
        assert outcome.points and outcome.charged.gpu_seconds is not None
        assert outcome.charged.gpu_seconds <= cost / 2 and outcome.charged.trainings < 8
    assert any("A run ends with the generation that reaches" in note for note in found.notes)
    with pytest.raises(ConfigError, match=r"--budget 1e-09 money: the first genome of evolution with seed 0 cost more"):
        compare(config(folder), ["evolution", "random"], seeds=1, budget="money=1e-9")


def test_a_strategy_without_a_champion_is_an_outcome(tmp_path: Path, live: tuple[Path, StrategyComparison]) -> None:
    folder, _ = live

    async def run(one: RunConfig) -> bool:
        raise NoChampionError("no genome could be trained and evaluated")

    plan = Plan.make(config(folder), ["nothing=evolution:search.elites=0", "random"], 1, "trainings=6")
    found = asyncio.run(run_plan(plan, folder_of(plan), run, lambda *_: None))
    assert found is not None and found.tests == ()
    assert (
        "nothing has no values with 1 seed of 1, which its tests leave out: no genome could be trained and evaluated."
        in found.notes
    )
    assert markdown(comparison_page(found))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    write_part(folder / "part-000.npz", facts_of(), rows_of(facts_of()))
    return folder


def test_strategies_are_played_on_a_table(table: Path, tmp_path: Path) -> None:
    strategies = ["random", "same=random", "narrow=random:search.start_with_default=false"]
    found = compare(config(tmp_path), strategies, seeds=6, budget="trainings=10", table=table, into=tmp_path / "page")
    again = compare(config(tmp_path), strategies, seeds=6, budget="trainings=10", table=table, into=tmp_path / "again")
    assert found.outcomes == again.outcomes and found.where == "synthetic" and len(found.seeds) == 6
    same = [test for test in found.tests if test.variant == "same"]
    assert {(test.verdict, test.a12, test.p) for test in same} == {(Verdict.NO_DIFFERENCE, 0.5, 1.0)}
    assert found.not_helped[0] == "same did not help in best fitness and hypervolume: no difference to random is shown."
    assert {test.against for test in found.ablations} == {"random"} and {t.variant for t in found.ablations} == {
        "narrow"
    }
    page = (tmp_path / "page" / "comparison.html").read_text()
    assert "What did not help" in page and "<script" not in page
    assert (tmp_path / "page" / "pictures" / "fitness.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_is_charged_in_trainings_and_must_be_whole(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--budget 5 GPU seconds: a play on a table is charged trainings"):
        compare(config(tmp_path), ["evolution", "random"], seeds=1, budget="gpu_seconds=5", table=table)
    write_part(tmp_path / "part-000.npz", facts_of(), rows_of(facts_of())[:5])
    with pytest.raises(TableError, match="rows are missing"):
        compare(config(tmp_path), ["evolution", "random"], seeds=1, budget="trainings=8", table=tmp_path)


def outcome(variant: str, seed: int, fitness: float, volume: float) -> Outcome:
    points = (
        Point(spent=4, fitness=fitness / 2, hypervolume=volume / 2),
        Point(spent=8, fitness=fitness, hypervolume=volume),
    )
    return Outcome(
        variant=variant, seed=seed, points=points, first_generation=fitness / 2, charged=Charged(trainings=8)
    )


def test_better_worse_and_by_when(tmp_path: Path) -> None:
    """Better in fitness with each of 8 seeds, worse in hypervolume; the goal is reached at half the budget."""
    plan = Plan.make(config(tmp_path), ["evolution", "random"], 9, "trainings=8")
    outcomes = [outcome("random", seed, 0.2 + seed / 100, 0.3) for seed in range(8)]
    outcomes += [outcome("evolution", seed, 0.6 + seed / 100, 0.1 + seed / 1000) for seed in range(8)]
    found = summarise(plan, outcomes, "live", {})
    fitness, volume = found.tests
    assert (fitness.verdict, fitness.p, fitness.a12) == (Verdict.BETTER, pytest.approx(2 / 2**8), 1.0)
    assert (volume.verdict, volume.a12) == (Verdict.WORSE, 0.0)
    assert (
        found.conclusions[0]
        == "evolution is better than random in best fitness (median difference +0.4000, A12 1.00, large, p = 0.0078)."
    )
    assert found.not_helped == ("evolution harmed hypervolume: it is worse than random.",)
    assert "8 of 9 seeds have ended" in found.notes[0]
    reached = {(curve.variant, curve.measure): curve.reaches for curve in found.curves}
    assert reached == {
        ("random", "fitness"): 8, ("evolution", "fitness"): 4, ("random", "hypervolume"): 8, ("evolution", "hypervolume"): None,
    }  # fmt: skip
    bands = next(curve.bands for curve in found.curves if curve.variant == "random")
    assert bands[:3] == (None, None, None) and bands[3] is not None and bands[7] is not None
    assert bands[3].median == pytest.approx(bands[7].median / 2)


def test_the_verdict_is_that_of_the_test_whatever_the_median_is(tmp_path: Path) -> None:
    """9 of 21 seeds are better, 11 tied, 1 a little worse: Wilcoxon's test speaks for the variant, the median difference is 0."""
    plan = Plan.make(config(tmp_path), ["evolution", "random"], 21, "trainings=8")
    gains = [0.1 + seed / 100 for seed in range(9)] + [0.0] * 11 + [-0.01]
    outcomes = [outcome("random", seed, 0.5, 0.3) for seed in range(21)]
    outcomes += [outcome("evolution", seed, 0.5 + gain, 0.3) for seed, gain in enumerate(gains)]
    fitness = summarise(plan, outcomes, "live", {}).tests[0]
    assert fitness.difference.median == 0 and fitness.p is not None and fitness.p < 0.01
    assert fitness.verdict == Verdict.BETTER


def test_a_run_without_a_feasible_genome_has_no_values(tmp_path: Path) -> None:
    """Its seed is left out of tests and curves of its variant, and the page says so."""
    plan = Plan.make(config(tmp_path), ["evolution", "random"], 8, "trainings=8")
    outcomes = [outcome("evolution", seed, 0.6 + seed / 100, 0.4) for seed in range(8)]
    outcomes += [outcome("random", seed, 0.2 + seed / 100, 0.3) for seed in range(7)]
    lost = (Point(spent=4, fitness=None, hypervolume=0.0), Point(spent=8, fitness=None, hypervolume=0.0))
    assert _changes(lost) == () and _ended(lost, "") == "no genome was feasible"
    outcomes.append(Outcome(variant="random", seed=7, points=(), first_generation=None, charged=Charged(trainings=8), ended=_ended(lost, "")))  # fmt: skip
    found = summarise(plan, outcomes, "live", {})
    assert {test.pairs for test in found.tests} == {7}
    assert "random has no values with 1 seed of 8, which its tests leave out: no genome was feasible." in found.notes
    assert all(
        curve.reaches == (4 if curve.variant == "evolution" and curve.measure == "fitness" else 8)
        for curve in found.curves
    )


def test_text_of_others_is_escaped(tmp_path: Path) -> None:
    plan = Plan.make(config(tmp_path), ["evolution:search.selection=truncation", "random"], 1, "trainings=8")
    found = summarise(plan, [], "<img src=x>", {"source": "<script>alert(1)</script>"})
    write_comparison(found, tmp_path / "page")
    assert "<script>alert" not in (tmp_path / "page" / "comparison.html").read_text()
    assert found.seeds == () and "No seed has ended yet" in markdown(comparison_page(found))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plan = Plan.make(config(tmp_path), ["evolution", "random"], 1, "trainings=8")
    with pytest.raises(StoreError, match="the comparison cannot be written"):
        write_comparison(summarise(plan, [], "live", {}), tmp_path / "file")
