"""benchmarks/real_model.py at a tiny size: its rows, what is missing of them, and that it goes on."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.real_model import configuration, main, parsed
from benchmarks.write_readme import ROWS
from coral_core.genome import HeavyGenes
from coral_core.jobs.job_content import problem_set
from coral_core.runs.job_count import plan_jobs
from tests.problem_sources.test_quixbugs import LIKE

FIGURES = ("held_out", "base", "default_lora", "tuned_lora", "random_best", "champion", "p_vs_default", "p_vs_tuned", "cpu_seconds")  # fmt: skip
TINY = {
    "model": "rehearsal", "population": 4, "generations": 2, "fitness": 8, "retention": 4, "held-out": 12, "pairs": 16,
    "executor": "inline",
}  # fmt: skip


def measured(folder: Path, **options: Any) -> dict[str, Any]:
    given = TINY | {"work": folder / "work", "results": folder, **options}
    main([part for key, value in given.items() for part in (f"--{key}", str(value))])
    found: dict[str, Any] = json.loads((folder / "real_model.json").read_text())
    return found


def test_without_time_the_result_says_what_is_missing(tmp_path: Path) -> None:
    measured(tmp_path, seed=3, minutes=0)
    found = measured(tmp_path, seed=1, minutes=0, quixbugs=LIKE)
    rows = found["seeds"]
    assert [(row["seed"], row["missing"]) for row in rows] == [
        (1, ["evolution", "random", "quixbugs"]),
        (3, ["evolution", "random"]),
    ]
    assert all(row[key] is None for row in rows for key in FIGURES if key != "cpu_seconds")
    assert any("missing: evolution, random" in what for what, _ in ROWS["real_model"](found))
    assert len(measured(tmp_path, seed=0, minutes=0, fitness=9)["seeds"]) == 1, "rows of other settings do not mix"


@pytest.mark.parametrize(("strategy", "baselines"), [("evolution", "tuned"), ("random", "quick")])
def test_both_strategies_have_16_trainings_of_their_own(strategy: str, baselines: str) -> None:
    config = configuration(parsed([]), strategy)
    plan = plan_jobs(config)
    assert plan.total.trainings - plan.baselines.trainings == 16 and config.search.baselines == baselines
    bugs = [problem for problem in problem_set(config.problems).held_out if not problem.retention]
    assert len(bugs) >= 150


@pytest.mark.slow(reason="two runs of 17 and 7 trainings; the quick tests here have its rows and configurations")
def test_a_stopped_seed_goes_on_to_all_its_figures(tmp_path: Path) -> None:
    first = measured(tmp_path, minutes=0.01)["seeds"][0]
    assert "random" in first["missing"]
    row = measured(tmp_path, minutes=30, quixbugs=LIKE)["seeds"][0]
    assert row["missing"] == [] and all(row[key] is not None for key in FIGURES)
    assert row["held_out"] == 12 and 0 <= row["p_vs_tuned"] <= 1
    low, high = row["interval"]["champion"]
    assert low <= row["champion"] == row["repaired"]["champion"] / 12 <= high
    work = {name: {stage["phase"]: stage["trainings"] for stage in stages} for name, stages in row["work"].items()}
    # a training that was done while the first session stopped is found in the store by the second, and counts in neither
    assert work["evolution"]["baselines"] in (15, 16) and work["random"]["baselines"] == 0, "one store for both"
    assert row["adapters"]["evolution"] <= 7 and row["adapters"]["random"] <= 7
    assert set(row["quixbugs"]["repaired"]) == {"base", "default_lora", "tuned_lora", "champion", "random_best"}
    table = row["trained"]
    assert len(table) == len({json.dumps([each.get(gene) for gene in HeavyGenes.model_fields]) for each in table}) >= 16
    assert [each["fitness"] for each in table] == sorted((each["fitness"] for each in table), reverse=True)
    again = measured(tmp_path, minutes=30, quixbugs=LIKE)
    assert again["seeds"] == [row], "nothing is done twice"
    assert any("QuixBugs" in what for what, _ in ROWS["real_model"](again))
