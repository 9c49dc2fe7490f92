"""`search.trainings`: a search spends exactly its trainings, and cuts its last generation for it."""

import pytest

from coral_core.config import parse_config
from coral_core.errors import ConfigError
from coral_core.runs.run_folder import identify_run
from tests.search.test_evolution import config, played

LONG = {"search__generations": 30, "search__early_stopping__enabled": False}


@pytest.mark.parametrize("strategy", ["evolution", "random"])
@pytest.mark.parametrize("trainings", [8, 11, 32])
def test_exactly_the_trainings_are_spent(strategy: str, trainings: int) -> None:
    search, asked = played(config(**LONG, search__strategy=strategy, search__trainings=trainings))
    genomes = [genome for generation in asked for genome in generation]
    assert len({genome.heavy.digest() for genome in genomes}) == trainings
    assert search.reason == f"all {trainings} trainings are spent"
    assert all(len(generation) == 8 for generation in asked[:-1]) and asked[-1]


def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    plain, limited = (played(config(search__strategy="random", search__trainings=limit)) for limit in (None, 1000))
    assert plain[1] == limited[1] and plain[0].reason == limited[0].reason


def test_generations_end_a_search_that_repeats_its_adapters() -> None:
    genes = {
        "rank": [4],
        "alpha": [8],
        "learning_rate": [1e-3],
        "dropout": [0.0],
        "target_modules": ["q"],
        "adapter": ["lora"],
    }
    search, asked = played(
        config(
            search__strategy="random",
            search__trainings=8,
            search__generations=3,
            search__diversity__minimum_unique=0.1,
            **{f"genes__heavy__{gene}": values for gene, values in genes.items()},
        )
    )
    assert search.reason == "all 3 generations are done" and len(asked) == 3


def test_trainings_below_a_generation_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"c.yaml:1: search.*trainings 7 are too few for one generation of population 8"
    ):
        parse_config("search: {trainings: 7}", "c.yaml")


def test_runs_without_the_limit_keep_their_ids() -> None:
    assert identify_run(config()) == identify_run(config(search__trainings=None))
    assert identify_run(config()) != identify_run(config(search__trainings=24))
