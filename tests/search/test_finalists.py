"""Finalists: the last generation trains the best genomes again, and the champion is the best by the mean of both trainings."""

from typing import Any

import pytest

from coral_core.config.tree import SearchConfig
from coral_core.genome import DEFAULT_LORA, GREEDY, REPEAT, Genome, HeavyGenes
from coral_core.runs.job_count import most_genomes, plan_jobs
from coral_core.search.archive import Scored
from coral_core.search.evolution import EvolutionSearch
from coral_core.search.expression import nearest
from coral_core.search.strategy import Search, genome_at, make_search
from coral_core.search.variation import genes_of, split
from tests.search.test_evolution import config, landscape, scored

LONG = {"search__generations": 30, "search__early_stopping__enabled": False, "search__finalist_share": 0.1}
AGAIN = DEFAULT_LORA.model_copy(update={"repeat": 1})


def told(settings: Any, **fitness: float | None) -> tuple[Search, list[tuple[Genome, ...]]]:
    """A whole search; genomes named in `fitness` (`_` for `-`) have that fitness, None makes them infeasible."""
    search = make_search(settings)
    asked = []
    while not search.done:
        asked.append(search.ask())
        search.tell([valued(genome, **fitness) for genome in asked[-1]])
    return search, asked


def valued(genome: Genome, **fitness: float | None) -> Scored:
    name = genome.genome_id.replace("-", "_")
    if name not in fitness:
        return scored(genome)
    if fitness[name] is None:
        return Scored(genome=genome, scores=None, fitness=None, infeasible="diverged")
    return Scored(genome=genome, scores=landscape(genome), fitness=fitness[name])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"search__trainings": 32, **LONG}, "all 32 trainings are spent"),
        ({**LONG, "search__generations": 5}, "all 5 generations are done"),
        (
            {
                "search__finalist_share": 0.1,
                "search__generations": 30,
                "search__trainings": 32,
                "search__early_stopping": {
                    "enabled": True,
                    "patience": 1,
                    "minimum_improvement": 0.9,
                    "minimum_generations": 2,
                },
            },
            "rose by",
        ),
    ],
)
@pytest.mark.parametrize("surrogate", [False, True])
def test_however_a_search_ends_the_best_are_trained_again(
    changes: dict[str, Any], reason: str, surrogate: bool
) -> None:
    settings = config(**changes, search__surrogate__enabled=surrogate)
    search, asked = told(settings)
    *bred, last = asked
    assert reason in search.reason and len(last) == settings.search.finalists in (3, 4)
    assert not any(genome.heavy.repeat for genomes in bred for genome in genomes)
    before = {genome.genome_id: genome for genomes in bred for genome in genomes}
    for genome in last:
        (parent,) = genome.lineage.parents
        assert genome.lineage.operator == REPEAT and genome.heavy.repeat == 1
        assert (genome.heavy.first(), genome.light) == (before[parent].heavy, before[parent].light)
    assert len({genome.heavy for genome in last}) == len(last), "each of other genes"
    if limit := settings.search.trainings:
        spent = {genome.heavy.digest() for genomes in asked for genome in genomes}
        assert len(spent) == limit or "finalists" in search.reason
    best = search.best()
    assert best is not None and best.genome.heavy.first() in {genome.heavy.first() for genome in last}


def test_the_champion_has_the_best_mean_of_both_trainings_and_is_the_fitter_of_them() -> None:
    settings = config(**LONG, search__trainings=32, search__surrogate__enabled=False)
    last = told(settings)[1][-1]
    names = [genome.genome_id.replace("-", "_") for genome in last]
    lucky, steady = told(settings, **{names[0]: 0.0})[0].best(), told(settings, **{names[1]: 9.0})[0].best()
    assert lucky is not None and lucky.genome.heavy.first() != last[0].heavy.first()
    assert steady is not None and steady.genome == last[1] and steady.fitness == 9.0
    lost = told(settings, **dict.fromkeys(names[:2]))[0].best()
    assert lost is not None and lost.genome.heavy.first() == last[2].heavy.first(), (
        "an infeasible repeat proves nothing"
    )
    none = told(settings, **dict.fromkeys(names))[0].best()
    assert none is not None and not none.genome.heavy.repeat
    assert none.genome.heavy not in {genome.heavy.first() for genome in last}, "a finalist whose repeat failed is out"


def test_where_no_genome_meets_the_thresholds_the_finalists_count_all_the_same() -> None:
    limits = {name: {"base": 1.0, "limit": 1.0} for name in ("syntax", "style")}
    search, asked = told(
        config(**LONG, search__trainings=32, search__surrogate__enabled=False, scoring__thresholds=limits)
    )
    names = [genome.genome_id.replace("-", "_") for genome in asked[-1]]
    settings = search.config
    best = told(settings, **{names[1]: 9.0})[0].best()
    assert best is not None and best.genome == asked[-1][1]


def test_a_single_training_that_is_left_repeats_nothing() -> None:
    """Its genome would be champion whatever came out."""
    settings = config(**{**LONG, "search__population": 20, "search__trainings": 21})
    assert settings.search.finalists == 2
    _, asked = told(settings)
    assert len({genome.heavy.digest() for genomes in asked for genome in genomes}) == 21
    assert not any(genome.heavy.repeat for genomes in asked for genome in genomes)


def test_models_see_as_much_of_a_large_archive_of_which_little_is_feasible() -> None:
    search = make_search(config(**LONG, search__population=300))
    assert isinstance(search, EvolutionSearch)
    results = [
        scored(genome) if number < 7 else Scored(genome=genome, scores=None, fitness=None, infeasible="diverged")
        for number, genome in enumerate(search.ask())
    ]
    search.tell(results)
    assert len(search._informative()) == 256


def test_without_a_feasible_genome_there_are_no_finalists() -> None:
    search = make_search(config(**LONG, search__trainings=20))
    asked = []
    while not search.done:
        asked.append(search.ask())
        search.tell([Scored(genome=g, scores=None, fitness=None, infeasible="diverged") for g in asked[-1]])
    assert not any(genome.heavy.repeat for genomes in asked for genome in genomes) and search.best() is None


@pytest.mark.parametrize(
    ("search", "finalists"),
    [
        ({"trainings": 32, "generations": 100}, 3),
        ({"trainings": 48, "generations": 100}, 5),
        ({"trainings": 12, "generations": 100}, 0),
        ({"generations": 4}, 3),
        ({"generations": 3, "population": 50}, 0),
        ({"generations": 30, "population": 4, "finalist_share": 0.5}, 4),
        ({"generations": 30, "population": 4, "finalist_share": 0.5, "elites": 2}, 2),
        ({"trainings": 32, "generations": 100, "finalist_share": 0}, 0),
        ({"trainings": 32, "generations": 100, "strategy": "random"}, 0),
    ],
)
def test_their_number(search: dict[str, Any], finalists: int) -> None:
    assert SearchConfig.model_validate(search).finalists == finalists


def test_plans_count_them() -> None:
    settings = config(search__finalist_share=0.1)
    assert most_genomes(settings) == 27
    assert [each.trainings for each in plan_jobs(settings).search] == [8, 6, 6, 3]
    asked = told(settings)[1]
    assert sum(map(len, asked)) <= 27


def test_a_child_is_no_repeat_and_a_repeat_keeps_its_number() -> None:
    genome = genome_at(3, 0, AGAIN, GREEDY, REPEAT)
    assert split(genes_of(genome))[0] == DEFAULT_LORA and genome.heavy.first() == DEFAULT_LORA
    assert AGAIN.digest() != DEFAULT_LORA.digest() and "repeat" not in DEFAULT_LORA.model_dump()
    assert HeavyGenes.model_validate_json(AGAIN.model_dump_json()) == AGAIN
    space = config().genes
    inside, _ = nearest(DEFAULT_LORA, GREEDY, space)
    assert nearest(inside.model_copy(update={"repeat": 1}), GREEDY, space)[0].repeat == 1
    assert nearest(AGAIN.model_copy(update={"rank": 5}), GREEDY, space)[0].repeat == 0, "other genes, another training"


def test_elites_count_once_however_often_they_came() -> None:
    search, asked = told(config(search__elites=2))
    every = [scored(genome) for genomes in asked for genome in genomes]
    named = search.champion_of(every)
    best = search.best()
    assert named is not None and best is not None and named.genome.genes_digest() == best.genome.genes_digest()
