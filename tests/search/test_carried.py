"""A first population that begins with genomes of an earlier run."""

from typing import Any

import pytest

from coral_core.config.tree import module_names
from coral_core.genome import Genome
from coral_core.search.strategy import make_search
from tests.search.test_evolution import config, played, scored


def earlier(count: int = 8, **changes: Any) -> list[Genome]:
    """Genomes of another search, as coral_core/evolution/start_from.py hands them on."""
    genomes = make_search(config(seed=99, search__population=count, search__start_with_default=False, **changes)).ask()
    return [genome.model_copy(update={"genome_id": f"before/{genome.genome_id}"}) for genome in genomes]


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_default_then_carried_then_fresh(strategy: str) -> None:
    carried = earlier()
    settings = config(search__strategy=strategy)
    genomes = make_search(settings, carried).ask()
    fresh = "seed" if strategy == "evolution" else "random"
    assert [g.lineage.operator for g in genomes] == ["default", *["carried"] * 4, *[fresh] * 3]
    assert [g.genome_id for g in genomes] == [f"g000-{slot:03d}" for slot in range(8)]
    for old, new in zip(carried[:4], genomes[1:5], strict=True):
        assert (new.heavy, new.light, new.automaton) == (old.heavy, old.light, old.automaton)
        assert new.lineage.parents == (old.genome_id,)
    assert len({genome.genes_digest() for genome in genomes}) == 8
    assert make_search(settings, carried).ask() == genomes


@pytest.mark.parametrize("strategy", ["evolution", "random", "grid", "sobol"])
def test_usual_loras_after_the_default_one(strategy: str) -> None:
    settings = config(search__strategy=strategy, search__usual_loras=3, base_model__name="coral-tiny")
    genomes = make_search(settings).ask()
    assert [g.lineage.operator for g in genomes[:4]] == ["default", *["usual"] * 3]
    assert {g.heavy.target_modules for g in genomes[1:4]} == {module_names("all")}
    assert [(g.heavy.rank, g.heavy.alpha, g.heavy.learning_rate) for g in genomes[1:4]] == [
        (16, 32, 0.005), (16, 32, 0.002), (16, 32, 0.01),
    ]  # fmt: skip
    assert not any(g.light.sampling for g in genomes[:4])
    assert len({genome.genes_digest() for genome in genomes}) == 8


def test_usual_loras_that_are_one_candidate_come_once_and_seeds_take_their_slots() -> None:
    one = {"rank": [8], "alpha": [16], "learning_rate": [0.005, 0.01], "target_modules": ["attention"]}
    settings = config(search__usual_loras=7, **{f"genes__heavy__{gene}": values for gene, values in one.items()})
    operators = [genome.lineage.operator for genome in make_search(settings).ask()]
    assert operators == ["default", "usual", *["seed"] * 6]


def test_no_more_usual_loras_than_there_is_room_for_beside_carried_genomes() -> None:
    operators = [g.lineage.operator for g in make_search(config(search__usual_loras=100), earlier()).ask()]
    assert operators == ["default", *["carried"] * 4, *["usual"] * 3]
    (only,) = make_search(config(search__strategy="fixed", search__usual_loras=3)).ask()
    assert only.lineage.operator == "default"


def test_carried_genes_move_to_the_nearest_candidates() -> None:
    carried = earlier()
    settings = config(
        genes__heavy__rank=[3, 24],
        genes__heavy__adapter=["dora"],
        genes__heavy__target_modules=["q", "all"],
        genes__light__token_limit={"low": 50, "high": 60},
    )
    for genome in make_search(settings, carried).ask():
        assert genome.heavy.rank in (3, 24) and genome.heavy.adapter == "dora" and genome.light.token_limit <= 60
        assert genome.heavy.target_modules in (module_names("q"), module_names("all"))


def test_equal_genes_come_along_once_and_the_default_only_as_itself() -> None:
    first = make_search(config()).ask()[0]
    carried = [first.model_copy(update={"genome_id": "before/x"}), *[earlier()[0]] * 3]
    operators = [genome.lineage.operator for genome in make_search(config(), carried).ask()]
    assert operators == ["default", "carried", *["seed"] * 6]


def test_a_search_goes_on_from_carried_genomes_also_with_another_automaton() -> None:
    carried = earlier(automaton__size=7)
    settings = config(search__generations=4, automaton__size=12, search__variation__automaton_rate=1.0)
    search = make_search(settings, carried)
    while not search.done:
        search.tell([scored(genome) for genome in search.ask()])
    best = search.best()
    assert best is not None and search.generation == 4
    assert (best.fitness or 0) >= max(scored(genome).fitness or 0 for genome in carried[:4])


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_nothing_carried_changes_nothing(strategy: str) -> None:
    settings = config(search__strategy=strategy)
    assert make_search(settings, ()).ask() == played(settings)[1][0]
