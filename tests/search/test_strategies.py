"""Strategies of the package and of plug-ins: contract, order, exhaustion, refusals."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from coral_core.config import RunConfig
from coral_core.config.strategy_names import STRATEGIES, plugin_strategies
from coral_core.errors import ConfigError
from coral_core.evolution.preflight import check, preflight
from coral_core.genome import Genome
from coral_core.runs.job_count import JobCount, most_genomes, plan_jobs
from coral_core.search import strategies
from coral_core.search.expression import GENES, SearchSpace
from coral_core.search.grid_search import shuffled
from coral_core.search.randomness import generator
from coral_core.search.strategies import find_strategy
from coral_core.search.strategy import Scored, Search, StrategyError, make_search
from coral_core.search.strategy_conformance import FEW, ONE_OF_EACH, _mixed, complaints
from tests.search.landscape import scored


def config(strategy: str, **changes: object) -> RunConfig:
    search = {"strategy": strategy, **{key: value for key, value in changes.items() if key != "genes"}}
    return RunConfig.model_validate({"search": search, "genes": changes.get("genes", {})})


def genomes_of(config: RunConfig) -> list[Genome]:
    """All genomes of a search on the landscape."""
    search, asked = make_search(config), []
    while not search.done:
        asked += search.ask()
        search.tell([scored(genome, config) for genome in search.ask()])
    return asked


SLOW = pytest.mark.slow(reason="4 s; the same sampler as tpe with one objective")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=SLOW) if name == "tpe-fitness" else name for name in STRATEGIES]
)
def test_strategies_of_the_package_keep_the_contract(name: str) -> None:
    assert complaints(find_strategy(name), seeds=(0,)) == []


@pytest.mark.parametrize("name", ["random", "grid", "sobol", "tpe", "nsga2", "evolution"])
def test_another_seed_gives_other_genomes(name: str) -> None:
    first, second = (
        {genome.genes_digest() for genome in genomes_of(config(name, generations=2).model_copy(update={"seed": seed}))}
        for seed in (0, 1)
    )
    assert len(first & second) < len(first) / 2


# -- grid -------------------------------------------------------------------------------------


def test_a_grid_tries_each_cell_once_and_ends() -> None:
    made = config("grid", population=4, generations=50, genes=FEW | {"light": {}})
    space = SearchSpace(made.genes)
    assert space.heavy["target_modules"] == (("q_proj",), ("q_proj", "v_proj"), ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"))  # fmt: skip
    asked = genomes_of(made)
    assert len(asked) == len({genome.heavy.digest() for genome in asked}) == space.adapters == 9
    assert {genome.light.sampling for genome in asked} == {False}
    assert [genome.generation for genome in asked] == [0] * 4 + [1] * 4 + [2]
    search = make_search(made)
    while not search.done:
        search.tell([scored(genome, made) for genome in search.ask()])
    assert search.reason == "all 9 adapters of the grid were tried"


def test_a_small_budget_sees_all_corners_of_a_large_grid() -> None:
    asked = genomes_of(config("grid", population=24, generations=1, start_with_default=False))
    assert len({genome.heavy.rank for genome in asked}) >= 5
    assert len({genome.heavy.target_modules for genome in asked}) == 5


def test_the_first_generations_of_a_grid_do_not_depend_on_their_number() -> None:
    assert genomes_of(config("grid", generations=3))[:16] == genomes_of(config("grid", generations=2))


def test_a_grid_may_be_huge() -> None:
    ranks = {"heavy": {"rank": list(range(1, 257)), "alpha": [float(n) for n in range(1, 257)]}}
    assert len(genomes_of(config("grid", genes=ranks))) == 32


@pytest.mark.parametrize("count", [1, 2, 5, 50])
def test_a_shuffle_is_a_permutation(count: int) -> None:
    assert sorted(shuffled(count, generator(count, 0, 0, "test"))) == list(range(count))


def test_shuffles_are_uniform() -> None:
    seen = Counter(tuple(shuffled(3, generator(seed, 0, 0, "test"))) for seed in range(1200))
    assert len(seen) == 6 and all(150 < count < 250 for count in seen.values())


# -- the others -------------------------------------------------------------------------------


def test_sobol_spreads_more_evenly_than_chance() -> None:
    """Each of six ranks has a sixth of 60 genomes, give or take one; random draws do not."""
    counts = Counter(genome.heavy.rank for genome in genomes_of(config("sobol", population=64, generations=1, start_with_default=False)))  # fmt: skip
    assert set(counts) == {1, 2, 4, 8, 16, 32} and max(counts.values()) - min(counts.values()) <= 2
    chance = Counter(genome.heavy.rank for genome in genomes_of(config("random", population=64, generations=1, start_with_default=False)))  # fmt: skip
    assert max(chance.values()) - min(chance.values()) > 2


def test_fixed_is_the_default_lora_alone() -> None:
    (genome,) = genomes_of(config("fixed"))
    assert (genome.heavy.rank, genome.heavy.alpha, genome.light.sampling, genome.lineage.operator) == (
        8,
        16,
        False,
        "default",
    )


@pytest.mark.parametrize("name", ["tpe", "tpe-fitness", "nsga2"])
def test_samplers_of_optuna_learn(name: str) -> None:
    """On a landscape with one good rank they propose it more often than chance does."""

    def share(strategy: str) -> float:
        made = config(strategy, population=10, generations=8, genes={"light": ONE_OF_EACH["light"]})
        search, late = make_search(made), []
        while not search.done:
            if search.generation >= 4:
                late += [genome.heavy.rank == 32 for genome in search.ask()]
            search.tell([_told(genome, 1.0 if genome.heavy.rank == 32 else 0.2) for genome in search.ask()])
        return sum(late) / len(late)

    assert share(name) > 0.4 > share("random")


def _told(genome: Genome, value: float) -> Scored:
    return Scored(genome=genome, scores=dict.fromkeys(_mixed(genome), value), fitness=value)


def test_optuna_avoids_what_is_infeasible() -> None:
    made = config("tpe-fitness", population=10, generations=8)
    search, late = make_search(made), []
    while not search.done:
        if search.generation >= 4:
            late += [genome.heavy.adapter == "dora" for genome in search.ask()]
        search.tell([
            Scored(genome=genome, scores=None, fitness=None, infeasible="diverged") if genome.heavy.adapter == "dora" else _told(genome, 0.5)
            for genome in search.ask()
        ])  # fmt: skip
    assert sum(late) < 0.35 * len(late)


# -- names and refusals -----------------------------------------------------------------------


def test_an_unknown_strategy_is_refused_with_those_that_are_known() -> None:
    for refuse in (lambda: check(config("annealing")), lambda: make_search(config("annealing"))):
        with pytest.raises(
            ConfigError, match=r"search.strategy: annealing: no such strategy. Known: evolution, .*fixed"
        ):
            refuse()


def test_a_missing_optuna_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package optuna.*pip install 'coral-x\[optuna\]'"):
        check(config("tpe"))
    check(config("sobol"))


def test_a_population_that_is_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"search.population: 1: too small for the strategy nsga2. Use at least 2"):
        check(config("nsga2", population=1))


def test_fixed_refuses_keys_that_would_do_nothing() -> None:
    with pytest.raises(ValueError, match="start_from"):
        config("fixed", start_from="last-champion")
    with pytest.raises(ValueError, match="start_with_default"):
        config("fixed", start_with_default=False)


@pytest.mark.parametrize(
    ("strategy", "changes", "sizes"),
    [
        ("random", {}, [(8, 9)] * 4),
        ("fixed", {}, [(1, 2)]),
        ("grid", {"genes": FEW, "population": 4}, [(4, 5), (4, 5), (1, 2)]),
        ("tpe", {"genes": FEW}, [(8, 9), (1, 9), (0, 9), (0, 9)]),
        ("sobol", {"trainings": 10}, [(8, 9), (2, 9), (0, 9), (0, 9)]),
    ],
)
def test_jobs_are_planned_for_each_strategy(
    strategy: str, changes: dict[str, object], sizes: list[tuple[int, int]]
) -> None:
    made = config(strategy, **changes)
    plan = plan_jobs(made)
    assert plan.search == tuple(JobCount(*size) for size in sizes)
    assert len(genomes_of(made)) <= most_genomes(made)


# -- plug-ins ---------------------------------------------------------------------------------

MODULE = """
from coral_core.search.expression import GENES
from coral_core.search.random_search import RandomSearch
from coral_core.search.strategy import Search

class Middle(Search):
    version = "1"
    def propose(self):
        place = {gene: (self.config.seed % 7 + self.generation) / 10 for gene in GENES}
        return [self.genome(slot, place, "middle") for slot in range(self.config.search.population)]
    def stop(self):
        return "enough" if self.generation == 2 else ""

class Nameless(Middle):
    version = ""

class Loud(Middle):
    def propose(self):
        raise SystemExit(0)

class Outside(Middle):
    def propose(self):
        genomes = super().propose()
        return [g.model_copy(update={"heavy": g.heavy.model_copy(update={"rank": 999})}) for g in genomes]

class Onward(RandomSearch):  # goes on with adapters that it makes up
    version = "1"
    changes, times = {}, 1
    def propose(self):
        for genome in super().propose():
            earlier = genome.heavy.model_copy(update=self.changes)
            for _ in range(self.times - 1):
                earlier = earlier.model_copy(update={"warm_start": earlier})
            yield genome.model_copy(update={"heavy": genome.heavy.model_copy(update={"warm_start": earlier})})

class Forgetful(RandomSearch):
    version = "1"
    calls = 0
    def propose(self):
        Forgetful.calls += 1
        for genome in super().propose():
            yield genome.model_copy(update={"heavy": genome.heavy.model_copy(update={"rank": 1 + Forgetful.calls % 2})})

class Lazy(Middle):
    def propose(self):
        return []

class Fragile(Middle):
    def learn(self, results):
        1 / 0

number = 3
"""
NAMES = {"middle": "Middle", "onward": "Onward", "nameless": "Nameless", "loud": "Loud", "outside": "Outside", "lazy": "Lazy", "fragile": "Fragile", "number": "number", "lost": "Lost"}  # fmt: skip


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], type[Search]]:
    """A real installation, as pip leaves it; gives its classes by name."""
    (tmp_path / "coral_strategies_of_a_test.py").write_text(MODULE)
    metadata = tmp_path / "coral_strategies_of_a_test-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: coral_strategies_of_a_test\nVersion: 1\n")
    lines = [f"{name} = coral_strategies_of_a_test:{value}" for name, value in NAMES.items()]
    (metadata / "entry_points.txt").write_text("[coral_x.strategies]\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "coral_strategies_of_a_test", raising=False)

    def named(name: str) -> type[Search]:
        import coral_strategies_of_a_test as module  # type: ignore[import-not-found]

        found: type[Search] = getattr(module, name)
        return found

    return named


def test_a_plugin_is_a_strategy_by_its_name(plugin: Callable[[str], type[Search]]) -> None:
    assert set(plugin_strategies()) == set(NAMES)
    notes = check(config("middle"))
    assert any("search strategy middle (coral_strategies_of_a_test:Middle): it is installed, and was not loaded" in note for note in notes)  # fmt: skip
    assert "coral_strategies_of_a_test" not in sys.modules, "a check runs no code of a plug-in"
    search = make_search(config("middle"))
    assert search.version == "1"
    for _ in range(2):
        search.tell([scored(genome, config("middle")) for genome in search.ask()])
    assert search.reason == "enough"
    assert complaints(plugin("Middle")) == []


@pytest.mark.parametrize(
    ("name", "words"), [("nameless", "version"), ("number", "no strategy"), ("lost", "cannot be loaded")]
)
def test_a_plugin_that_is_no_strategy_is_refused_before_a_run(
    plugin: Callable[[str], type[Search]], name: str, words: str
) -> None:
    check(config(name))
    with pytest.raises(ConfigError, match=words):
        preflight(RunConfig.model_validate({"search": {"strategy": name}, "base_model": {"name": "rehearsal"}}))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("loud", "loud: its plug-in coral_strategies_of_a_test:Loud failed in generation 0 .SystemExit"),
        ("outside", "proposed g000-000 outside the search space .rank 999"),
        ("lazy", "proposed 0 genomes"),
    ],
)
def test_a_plugin_that_fails_is_named(plugin: Callable[[str], type[Search]], name: str, words: str) -> None:
    with pytest.raises(StrategyError, match=words):
        make_search(config(name)).ask()


@pytest.mark.parametrize(
    ("changes", "times", "words"),
    [
        (
            {"learning_rate": 1.0},
            1,
            "outside the search space .learning_rate 1.0 of a warm start",
        ),
        ({"rank": 999}, 1, "outside the search space .warm_start of another shape"),
        ({"warm_start": {"rank": 8}}, 1, "outside the search space .warm_start of another shape"),
        ({}, 9, "outside the search space .more than 9 trainings"),
        ({}, 5000, "outside the search space .more than 9 trainings"),
        ({}, 8, "g000-000 needs 9 trainings, and search.trainings leaves 8"),
    ],
)
def test_a_plugin_may_not_go_on_with_what_the_configuration_forbids(
    plugin: Callable[[str], type[Search]],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    times: int,
    words: str,
) -> None:
    monkeypatch.setattr(plugin("Onward"), "changes", changes)
    monkeypatch.setattr(plugin("Onward"), "times", times)
    with pytest.raises(StrategyError, match=words):
        make_search(config("onward", trainings=8)).ask()


def test_a_plugin_may_go_on_with_adapters(plugin: Callable[[str], type[Search]]) -> None:
    assert complaints(plugin("Onward"), seeds=(0,)) == []
    search = make_search(config("onward", trainings=16))
    assert [genome.heavy.trainings() for genome in search.ask()] == [2] * 8


def test_a_plugin_that_fails_to_learn_is_named(plugin: Callable[[str], type[Search]]) -> None:
    search = make_search(config("fragile"))
    with pytest.raises(StrategyError, match="ZeroDivisionError"):
        search.tell([scored(genome, config("fragile")) for genome in search.ask()])


def test_the_conformance_suite_finds_what_is_wrong(plugin: Callable[[str], type[Search]]) -> None:
    def first(name: str) -> str:
        return "\n".join(complaints(plugin(name), seeds=(0,))[:3])

    assert "give a text that changes" in first("Nameless")
    assert "gave other genomes" in first("Forgetful")
    assert "outside the search space (rank 999)" in first("Outside")
    assert "proposed 0 genomes" in first("Lazy")
    assert "ZeroDivisionError" in first("Fragile")


def test_the_example_of_the_page_conforms() -> None:
    page = Path(__file__).parents[2] / "docs" / "search.md"
    code = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)[0]
    names: dict[str, type[Search]] = {"__name__": "example"}  # type: ignore[dict-item]
    exec(code, names)
    assert complaints(names["NearTheBest"], seeds=(0,)) == []


class Wordless(Search):
    """Never says why it is done, and takes whatever it is told."""

    version = "1"

    def propose(self) -> Iterable[Genome]:
        return [self.genome(0, dict.fromkeys(GENES, 0.0), "wordless")]

    def tell(self, results: object) -> None:
        self.generation += 1
        self._asked = None


def test_one_that_refuses_nothing_is_found() -> None:
    assert any("no results was not refused" in text for text in complaints(Wordless, seeds=(0,)))
