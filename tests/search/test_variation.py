"""Operators: what they change, what they keep, and that they stay inside the configured space."""

import numpy as np
import pytest

from coral_core.config import RunConfig, parse_config
from coral_core.config.tree import module_names
from coral_core.genome import DEFAULT_LORA, GREEDY, Genome, HeavyGenes, Lineage, genome_id
from coral_core.report.wording import heavy_text
from coral_core.runs.run_folder import identify_run
from coral_core.search.expression import GENES, nearest
from coral_core.search.randomness import generator
from coral_core.search.strategy import Scored, make_search
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
    assert heavy.scaling in space.scaling
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


def with_scalings(*names: str) -> RunConfig:
    return parse_config("", "test", [f"genes.heavy.scaling=[{', '.join(names)}]"])


def test_every_operator_reaches_both_scalings_and_keeps_to_the_candidates() -> None:
    config = with_scalings("lora", "rslora")
    operators = Variation(config.genes, config.automaton, config.search.variation)
    seeds = [operators.seed(rng(n)) for n in range(40)]
    assert {seed.genes["scaling"] for seed in seeds} == {"lora", "rslora"}
    plain = next(seed for seed in seeds if seed.genes["scaling"] == "lora")
    parents = [genome(seed, slot) for slot, seed in enumerate(seeds)]
    other = next(parent for parent in parents if parent.heavy.scaling == "rslora")
    first = genome(plain, 50)
    found: dict[str, set[object]] = {name: set() for name in ("mutate", "automaton", "cross", "cross automata")}
    for n in range(60):
        found["mutate"].add(operators.mutate_genes(plain, rng(n), 1.0).genes["scaling"])
        found["automaton"].add(operators.mutate_automaton(plain, rng(n), 2.0).genes["scaling"])
        found["cross"].add(operators.cross_genes(first, other, rng(n)).genes["scaling"])
        found["cross automata"].add(operators.cross_automata(first, parents[n % 40]).genes["scaling"])
    assert found == {name: {"lora", "rslora"} for name in found}
    assert "α" in heavy_text(other.heavy) and "rslora" in heavy_text(other.heavy) not in heavy_text(first.heavy)


def test_a_fixed_scaling_changes_no_other_gene_and_no_digest_of_plain_lora() -> None:
    """Searches and digests from before this gene."""

    def population(config: RunConfig) -> list[Genome]:
        search = make_search(config)
        for _ in range(2):
            genomes = search.ask()
            search.tell(
                [Scored(genome=item, scores={"bugfix": item.slot / 9}, fitness=item.slot / 9) for item in genomes]
            )
        return list(search.ask())

    plain, scaled = population(with_scalings("lora")), population(with_scalings("rslora"))
    assert {item.heavy.scaling for item in scaled} == {"rslora"}
    assert [item.heavy.model_copy(update={"scaling": "lora"}) for item in scaled] == [item.heavy for item in plain]
    assert [item.light for item in scaled] == [item.light for item in plain]
    assert all("scaling" not in item.heavy.model_dump(mode="json") for item in plain)
    assert all(a.heavy.digest() != b.heavy.digest() for a, b in zip(plain, scaled, strict=True))
    assert DEFAULT_LORA.digest() == "620c71bbfc9677f5e972b51f98a57135f79177270c10f388e54065faaa90b88e"
    assert identify_run(with_scalings("lora")) == identify_run(RunConfig()) != identify_run(with_scalings("rslora"))
    back = HeavyGenes.model_validate_json(scaled[0].heavy.model_dump_json())
    assert back == scaled[0].heavy and HeavyGenes.model_validate(plain[0].heavy.model_dump()) == plain[0].heavy


def test_a_scaling_that_is_no_candidate_moves_to_the_first() -> None:
    heavy = DEFAULT_LORA.model_copy(update={"scaling": "rslora"})
    assert nearest(heavy, GREEDY, with_scalings("lora").genes)[0].scaling == "lora"
    assert nearest(heavy, GREEDY, with_scalings("lora", "rslora").genes)[0].scaling == "rslora"
