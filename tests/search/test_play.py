"""Plays on a synthetic table: budgets in trainings, noise by seed, values without noise."""

import pytest

from coral_core.config.tree import SearchConfig
from coral_core.errors import TableError
from coral_core.search.play import Play, play, replicate_of
from coral_core.search.selection import champion, fitness, hypervolume, objectives, pareto_front
from coral_core.search.strategy import make_search
from coral_core.search.table_files import columns_of
from coral_core.search.tables import Table
from tests.search.synthetic_table import facts_of, genome_of, row_of, synthetic_table


def played(strategy: str = "random", seed: int = 0, trainings: int = 20, generations: int = 1000) -> Play:
    search = SearchConfig.model_validate(
        {"strategy": strategy, "generations": generations, "early_stopping": {"enabled": False}}
    )
    table = synthetic_table()
    return play(make_search(table.config(seed, search)), table, seed, trainings)


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_a_step_for_every_training(strategy: str) -> None:
    found = played(strategy)
    assert [step.trainings for step in found.steps] == list(range(1, 21)) and not found.ended
    assert len({item.genome.heavy.digest() for item in found.results}) == 20
    lows = [step.hypervolume for step in found.steps]
    assert lows[-1] > lows[0] > 0
    assert played(strategy) == found != played(strategy, seed=1)


def test_the_last_step_is_what_the_rules_give_for_all_results() -> None:
    found, table = played(), synthetic_table()
    scoring, last = table.facts.scoring, found.steps[-1]
    best = champion(found.results, scoring)
    assert best is not None and last.champion == best.genome and last.observed == best.fitness
    assert last.expected == fitness(table.expected(best.genome) or {}, scoring.weights) != last.observed
    unseen = 1 - replicate_of(table, 0, best.genome.heavy)
    assert last.unseen == fitness(table.observed(best.genome, unseen) or {}, scoring.weights)
    front = [table.expected(item.genome) or {} for item in pareto_front(found.results, scoring)]
    assert last.hypervolume == hypervolume(front, objectives(scoring))
    assert last.evaluations == len({item.genome.genes_digest() for item in found.results})


def test_seeds_see_different_replicates_and_each_seed_always_the_same() -> None:
    table = synthetic_table()
    cells = [table.cells[n] for n in range(40)]
    by_seed = [[replicate_of(table, seed, heavy) for heavy in cells] for seed in range(3)]
    assert by_seed[0] != by_seed[1] != by_seed[2] and all({0, 1} == set(row) for row in by_seed)
    assert replicate_of(table, 0, cells[0].model_copy(update={"repeat": 1})) == 1 - by_seed[0][0]
    with pytest.raises(TableError, match=r"repeat 2 of a training: .* has 2 of each cell"):
        replicate_of(table, 0, cells[0].model_copy(update={"repeat": 2}))
    for item in played(seed=2).results:
        assert item.scores == table.observed(item.genome, replicate_of(table, 2, item.genome.heavy))


def test_search_is_told_the_light_genes_that_were_evaluated() -> None:
    lights = {item.genome.light.digest() for item in played().results}
    assert lights == {light.digest() for light in synthetic_table().lights}


def test_a_search_that_ends_or_repeats_itself_ends_the_play() -> None:
    short = played(generations=1)
    assert len(short.steps) == 8 and "generations are done" in short.ended
    table = synthetic_table()
    whole = played("random", trainings=1000)
    assert len(whole.steps) <= len(table.cells) and "no new training" in whole.ended


def test_infeasible_cells_are_told_with_their_reason() -> None:
    found = [item for seed in range(8) for item in played(seed=seed).results if item.scores is None]
    assert found and {item.infeasible for item in found} == {"diverged"}


def test_only_infeasible_results_leave_no_champion() -> None:
    facts = facts_of(replicates=1)
    rows = [row_of(facts, cell, 0).model_copy(update={"infeasible": "diverged", "results": ()}) for cell in range(60)]
    table = Table(facts, columns_of(facts, rows))
    last = play(make_search(table.config(0)), table, 0, 3).steps[-1]
    assert last.champion is None and last.observed == last.expected == last.unseen == last.hypervolume == 0


def test_a_table_that_is_not_made_completely_is_refused() -> None:
    facts = facts_of()
    table = Table(facts, columns_of(facts, [row_of(facts, 0, 0)]))
    with pytest.raises(TableError, match="119 of 120 rows are missing"):
        play(make_search(table.config(0)), table, 0, 1)
    assert table.observed(genome_of(0), 0) is not None
