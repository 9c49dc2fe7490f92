"""What a comparison accepts, and the configurations that it makes of it."""

from typing import Any

import pytest

from coral_core.comparison.plan import Budget, Plan, Variant
from coral_core.config import RunConfig
from coral_core.errors import ConfigError

CONFIG = RunConfig.model_validate({"seed": 3, "search": {"generations": 2, "population": 8}})


def plan(*strategies: str, seeds: int = 2, **more: Any) -> Plan:
    return Plan.make(more.pop("config", CONFIG), strategies or ("evolution", "random"), seeds, **more)


@pytest.mark.parametrize(
    ("text", "name", "strategy", "overrides"),
    [
        ("evolution", "evolution", "evolution", ()),
        (" evolution ", "evolution", "evolution", ()),
        ("evolution:search.elites=0", "evolution:search.elites=0", "evolution", ("search.elites=0",)),
        ("no elites=evolution:search.elites=0", "no elites", "evolution", ("search.elites=0",)),
        ("x=random:genes.heavy.rank=[2, 4],search.population=6", "x", "random", ("genes.heavy.rank=[2, 4]", "search.population=6")),
        ("x=random:genes.light.temperature={low: 0.1, high: 0.2}", "x", "random", ("genes.light.temperature={low: 0.1, high: 0.2}",)),
    ],
)  # fmt: skip
def test_variants(text: str, name: str, strategy: str, overrides: tuple[str, ...]) -> None:
    assert Variant.parse(text) == Variant(name=name, strategy=strategy, overrides=overrides)


@pytest.mark.parametrize(
    ("arguments", "more", "message"),
    [
        (("evolution",), {}, "--strategies evolution: at least two"),
        (("random", "random"), {}, "--strategies random: is given twice"),
        (("random", ""), {}, "--strategies '': is no strategy"),
        (("random", "magic"), {}, "--strategies magic, --budget 16 trainings: search.strategy: magic: no such strategy"),
        (("random", "<b>=evolution"), {}, "is no name"),
        (("random", "evolution:search.population=2"), {}, "population 2 is too small for evolution"),
        (("random", "x=evolution:search.elite=1"), {}, "Did you mean elites"),
        (("random", "x=evolution:problems.fitness=9"), {}, "would change problems, which all variants share"),
        (("random", "x=evolution:training.steps=9"), {}, "would change training"),
        (("random", "x=evolution:seed=9"), {}, "would change seed"),
        (("random", "x=evolution:search.trainings=9"), {}, "another budget"),
        (("random", "x=evolution:search.population=30"), {}, "trainings 16 are too few for one generation of population 30"),
        (("random", "x=evolution:search={population: 8}"), {}, "would replace the whole section search"),
        (("random", "x=evolution:search.early_stopping.enabled=true"), {}, "another budget or another end"),
        ((), {"config": CONFIG.model_copy(update={"search": CONFIG.search.model_copy(update={"start_from": "last-champion"})})}, "would begin with each other's champions"),
        ((), {"seeds": 0}, "--seeds 0: is not from 1 to 1000"),
        ((), {"seeds": -3}, "--seeds -3"),
        ((), {"seeds": 10**9}, "--seeds 1000000000"),
        ((), {"baseline": "grid"}, "--baseline 'grid': is none of the strategies"),
        ((), {"budget": "trainings=7"}, "--budget 7 trainings: .*too few for one generation"),
        ((), {"budget": "trainings"}, "--budget trainings: '' is not a whole number"),
        ((), {"budget": "trainings=8.5"}, "'8.5' is not a whole number"),
        ((), {"budget": "gpu_seconds=nan"}, "'nan' is not a number above 0"),
        ((), {"budget": "gpu_seconds=-1"}, "'-1' is not a number above 0"),
        ((), {"budget": "bitcoin=1"}, "'bitcoin' is no unit"),
        ((), {"budget": "money=1"}, "search.money 1 needs prices"),
        ((), {"config": CONFIG.model_copy(update={"store": CONFIG.store.model_copy(update={"reuse": "run"})})}, "store.reuse: run"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(arguments: tuple[str, ...], more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(*arguments, **more)


def test_all_runs_share_everything_but_seed_and_strategy() -> None:
    found = plan("evolution", "random", "x=evolution:search.elites=0", budget="trainings=32", seeds=2)
    assert [(entrant.variant.name, entrant.seed) for entrant in found.entrants()] == [
        (name, seed) for seed in (3, 4) for name in ("evolution", "random", "x")
    ]
    for entrant in found.entrants():
        config = entrant.config
        shared = config.model_copy(update={"seed": CONFIG.seed, "search": CONFIG.search})
        assert shared == CONFIG and config.seed == entrant.seed
        assert config.search.trainings == 32 and config.search.generations == 64
        assert not config.search.early_stopping.enabled
        assert config.search.elites == (0 if entrant.variant.name == "x" else CONFIG.search.elites)


def test_defaults() -> None:
    found = plan("evolution", "random")
    assert found.budget == Budget(unit="trainings", amount=16) and found.baseline == "random"
    assert plan("a=evolution", "b=evolution:search.elites=0").baseline == "b"


def test_a_changed_strategy_is_an_ablation_of_the_plain_one() -> None:
    found = plan("full=evolution", "random", "x=evolution:search.elites=0", "y=random:search.population=6")
    parents = [parent and parent.name for parent in map(found.parent, found.variants)]
    assert parents == [None, None, "full", "random"]


def test_seconds_leave_the_generations_as_they_are() -> None:
    config = plan(budget="gpu_seconds=90").entrants()[0].config
    assert config.search.gpu_seconds == 90 and config.search.trainings is None and config.search.generations == 2
