"""Ask/tell: deterministic, order-free, replayable, every setting felt, better than chance."""

import itertools
import os
import random
import subprocess
import sys
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from coral_core.config import RunConfig
from coral_core.genome import Genome
from coral_core.search.selection import fitness
from coral_core.search.strategy import Scored, Search, make_search

WEIGHTS = RunConfig().scoring.weights


def config(**changes: Any) -> RunConfig:
    """A configuration from dotted keys (`__` for the dots); few children are bred, which is faster, and there are no finalists."""
    data = RunConfig().model_dump(mode="json")
    data["search"] |= {"finalist_share": 0.0, "elites": 2}
    data["search"]["surrogate"]["children"] = 3
    for key, value in changes.items():
        *path, last = key.split("__")
        place = data
        for part in path:
            place = place[part]
        place[last] = value
    return RunConfig.model_validate(data)


BUSY: dict[str, Any] = {
    "search__variation__automaton_rate": 0.6,
    "search__variation__seeds": "automaton",
    "search__variation__seed_rate": 0.1,
    "search__early_stopping__minimum_generations": 4,
    "search__early_stopping__patience": 4,
    "search__surrogate__enabled": False,
}
"""Settings under which every operator occurs in a few generations."""


def landscape(genome: Genome) -> dict[str, float]:
    """Shaped like what was measured on the embedded model: capacity and learning rate push up, both have a cliff, cost pushes back."""
    heavy, light = genome.heavy, genome.light
    capacity = np.log2(heavy.rank) / 5 * 0.5 + len(heavy.target_modules) / 7 * 0.5
    rate = np.exp(-((np.log10(heavy.learning_rate) - np.log10(8e-3)) ** 2) / 0.3)
    scale = np.exp(-((np.log2(heavy.alpha / heavy.rank) - 1) ** 2) / 8)
    decoding = 1.0 - 0.3 * (light.temperature if light.sampling else 0.0) - 2 * (light.repetition_penalty - 1)
    bugfix = float(np.clip(0.6 * capacity * rate * scale * decoding, 0, 1))
    return {
        "bugfix": bugfix,
        "retention": float(np.clip(1 - 0.4 * capacity * rate, 0, 1)),
        "cost": float(1 - np.log1p(heavy.rank * len(heavy.target_modules) * 256) / np.log1p(900_000)),
        "syntax": 0.95,
        "style": 0.9,
        "security": 1.0,
        "runtime": 0.5,
    }


def scored(genome: Genome) -> Scored:
    scores = landscape(genome)
    return Scored(genome=genome, scores=scores, fitness=fitness(scores, WEIGHTS))


def played(settings: RunConfig, shuffle: int | None = None) -> tuple[Search, list[tuple[Genome, ...]]]:
    """A whole search on the landscape, and what it asked."""
    search = make_search(settings)
    asked = []
    while not search.done:
        genomes = search.ask()
        asked.append(genomes)
        results = [scored(genome) for genome in genomes]
        if shuffle is not None:
            random.Random(shuffle).shuffle(results)
        search.tell(results)
    return search, asked


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_asks_are_complete_and_well_formed(strategy: str) -> None:
    search, asked = played(config(search__strategy=strategy))
    assert [len(genomes) for genomes in asked] == [8] * 4 and search.reason and search.generation == 4
    for number, genomes in enumerate(asked):
        assert [genome.genome_id for genome in genomes] == [f"g{number:03d}-{slot:03d}" for slot in range(8)]
    known = {genome.genome_id for genomes in asked for genome in genomes}
    assert all(parent in known for genomes in asked for genome in genomes for parent in genome.lineage.parents)


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_order_of_completion_changes_nothing(strategy: str) -> None:
    settings = config(search__strategy=strategy)
    assert played(settings, shuffle=1)[1] == played(settings, shuffle=2)[1]


def test_asking_twice_gives_the_same() -> None:
    search = make_search(config())
    assert search.ask() == search.ask()


def test_a_replay_continues_as_the_original_would_have() -> None:
    _, asked = played(config())
    replay = make_search(config())
    for genomes in asked[:2]:
        replay.tell([scored(genome) for genome in genomes])
    assert replay.ask() == asked[2]


def test_the_hash_seed_of_python_changes_nothing() -> None:
    code = (
        "from tests.search.test_evolution import played, config\n"
        "from coral_core.digest import digest\n"
        "print(digest([[g.model_dump(mode='json') for g in gs] for gs in played(config())[1]]))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(outputs) == 1 and outputs.pop().strip()


def test_elites_keep_their_genes_and_dora_stays_dora() -> None:
    _, asked = played(config(genes__heavy__adapter=["dora"]))
    for before, after in itertools.pairwise(asked):
        elites = [genome for genome in after if genome.lineage.operator == "elite"]
        assert len(elites) == 2
        digests = {
            genome.genes_digest()
            for genomes in asked
            for genome in genomes
            if genome.generation <= before[0].generation
        }
        assert all(genome.genes_digest() in digests for genome in elites)
    assert {genome.heavy.adapter for genomes in asked for genome in genomes} == {"dora"}


def test_children_are_new_and_parents_distinct() -> None:
    _, asked = played(config(search__generations=6, search__early_stopping__enabled=False))
    seen: set[str] = set()
    repeated = 0
    for genomes in asked:
        for genome in genomes:
            if genome.lineage.operator != "elite":
                repeated += genome.genes_digest() in seen
                seen.add(genome.genes_digest())
            if len(genome.lineage.parents) == 2:
                assert genome.lineage.parents[0] != genome.lineage.parents[1]
    assert repeated == 0


def test_first_population_is_diverse() -> None:
    tight = config(
        genes__heavy__rank=[4, 8],
        genes__heavy__alpha=[8],
        genes__heavy__dropout=[0.0],
        genes__heavy__learning_rate=[1e-3, 5e-3],
    )
    genomes = make_search(tight).ask()
    assert len({genome.heavy.digest() for genome in genomes}) >= 6


def test_infeasible_genomes_are_no_parents_and_never_champion() -> None:
    search = make_search(config())
    first = search.ask()
    lost = {genome.genome_id for genome in first[:5]}
    search.tell(
        [
            Scored(genome=genome, scores=None, fitness=None, infeasible="diverged")
            if genome.genome_id in lost
            else scored(genome)
            for genome in first
        ]
    )
    assert not any(parent in lost for genome in search.ask() for parent in genome.lineage.parents)
    best = search.best()
    assert best is not None and best.genome.genome_id not in lost
    assert not any(item.genome.genome_id in lost for item in search.front())


def test_a_wholly_infeasible_generation_goes_on() -> None:
    search = make_search(config())
    search.tell([Scored(genome=genome, scores=None, fitness=None, infeasible="diverged") for genome in search.ask()])
    assert len(search.ask()) == 8 and search.best() is None and search.front() == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 5),
        ("search__strategy", "random"),
        ("search__population", 10),
        ("search__generations", 6),
        ("search__selection", "tournament"),
        ("search__selection", "truncation"),
        ("search__tournament_size", 5),
        ("search__survival_rate", 1.0),
        ("search__elites", 0),
        ("search__finalist_share", 0.1),
        ("search__variation__crossover_rate", 0.0),
        ("search__variation__automaton_rate", 1.0),
        ("search__variation__cell_flip_rate", 0.4),
        ("search__variation__rule_flip_rate", 0.45),
        ("search__variation__steps_change", 20),
        ("search__variation__gene_rate", 0.9),
        ("search__variation__gene_step", 0.9),
        ("search__diversity__mode", "fixed"),
        ("search__diversity__strength", 2.4),
        (
            "search__early_stopping",
            {"enabled": True, "patience": 1, "minimum_improvement": 0.9, "minimum_generations": 2},
        ),
        ("automaton__size", 9),
        ("automaton__density", {"low": 0.2, "high": 0.3}),
        ("automaton__steps", {"low": 20, "high": 30}),
        ("genes__heavy__rank", [3, 5]),
        ("genes__light__temperature", {"low": 0.3, "high": 0.4}),
    ],
)
def test_every_setting_changes_what_is_asked(key: str, value: Any) -> None:
    assert played(config(**(BUSY | {key: value})))[1] != busy()


@lru_cache(maxsize=1)
def busy() -> list[tuple[Genome, ...]]:
    """What a search with the settings `BUSY` asks."""
    return played(config(**BUSY))[1]


def test_minimum_unique_changes_what_is_asked() -> None:
    narrow: dict[str, Any] = {
        "genes__heavy__rank": [4, 8, 16],
        "genes__heavy__alpha": [8],
        "genes__heavy__dropout": [0.0],
        "genes__heavy__learning_rate": [5e-3],
        "genes__heavy__target_modules": ["q", "all"],
        "genes__heavy__adapter": ["lora", "dora"],
        "search__variation__seeds": "automaton",
    }
    loose = make_search(config(**narrow, search__diversity__minimum_unique=0.0)).ask()
    strict = make_search(config(**narrow, search__diversity__minimum_unique=1.0)).ask()
    assert len({g.heavy.digest() for g in strict}) == 8 and len({g.heavy.digest() for g in loose}) < 8


def test_early_stopping_says_why() -> None:
    stop = {"enabled": True, "patience": 1, "minimum_improvement": 0.9, "minimum_generations": 2}
    search, asked = played(config(search__early_stopping=stop))
    assert len(asked) == 2 and "rose by" in search.reason
