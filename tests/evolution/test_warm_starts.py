"""Warm starts: children that train their parent's adapter further. Genes, jobs, whole runs; and the real engine."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from safetensors.torch import load_file

from coral_core import RunConfig, evolve, open_run
from coral_core.config.tree import BaseModelConfig, SearchConfig
from coral_core.digest import digest
from coral_core.errors import AdapterError, TableError
from coral_core.evolution.charges import Charges
from coral_core.evolution.job_runner import Planner
from coral_core.genome import DEFAULT_LORA, GREEDY, MOST_WARM_STARTS, SHAPE, HeavyGenes
from coral_core.jobs.jobs import TrainedAdapter
from coral_core.lanes.lane import Lane
from coral_core.lm.base_model import TINY
from coral_core.lm.engine import TorchBackend
from coral_core.lm.requests import AdapterFolder
from coral_core.lm.targets import default_lora_of
from coral_core.report.build_report import build_report
from coral_core.report.wording import heavy_text
from coral_core.runs.job_count import JobPlan, plan_jobs
from coral_core.runs.records import GenomeRecord
from coral_core.runs.run_folder import RunFolder
from coral_core.search.play import play
from coral_core.search.strategy import Scored, Search, genome_at, make_search
from coral_core.store.store import Store
from coral_core.verification import check_all
from coral_core.verification import open_run as check_run
from tests.evolution.test_api import settings
from tests.lm.engine_models import job, training
from tests.search.synthetic_table import facts_of, rows_of
from tests.search.test_evolution import played, scored

OFTEN = {"variation": {"warm_start_rate": 1.0, "crossover_rate": 0.0, "seed_rate": 0.0}}


def warm(folder: Path, executor: str = "inline", **search: Any) -> RunConfig:
    made = settings(folder, executor=executor)
    made["seed"] = 6  # its champion is a child that went on
    made["problems"]["fitness"] = 48
    made["search"] |= {"generations": 4, "population": 5, "early_stopping": {"enabled": False}, **OFTEN, **search}
    return RunConfig.model_validate(made)


def chain(length: int, **changes: Any) -> HeavyGenes:
    heavy = DEFAULT_LORA
    for _ in range(length - 1):
        heavy = HeavyGenes.model_validate(heavy.model_dump() | {"warm_start": heavy.model_dump()} | changes)
    return heavy


# -- genes and jobs ------------------------------------------------------------------------


def test_a_warm_start_has_the_shape_of_its_adapter() -> None:
    assert chain(3, learning_rate=0.1).trainings() == 3
    for gene, value in {
        "rank": 4,
        "alpha": 8,
        "target_modules": ["q_proj"],
        "adapter": "dora",
        "scaling": "rslora",
    }.items():
        assert gene in SHAPE
        with pytest.raises(ValidationError, match="another shape"):
            chain(2, **{gene: value})


def test_a_chain_has_an_end() -> None:
    assert chain(MOST_WARM_STARTS + 1).trainings() == MOST_WARM_STARTS + 1
    with pytest.raises(ValidationError, match="one after the other"):
        chain(MOST_WARM_STARTS + 2)


def test_digests_without_one_are_what_they_were() -> None:
    assert "warm_start" not in DEFAULT_LORA.model_dump()
    assert DEFAULT_LORA.digest() == digest(
        {"rank": 8, "alpha": 16.0, "dropout": 0.0, "adapter": "lora", "learning_rate": 0.005, "target_modules": ["k_proj", "o_proj", "q_proj", "v_proj"]}
    )  # fmt: skip
    assert len({chain(n).digest() for n in (1, 2, 3)}) == 3


def test_a_job_names_the_training_that_it_goes_on_with() -> None:
    planner = Planner.of_config(RunConfig.model_validate({"base_model": {"name": "rehearsal"}}))
    last = planner.training(chain(3), 2)
    middle = last.warm_start()
    assert middle == planner.training(chain(2), 2) and middle is not None
    assert middle.warm_start() == planner.training(chain(1), 2)
    assert planner.training(chain(1)).warm_start() is None


def test_text_says_what_came_before() -> None:
    assert heavy_text(chain(3, learning_rate=0.001)).endswith("lr 0.001 (after 2 trainings: lr 0.005, 0.001)")


# -- the search ----------------------------------------------------------------------------


def test_children_go_on_with_their_parents_and_keep_the_shape() -> None:
    config = RunConfig(
        search=SearchConfig.model_validate({"generations": 6, "early_stopping": {"enabled": False}, **OFTEN})
    )
    asked = played(config)[1]
    genomes = {genome.genome_id: genome for generation in asked for genome in generation}
    children = [genome for genome in genomes.values() if genome.lineage.operator == "warm-start"]
    assert len(children) > 10 and max(child.heavy.trainings() for child in children) > 2
    for child in children:
        assert child.heavy.warm_start == genomes[child.lineage.parents[0]].heavy
    assert not any(genome.heavy.warm_start for genome in asked[0])


@pytest.mark.parametrize("surrogate", [False, True])
@pytest.mark.parametrize("best", [1, 3])
def test_the_fittest_adapters_are_trained_further_at_last_at_a_lower_rate(best: int, surrogate: bool) -> None:
    variation = {"warm_start_rate": 0.01, "warm_start_best": best}
    search = make_search(
        RunConfig.model_validate(
            {
                "search": {
                    "generations": 6,
                    "finalist_share": 0.0,
                    "elites": 2,
                    "early_stopping": {"enabled": False},
                    "surrogate": {"enabled": surrogate},
                    "variation": variation,
                }
            }
        )
    )
    rates, last = search.config.genes.heavy.learning_rate, search.config.search.generations - 1
    results: list[Scored] = []
    while not search.done:
        asked = search.ask()
        trained = {result.genome.heavy.digest() for result in results}
        further = asked[2 : 2 + best] if results else ()
        for genome in further:
            earlier = genome.heavy.warm_start
            assert earlier is not None and earlier.digest() in trained and genome.heavy.digest() not in trained
            lower = [rate for rate in rates if rate < earlier.learning_rate and search.generation == last]
            assert genome.heavy.learning_rate == max(lower, default=earlier.learning_rate)
        assert len({genome.heavy.digest() for genome in further}) == len(further)
        champion = search.champion_of(results)
        if champion is not None and not any(
            each.warm_start and each.warm_start.digest() == champion.genome.heavy.digest()
            for each in (result.genome.heavy for result in results)
        ):
            assert asked[2].heavy.warm_start == champion.genome.heavy, "the champion goes first"
        results += [scored(genome) for genome in asked]
        search.tell(results[-len(asked) :])


def test_the_trainings_left_tell_which_generation_is_the_last() -> None:
    """8 and three times 6 of 26 trainings: the generation of the last six anneals, though many more generations are allowed."""
    variation = {"warm_start_rate": 0.01, "warm_start_best": 2, "seed_rate": 0.35}
    settings = {
        "generations": 100,
        "trainings": 26,
        "elites": 2,
        "finalist_share": 0.0,
        "early_stopping": {"enabled": False},
    }
    asked = played(RunConfig(search=SearchConfig.model_validate(settings | {"variation": variation})))[1]
    further = [genomes[2:4] for genomes in asked]
    kept = [
        all(genome.heavy.warm_start and genome.heavy.warm_start.learning_rate == genome.heavy.learning_rate for genome in each)
        for each in further
    ]  # fmt: skip
    assert kept[:4] == [False, True, True, False]


def test_no_more_go_on_than_there_are_slots_and_chains_end() -> None:
    variation = {"warm_start_rate": 0.5, "warm_start_best": 100}
    without = {"early_stopping": {"enabled": False}, "finalist_share": 0}
    settings = {"generations": 14, "population": 4, "elites": 1, **without}
    asked = played(RunConfig(search=SearchConfig.model_validate(settings | {"variation": variation})))[1]
    assert all(len(genomes) == 4 for genomes in asked)
    assert max(genome.heavy.trainings() for genomes in asked for genome in genomes) <= MOST_WARM_STARTS + 1


def test_none_goes_on_without_warm_starts() -> None:
    def asked(**variation: float) -> list[Any]:
        return played(RunConfig(search=SearchConfig.model_validate({"generations": 4, "variation": variation})))[1]

    assert asked(warm_start_best=3) == asked()


def test_an_infeasible_genome_has_no_adapter_to_go_on_with() -> None:
    search = make_search(
        RunConfig(search=SearchConfig.model_validate({"generations": 4, "early_stopping": {"enabled": False}, **OFTEN}))
    )
    while not search.done:  # whatever was trained once diverged
        asked = search.ask()
        assert not any(genome.heavy.warm_start for genome in asked)
        search.tell([Scored(genome=genome, infeasible="diverged", scores=None, fitness=None) for genome in asked])
    assert search.generation == 4


def carrying(*carried: HeavyGenes, rate: float = 0.5, **search: Any) -> Search:
    """A search of population 4 whose first population begins with `carried`."""
    genomes = [
        genome_at(0, slot, heavy, GREEDY, "seed").model_copy(update={"genome_id": f"before/g000-00{slot}"})
        for slot, heavy in enumerate(carried)
    ]
    settings = {"population": 4, "start_with_default": False, "variation": {"warm_start_rate": rate}, **search}
    return make_search(RunConfig(search=SearchConfig.model_validate(settings)), genomes)


def test_carried_genomes_keep_their_warm_starts_where_the_run_has_some() -> None:
    assert carrying(chain(3)).ask()[0].heavy == chain(3)
    assert carrying(chain(3), rate=0.0).ask()[0].heavy == chain(1)


def test_carried_trainings_move_to_the_candidates_together() -> None:
    moved = carrying(chain(3, learning_rate=0.9).model_copy(update={"dropout": 0.9})).ask()[0].heavy
    allowed = RunConfig().genes.heavy
    assert moved.trainings() == 3
    for each in moved.chain():
        assert each.learning_rate in allowed.learning_rate and each.dropout in allowed.dropout
    elsewhere = chain(2).model_copy(update={"rank": 9, "warm_start": chain(1).model_copy(update={"rank": 9})})
    assert {each.rank for each in carrying(elsewhere).ask()[0].heavy.chain()} == {8}


def test_the_trainings_of_carried_genomes_are_spent_once() -> None:
    search = carrying(chain(3), chain(3, learning_rate=0.001), trainings=12, strategy="random")
    asked = search.ask()
    heavy = {each.digest() for genome in asked for each in genome.heavy.chain()}
    assert len(heavy) == 1 + 2 + 2 + 2, "both begin with the default"
    search.tell([scored(genome) for genome in asked])
    last = search.ask()
    assert len(heavy | {each.digest() for genome in last for each in genome.heavy.chain()}) <= 12


def test_carried_trainings_leave_room_for_the_first_population() -> None:
    search = carrying(chain(9), chain(3), trainings=7)
    asked = search.ask()
    assert [genome.heavy.trainings() for genome in asked][:2] == [1, 3] and len(asked) == 4


def test_jobs_are_planned_with_the_trainings_behind_a_champion() -> None:
    heavy = {"rank": [8], "alpha": [16], "dropout": [0.0], "target_modules": ["q"], "adapter": ["lora"]}
    settings: dict[str, Any] = {
        "generations": 5,
        "population": 4,
        "elites": 2,
        "champion_repeats": 2,
        "finalist_share": 0.0,
        "diversity": {"minimum_unique": 0},
    }

    def plan(rate: float, **more: Any) -> JobPlan:
        search = settings | {"variation": {"warm_start_rate": rate}} | more
        return plan_jobs(
            RunConfig.model_validate({"genes": {"heavy": heavy | {"learning_rate": [0.005]}}, "search": search})
        )

    assert [each.trainings for each in plan(0.0).search] == [1, 0, 0, 0, 0] and plan(0.0).after_search.trainings == 2
    assert [each.trainings for each in plan(0.5).search][:2] == [4, 2] and plan(0.5).after_search.trainings == 2 * 5 + 4
    assert plan(0.5, start_from="last-champion").after_search.trainings == 2 * (MOST_WARM_STARTS + 1) + MOST_WARM_STARTS
    again = plan(0.0, finalist_share=0.2)
    assert sum(each.trainings for each in again.search) == 2, "the only adapter, and its repeat"
    assert plan(0.5, strategy="random").after_search.trainings == 2, "its adapters are new ones"


def test_a_table_has_none() -> None:
    from coral_core.search.table_files import columns_of
    from coral_core.search.tables import Table

    table = Table(facts_of(), columns_of(facts_of(), rows_of(facts_of())))
    search = make_search(table.config(0, SearchConfig.model_validate({"generations": 100, **OFTEN})))
    with pytest.raises(TableError, match="holds single trainings"):
        play(search, table, 0, 30)


# -- whole runs ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Any]:
    config = warm(tmp_path_factory.mktemp("warm"))
    return config, evolve(config)


def records(result: Any) -> dict[str, GenomeRecord]:
    return {each.genome.genome_id: each for each in result.history if isinstance(each, GenomeRecord)}


def test_a_run_trains_adapters_further(finished: tuple[RunConfig, Any]) -> None:
    config, result = finished
    found = records(result)
    children = [each for each in found.values() if each.genome.lineage.operator == "warm-start"]
    assert children and result.status == "finished"
    planner = Planner.of_config(config)
    for child in children:
        parent = found[child.genome.lineage.parents[0]]
        earlier = planner.training(child.genome.heavy).warm_start()
        assert earlier is not None and earlier.digest() == parent.training_digest
        assert child.fitness is not None and parent.fitness is not None
    assert max(child.genome.heavy.trainings() for child in children) >= 3


def test_the_report_says_that_others_were_trained_once(finished: tuple[RunConfig, Any]) -> None:
    _, result = finished
    count = result.champion.genome.heavy.trainings()
    assert f"trained {count} times, one after the other" in (result.folder / "report.md").read_text("utf-8").replace(
        "\n", " "
    )


def test_the_champion_must_beat_a_lora_that_was_trained_as_often(finished: tuple[RunConfig, Any]) -> None:
    config, result = finished
    line = next(each for each in result.held_out if each.name == "longer_lora")
    heavy = default_lora_of(Planner.of_config(config).base("training")).repeated(
        result.champion.genome.heavy.trainings()
    )
    assert line.training_digest == Planner.of_config(config).training(heavy).digest()
    found = build_report(RunFolder(result.folder), Store(config.store.path))
    assert found.longer_lora is not None and found.longer_lora.heavy == heavy
    assert found.longer_lora.held_out_repaired == line.passed and found.gaps.champion_minus_longer_lora is not None
    assert "LoRA trained as often" in found.answer.text
    assert found.bug_classes[0].longer_lora is not None and "longer_lora" in found.outcomes


def test_a_champion_that_was_trained_once_has_no_such_rival(tmp_path: Path) -> None:
    config = warm(tmp_path, generations=1)
    found = build_report(RunFolder(evolve(config).folder), Store(config.store.path))
    assert found.longer_lora is None and found.gaps.champion_minus_longer_lora is None
    assert "default LoRA" in found.answer.text and "longer_lora" not in found.model_dump(mode="json")


def test_the_champions_repeats_train_the_whole_chain_anew(finished: tuple[RunConfig, Any]) -> None:
    config, result = finished
    heavy = result.champion.genome.heavy
    assert heavy.warm_start is not None
    store, again = Store(config.store.path), Planner.of_config(config).training(heavy, 1)
    while again is not None:
        assert store.read_adapter(again.digest()) is not None
        again = again.warm_start()
    final = open_run(result.folder).history[-1]
    assert final.repeats[0].training_digest == Planner.of_config(config).training(heavy, 1).digest()


def test_local_lanes_write_the_same_history(finished: tuple[RunConfig, Any], tmp_path: Path) -> None:
    other = evolve(warm(tmp_path, "local"))
    assert (other.folder / "history.jsonl").read_bytes() == (finished[1].folder / "history.jsonl").read_bytes()


def test_what_the_store_lost_is_trained_again(finished: tuple[RunConfig, Any], tmp_path: Path) -> None:
    config, result = finished
    shutil.copytree(config.store.path, tmp_path / "store")
    shutil.copytree(Path(config.runs), tmp_path / "runs", symlinks=True)
    child = next(each for each in records(result).values() if each.genome.heavy.trainings() >= 3)
    job = Planner.of_config(config).training(child.genome.heavy)
    first, second = job.warm_start(), job
    assert first is not None and first.warm_start() is not None
    gone = [first.digest(), second.digest(), first.warm_start().digest()]  # type: ignore[union-attr]
    for digest_ in gone:
        for path in (tmp_path / "store" / "adapters").rglob(f"{digest_}*"):
            shutil.rmtree(path)
    (folder,) = (
        path
        for path in (tmp_path / "runs").iterdir()
        if path.is_dir() and not path.is_symlink() and path.name != "comparisons"
    )
    whole = (folder / "history.jsonl").read_bytes()
    (folder / "history.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    evolve(warm(tmp_path))
    assert (folder / "history.jsonl").read_bytes() == whole
    store = Store(tmp_path / "store")
    assert all(store.read_adapter(digest_) is not None for digest_ in gone)


def test_a_lane_refuses_to_begin_without_the_adapter(tmp_path: Path) -> None:
    from coral_core.lm.engine_client import EngineProcess

    planner = Planner.of_config(RunConfig.model_validate({"base_model": {"name": "rehearsal"}}))
    lane = Lane(Store(tmp_path), EngineProcess())
    try:
        with pytest.raises(AdapterError, match=r"which it goes on with, is not in the store"):
            lane.train(planner.training(chain(2)), 60)
    finally:
        lane.close()


def test_an_infeasible_training_makes_those_that_go_on_with_it_infeasible(tmp_path: Path) -> None:
    from coral_core.lm.engine_client import InlineEngine

    planner = Planner.of_config(RunConfig.model_validate({"base_model": {"name": "rehearsal"}}))
    lane = Lane(Store(tmp_path), InlineEngine())
    first, second, third = planner.training(chain(3, learning_rate=0.01)).chain()
    lane.store.prepare()
    why = TrainedAdapter(training_digest=first.digest(), infeasible="diverged", reason="the loss was nan")
    lane.store.publish_adapter(first.digest(), lane.store.scratch(), why)
    for job_ in (second, third):
        record = lane.train(job_, 60)
        assert record == lane.store.read_adapter(job_.digest())
        assert record.infeasible == "diverged" and record.reason.endswith("has no adapter: the loss was nan")
    lane.close()


def test_every_training_behind_a_genome_is_charged_once(finished: tuple[RunConfig, Any]) -> None:
    config, result = finished
    planner, store = Planner.of_config(config), Store(config.store.path)
    deep = [each for each in records(result).values() if each.genome.heavy.trainings() >= 3]
    behind = {job.digest() for each in deep for job in planner.training(each.genome.heavy).chain()}
    charges = Charges(store, config.budget.price, lambda heavy: planner.training(heavy).digest())
    for record in deep:  # before their parents, as carried ones
        charges.add(record)
    results = [store.read_adapter(name) for name in behind]
    evaluations = {each.evaluation_digest for each in deep}
    seconds = [each.cost.seconds for each in (*results, *map(store.read_evaluation, evaluations)) if each is not None]
    assert len(behind) > len({each.training_digest for each in deep})
    assert len(seconds) == len(behind) + len(evaluations)
    assert charges.total.trainings == len(behind) and charges.total.gpu_seconds == pytest.approx(sum(seconds))
    for record in [*records(result).values(), *deep]:
        charges.add(record)
    assert charges.total.trainings == len({each.training_digest for each in records(result).values()} | behind)


def test_a_champion_that_went_on_comes_along_with_its_trainings(
    finished: tuple[RunConfig, Any], tmp_path: Path
) -> None:
    shutil.copytree(Path(finished[0].runs), tmp_path / "runs", symlinks=True)  # another store: all is trained anew
    config = warm(tmp_path, start_from="last-champion", generations=1, gpu_seconds=1e9, champion_repeats=0)
    result = evolve(config.model_copy(update={"seed": 2}))
    carried = [each for each in records(result).values() if each.genome.lineage.operator == "carried"]
    assert carried[0].genome.heavy == finished[1].champion.genome.heavy
    checked, _ = check_run(RunFolder(result.folder), Store(config.store.path))
    assert checked is not None and check_all(checked)
    assert [finding.text for finding in checked.findings if finding.status == "differs"] == []


# -- the real engine -----------------------------------------------------------------------


def test_the_engine_begins_with_the_weights_that_are_given(tmp_path: Path) -> None:
    backend = TorchBackend(BaseModelConfig(name="coral-tiny"))
    pairs = [(f"<bos>def f(x):\n    return x + {n}<sep>", f"def f(x):\n    return x - {n}<eos>") for n in range(6)]

    def train(out: str, warm_start: AdapterFolder | None, **genes: Any) -> Any:
        (tmp_path / out).mkdir()
        request = training(job(TINY, ("q_proj", "v_proj"), dropout=0.0, adapter="dora", **genes), pairs, tmp_path / out)
        return backend.train(request.model_copy(update={"warm_start": warm_start}))

    earlier = train("first", None, learning_rate=0.01)
    heavy = job(TINY, ("q_proj", "v_proj"), dropout=0.0, adapter="dora", learning_rate=0.01).heavy
    folder = AdapterFolder(folder=tmp_path / "first", heavy=heavy)
    later = train("second", folder, learning_rate=1e-12)
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("first", "second"))
    assert before.keys() == after.keys() and any(name.endswith("magnitude_vector") for name in before)
    for name, tensor in before.items():
        assert after[name].allclose(tensor, atol=1e-6), name
    assert later.losses[0].loss < earlier.losses[0].loss
    assert backend.check() == backend.checksum
    options = tmp_path / "first" / "adapter_config.json"
    options.write_text(json.dumps(json.loads(options.read_text()) | {"r": 16}))
    with pytest.raises(AdapterError, match="r is 16"):
        train("third", folder, learning_rate=0.01)
