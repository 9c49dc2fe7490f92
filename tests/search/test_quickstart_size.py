"""Evolution at the size of the quickstart (8 genomes, 4 generations), on a landscape like the embedded model's."""

from typing import Any

import numpy as np
import pytest

from coral_core.config import RunConfig
from coral_core.search.strategy import Scored, Search, make_search
from tests.search.landscape import asked, run, scored


def config(seed: int = 0, **sections: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate({"seed": seed, **sections})


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_incomplete_and_foreign_results_are_refused(strategy: str) -> None:
    made = config(search={"strategy": strategy})
    search = make_search(made)
    results = [scored(genome, made) for genome in search.ask()]
    for wrong in (results[1:], results + results[:1], [*results[1:], results[1]]):
        with pytest.raises(ValueError, match=r"exactly the genomes that ask\(\) gave"):
            search.tell(wrong)
    search.tell(results)
    assert search.generation == 1


def test_the_champion_is_an_elite_and_names_its_original() -> None:
    made = config(search={"elites": 2})
    search = make_search(made)
    search.tell([scored(genome, made) for genome in search.ask()])
    best, elite = search.best(), search.ask()[0]
    assert best is not None
    assert (elite.heavy, elite.light) == (best.genome.heavy, best.genome.light)
    assert elite.genome_id == "g001-000" and elite.lineage.parents == (best.genome.genome_id,)


def test_every_operator_occurs_and_parents_are_older() -> None:
    operators: set[str] = set()
    search = {
        "generations": 12,
        "elites": 2,
        "early_stopping": {"enabled": False},
        "variation": {"automaton_rate": 0.6, "seeds": "automaton", "seed_rate": 0.35},
        "start_with_default": False,
    }
    for genomes in asked(config(search=search)):
        for genome in genomes:
            operators |= set(genome.lineage.operator.split("+"))
            assert all(parent < f"g{genome.generation:03d}" for parent in genome.lineage.parents)
    expected = {"seed", "elite", "mutate-automaton", "mutate-genes", "crossover-genes", "crossover-automaton", "repeat"}
    assert operators == expected


def test_every_combination_of_a_small_space_is_found_when_all_must_differ() -> None:
    one = {"alpha": [16], "dropout": [0.0], "target_modules": ["all"], "adapter": ["lora"], "learning_rate": [0.01]}
    heavy = {**one, "rank": [1, 2, 4, 8, 16, 32, 64, 128]}
    for seed in range(5):
        made = config(seed, search={"diversity": {"minimum_unique": 1.0}}, genes={"heavy": heavy})
        assert len({genome.heavy.rank for genome in make_search(made).ask()}) == 8


@pytest.mark.parametrize("feasible", [0, 1])
def test_infeasible_genomes_are_never_elites(feasible: int) -> None:
    made = config(search={"elites": 2})
    search: Search = make_search(made)
    search.tell(
        [
            scored(genome, made)
            if genome.slot < feasible
            else Scored(genome=genome, scores=None, fitness=None, infeasible="diverged")
            for genome in search.ask()
        ]
    )
    genomes = search.ask()
    assert len(genomes) == 8 and sum(genome.lineage.operator == "elite" for genome in genomes) == feasible


def test_a_first_sound_champion_is_no_plateau() -> None:
    """Thresholds met for the first time by a weaker genome: its lower fitness must not end the run."""
    stop = {"patience": 1, "minimum_generations": 1, "minimum_improvement": 0.005}
    made = config(search={"generations": 6, "early_stopping": stop})
    search = make_search(made)
    for syntax, bugfix in ((0.3, 0.9), (0.9, 0.2)):
        assert not search.done
        found = {"bugfix": bugfix, "retention": 0.5, "cost": 0.5, "syntax": syntax, "style": 1.0, "security": 1.0}
        search.tell([Scored(genome=genome, scores=found, fitness=bugfix) for genome in search.ask()])
    assert not search.done


@pytest.mark.slow(reason="40 searches; tests/search/test_evolution.py has another size")
def test_evolution_beats_random_at_the_size_of_the_quickstart() -> None:
    """20 seeds; the two elites of each generation even cost evolution 6 of random's 32 trials."""
    means = {}
    for strategy in ("evolution", "random"):
        champions = [run(config(seed, search={"strategy": strategy})).best() for seed in range(20)]
        found = [(c.fitness or 0.0, (c.scores or {})["bugfix"]) for c in champions if c is not None]
        assert len(found) == 20
        means[strategy] = np.mean(found, axis=0)
    assert means["evolution"][0] > means["random"][0]
    assert means["evolution"][1] > 1.05 * means["random"][1]
