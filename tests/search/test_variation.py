"""Operators: what they change, what they keep, and that they stay inside the configured space."""

import numpy as np
import pytest

from coral_core.config import RunConfig
from coral_core.config.tree import module_names
from coral_core.genome import Genome, Lineage, genome_id
from coral_core.search.expression import GENES
from coral_core.search.randomness import generator
from coral_core.search.variation import Material, Variation, genes_of, split

CONFIG = RunConfig()
OPERATORS = Variation(CONFIG.genes, CONFIG.automaton, CONFIG.search.variation)


def rng(number: int) -> np.random.Generator:
    return generator(5, 0, number, "variation-test")


def genome(material: Material, slot: int) -> Genome:
    heavy, light = split(material.genes)
    return Genome(
        genome_id=genome_id(0, slot),
        generation=0,
        slot=slot,
        heavy=heavy,
        light=light,
        automaton=material.automaton,
        features=material.features,
        lineage=Lineage(operator=material.operator),
    )


def of(parent: Genome) -> Material:
    return Material(genes_of(parent), parent.automaton, parent.features, "", (parent.genome_id,))


PARENTS = [genome(OPERATORS.seed(rng(n)), n) for n in range(40)]


def assert_inside(material: Material) -> None:
    heavy, light = split(material.genes)
    space, ranges = CONFIG.genes.heavy, CONFIG.genes.light
    assert heavy.rank in space.rank and heavy.alpha in space.alpha and heavy.dropout in space.dropout
    assert heavy.adapter in space.adapter and heavy.learning_rate in space.learning_rate
    assert heavy.target_modules in [module_names(item) for item in space.target_modules]
    for name in ("temperature", "top_p", "top_k", "repetition_penalty", "token_limit"):
        span = getattr(ranges, name)
        assert span.low <= getattr(light, name) <= span.high


@pytest.mark.parametrize("parent", PARENTS, ids=lambda parent: parent.genome_id)
def test_mutations_change_something_and_stay_inside(parent: Genome) -> None:
    grown = OPERATORS.mutate_automaton(of(parent), rng(100 + parent.slot), 1.0)
    assert grown.automaton != parent.automaton
    assert grown.automaton is not None
    assert CONFIG.automaton.steps.low <= grown.automaton.steps <= CONFIG.automaton.steps.high
    assert_inside(grown)
    stepped = OPERATORS.mutate_genes(of(parent), rng(200 + parent.slot), 1.0)
    assert stepped.genes != genes_of(parent)
    assert (stepped.automaton, stepped.parents) == (parent.automaton, (parent.genome_id,))
    assert_inside(stepped)


def test_gene_steps_reach_every_candidate_and_are_mostly_small() -> None:
    parent = next(item for item in PARENTS if item.heavy.rank == 4)
    ranks = [OPERATORS.mutate_genes(of(parent), rng(n), 2.0).genes["rank"] for n in range(400)]
    assert set(ranks) == set(CONFIG.genes.heavy.rank)
    moved = [value for value in ranks if value != 4]
    assert sum(value in (2, 8) for value in moved) > 0.6 * len(moved)


def test_an_automaton_mutation_keeps_genes_whose_expression_did_not_change() -> None:
    """A gene set by hand survives small changes of the automaton that do not concern it."""
    kept = 0
    for parent in PARENTS:
        by_hand = {**genes_of(parent), "learning_rate": 0.0123}
        child = OPERATORS.mutate_automaton(
            Material(by_hand, parent.automaton, parent.features, ""), rng(300 + parent.slot), 0.2
        )
        kept += child.genes["learning_rate"] == 0.0123
    assert kept > len(PARENTS) / 4


def test_gene_crossover_takes_every_gene_from_a_parent() -> None:
    first, second = PARENTS[0], PARENTS[1]
    seen: dict[str, set[object]] = {name: set() for name in GENES}
    for number in range(30):
        child = OPERATORS.cross_genes(first, second, rng(number))
        assert child.parents == (first.genome_id, second.genome_id)
        for name in GENES:
            seen[name].add(child.genes[name])
    assert all(seen[name] == {genes_of(first)[name], genes_of(second)[name]} for name in GENES)


def test_automaton_crossover_takes_grid_and_rule_from_different_parents() -> None:
    first, second = PARENTS[2], PARENTS[3]
    child = OPERATORS.cross_automata(first, second)
    assert child.automaton is not None and first.automaton is not None and second.automaton is not None
    assert child.automaton.grid == first.automaton.grid
    assert (child.automaton.rule, child.automaton.steps) == (second.automaton.rule, second.automaton.steps)
    assert child.operator == "crossover-automaton"
    assert child.genes != genes_of(first)
    with pytest.raises(ValueError, match="has no automaton"):
        OPERATORS.cross_automata(first.model_copy(update={"automaton": None}), second)


def test_genes_without_a_choice_stay() -> None:
    data = {"heavy": {"rank": [8], "adapter": ["dora"]}, "light": {"top_k": {"low": 20, "high": 20}}}
    config = RunConfig.model_validate({"genes": data})
    operators = Variation(config.genes, config.automaton, config.search.variation)
    parent = genome(operators.seed(rng(0)), 0)
    for number in range(30):
        genes = operators.mutate_genes(of(parent), rng(number), 2.0).genes
        assert (genes["rank"], genes["adapter"], genes["top_k"]) == (8, "dora", 20)
