"""The estimate of a dry run: the pace of runs of the same kind, the lanes of the executor, and a guess called a guess."""

import json
import os
import shutil
from pathlib import Path

import pytest

from coral_core.config import RunConfig, parse_config
from coral_core.jobs.jobs import Cost
from coral_core.runs.job_count import JobCount, plan_jobs
from coral_core.runs.records import JobTiming, Phase
from coral_core.runs.run_folder import RunFolder, identify_run
from flows.cli.dry_run import MOST_TIMINGS, Lanes, Pace, dry_run, estimate, find_pace, lanes_of

SMALL = "problems: {fitness: 8, retention: 2, monitor: 2, held_out: 6, pairs: 20}\nsearch: {population: 4, elites: 1, generations: 2}\n"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configured(*overrides: str) -> RunConfig:
    return parse_config(SMALL, "c.yaml", overrides)


def ran(config: RunConfig, training: float, evaluation: float) -> str:
    """A run of `config` whose jobs took so long."""
    folder = RunFolder.create(config, identify_run(config), [])
    for number in range(4):
        for kind, seconds in (("training", training), ("evaluation", evaluation)):
            for cached, cost in ((False, seconds), (True, 0.0)):
                folder.append_timing(
                    JobTiming(
                        session=0.5, phase=Phase.SEARCHING, generation=0, kind=kind, digest=f"{number}", label="g000-000", cached=cached, finished=1.0, waited=0.0, cost=Cost(seconds=cost)
                    )
                )  # fmt: skip
    return folder.run_id


def planned(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    dry_run(config, 1, True)
    plan: dict[str, object] = json.loads(capsys.readouterr().out)
    return plan


def test_the_pace_is_that_of_runs_of_the_same_kind(capsys: pytest.CaptureFixture[str]) -> None:
    config = configured("seed=1")
    assert planned(config, capsys)["pace_from"] == "guess"
    alike = ran(configured("seed=2", "search.generations=9"), 10, 3)
    for other in (
        ["training.steps=900"],
        ["base_model.name=rehearsal"],
        ["base_model.dtype=bfloat16"],
        ["problems.fitness=96"],
        ["generation.samples=8"],
        ["infra.executor=work-pools"],
    ):
        ran(configured(*other), 1000, 1000)  # later, and of another kind
    assert find_pace(config) == Pace(10, 3, alike)
    assert planned(config, capsys)["pace_from"] == alike
    dry_run(config, 1, False)
    assert f"by the pace of {alike}" in capsys.readouterr().out


def test_without_a_run_of_its_kind_the_embedded_model_gets_a_guess_and_others_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dry_run(configured(), 1, False)
    assert "a guess" in capsys.readouterr().out
    small, large = find_pace(configured("training.steps=90")), find_pace(configured("training.steps=900"))
    assert small is not None and large is not None and large.training == pytest.approx(10 * small.training)
    other = configured("base_model.name=nobody/none", "infra.executor=work-pools")
    plan = planned(other, capsys)
    assert plan["estimated_seconds"] is None and plan["pace_from"] is None
    dry_run(other, 1, False)
    assert "no estimate" in capsys.readouterr().out


def test_a_broken_or_huge_record_of_times_is_no_obstacle(capsys: pytest.CaptureFixture[str]) -> None:
    config = configured()
    for seed, text in ((1, b"\x00\xff not a timing\n"), (2, b"")):
        folder = RunFolder.create(configured(f"seed={seed}"), identify_run(configured(f"seed={seed}")), [])
        (folder.path / "timings.jsonl").write_bytes(text)
    (folder.path / "config.yaml").write_text("[" * 5000)
    assert planned(config, capsys)["pace_from"] == "guess"
    huge = ran(configured("seed=3"), 5, 2)
    with (Path("runs") / huge / "timings.jsonl").open("r+b") as file:
        lines = file.read()
        file.seek(3 * MOST_TIMINGS)
        file.write(b"\n" + lines)
    assert find_pace(config) == Pace(5, 2, huge)


@pytest.mark.timeout(60)
def test_a_record_of_times_that_is_no_file_is_not_waited_for() -> None:
    path = Path("runs") / ran(configured(), 5, 2) / "timings.jsonl"
    path.unlink()
    os.mkfifo(path)
    found = find_pace(configured())
    assert found is not None and not found.run_id, "a guess"


def test_lanes_come_from_the_executor_and_its_configuration() -> None:
    cores = os.cpu_count() or 1
    assert lanes_of(configured("infra.executor=inline").infra) == Lanes(1, 1, 1)
    assert lanes_of(configured("infra.training.lanes=64", "infra.evaluation.lanes=64").infra) == Lanes(
        cores, cores, cores
    )
    limited = configured("infra.local_lanes=6", "infra.training.lanes=2", "infra.evaluation.lanes=9").infra
    assert lanes_of(limited) == Lanes(2, 6, 6)
    pools = configured("infra.executor=work-pools", "infra.training.lanes=5", "infra.evaluation.lanes=7").infra
    assert lanes_of(pools) == Lanes(5, 7, 12)
    assert str(lanes_of(pools)) == "5 training and 7 evaluation lanes" and str(lanes_of(limited)) == "6 lanes"


def test_the_estimate_is_of_the_kind_that_takes_longest() -> None:
    pace = Pace(60, 6)
    assert estimate(JobCount(100, 100), Lanes(1, 1, 1), pace, 16) == 6600
    assert estimate(JobCount(100, 100), Lanes(2, 3, 5), pace, 16) == 3000, (
        "trainings are the bottleneck, evaluations run beside them"
    )
    assert estimate(JobCount(100, 100), Lanes(10, 1, 11), pace, 16) == pytest.approx(600)
    assert estimate(JobCount(100, 100), Lanes(2, 2, 2), pace, 16) == 3300
    assert estimate(JobCount(100, 100), Lanes(64, 64, 128), pace, 4) == 1500, "no more at a time than genomes"


def test_what_the_store_has_is_counted_where_that_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    config = configured()
    assert planned(config, capsys)["first_generation"] == {"adapters": 4, "in_store": 0}
    entry = Path("runs/store/adapters/0000")
    entry.mkdir(parents=True)
    assert planned(config, capsys)["first_generation"] == {"adapters": 4, "in_store": 0}
    assert planned(configured("problems.pairs=5000"), capsys)["first_generation"] == {"adapters": 4, "in_store": None}
    dry_run(configured("problems.pairs=5000"), 1, False)
    assert "how many of them the store has is known when the evolution starts" in capsys.readouterr().out
    big = planned(configured("search.population=2000", "search.elites=1"), capsys)
    assert big["first_generation"] == {"adapters": None, "in_store": None} and big["genomes"] == []


def test_a_changed_model_has_nothing_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What lanes of this machine said in an earlier session is not believed: the model is looked at again."""
    from coral_core.evolution.job_runner import Planner
    from coral_core.lm.base_model import TINY, identify
    from coral_core.runs.identities import Identities, freeze_identities
    from coral_core.search.strategy import make_search

    shutil.copytree(TINY, tmp_path / "model")
    small = [
        "problems.fitness=8",
        "problems.retention=2",
        "problems.monitor=2",
        "problems.held_out=6",
        "problems.pairs=20",
    ]
    places = [f"store.path={tmp_path / 'store'}", f"runs={tmp_path / 'runs'}", f"base_model.name={tmp_path / 'model'}"]
    config = parse_config(
        "", "test", [*small, *places, "base_model.prompt=tiny", "genes.heavy.learning_rate=[2e-4, 1e-3]"]
    )
    identity, lanes = identify_run(config), Identities.alike(identify(config.base_model))
    folder = RunFolder.create(config, identity, [])
    freeze_identities(folder, config.infra, lanes)
    seeded = config.model_copy(update={"seed": identity.run_seed})
    for genome in make_search(seeded).ask():
        digest = Planner(config, identity, lanes).training(genome.heavy).digest()
        (tmp_path / "store" / "adapters" / digest).mkdir(parents=True, exist_ok=True)
    for in_store in (True, False):
        dry_run(config, 1, True)
        plan = json.loads(capsys.readouterr().out)["first_generation"]
        assert (plan["in_store"] > 0) == in_store
        (tmp_path / "model" / "merges.txt").write_text("other")


@pytest.mark.parametrize(
    ("strategy", "baselines", "repeats", "monitor", "trainings", "evaluations"),
    [
        ("evolution", "quick", 2, 2, 1 + 4 + 3 + 2, 2 + (4 + 1) + (3 + 1) + 4 + 2),
        ("random", "quick", 0, 0, 1 + 4 + 4, 2 + 4 + 4 + 4),
        ("random", "tuned", 0, 0, 1 + 16 + 4 + 4, 2 + 16 + 4 + 4 + 5),
    ],
)
def test_jobs_of_a_run_by_hand(
    strategy: str, baselines: str, repeats: int, monitor: int, trainings: int, evaluations: int
) -> None:
    search = {"strategy": strategy, "baselines": baselines, "champion_repeats": repeats}
    plan = plan_jobs(
        configured(*(f"search.{key}={value}" for key, value in search.items()), f"problems.monitor={monitor}")
    )
    assert plan.total == JobCount(trainings, evaluations)
    later = plan.generation(1) * (plan.generations - 1)
    assert plan.baselines + plan.generation(0) + later + plan.after_search == plan.total


def test_adapters_of_the_first_generation_that_are_shared_are_trained_once() -> None:
    assert plan_jobs(configured(), 3).total == plan_jobs(configured()).total + JobCount(-1, 0)


def test_the_tuned_baselines_are_planned_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    quick, tuned = planned(configured(), capsys), planned(configured("search.baselines=tuned"), capsys)
    assert (quick["baselines"], quick["tuned_candidates"]) == ("quick", None)
    assert tuned["trainings_at_most"] == quick["trainings_at_most"] + 16
    assert tuned["evaluations_at_most"] == quick["evaluations_at_most"] + 17
    assert len(tuned["tuned_candidates"]) == 16 and quick["default_lora"] in tuned["tuned_candidates"].values()
    dry_run(configured("search.baselines=tuned"), 1, False)
    assert "tuned LoRA; at most 17 of the trainings are for them" in capsys.readouterr().out
