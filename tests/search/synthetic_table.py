"""A small gene table whose results come from the synthetic landscape (landscape.py), for tests of plays and strategies."""

import random
from functools import lru_cache

from coral_core.config import GenesConfig
from coral_core.config.gene_space import HeavyGeneSpace
from coral_core.config.scoring_config import ScoringConfig
from coral_core.digest import seed_from
from coral_core.genome import GREEDY, Genome, HeavyGenes, LightGenes, Lineage
from coral_core.search.table_files import LightResult, Row, TableFacts, TableProblem, columns_of
from coral_core.search.tables import Table, cells_of, spanned
from tests.search.landscape import scores

LIGHTS = tuple(
    GREEDY.model_copy(update={"sampling": sampling, "temperature": temperature, "token_limit": 96})
    for sampling, temperature in ((False, 0.1), (True, 0.1), (True, 0.7))
)
PROBLEMS = tuple(
    TableProblem(problem_id=f"p{n}", bug_class="constant", retention=n % 6 == 5, base_passes=n % 6 == 4)
    for n in range(60)
)


@lru_cache(maxsize=1)
def cells() -> tuple[HeavyGenes, ...]:
    return cells_of(facts_of().genes)


def genome_of(cell: int, light: LightGenes = GREEDY) -> Genome:
    """A genome with the heavy genes of a cell."""
    return Genome(
        genome_id="g000-000", generation=0, slot=0, heavy=cells()[cell], light=light, lineage=Lineage(operator="given")
    )


def facts_of(replicates: int = 2) -> TableFacts:
    """5 ranks x 2 alphas x 3 sets of modules x 2 learning rates: 60 cells."""
    heavy = HeavyGeneSpace(
        rank=(2, 4, 8, 16, 32), alpha=(16, 64), dropout=(0.0,), target_modules=("q", "attention", "all"),
        adapter=("lora",), learning_rate=(2e-3, 5e-3),
    )  # fmt: skip
    return TableFacts(
        name="synthetic",
        genes=GenesConfig(heavy=heavy, light=spanned(LIGHTS)),
        lights=LIGHTS,
        replicates=replicates,
        problems=PROBLEMS,
        scoring=ScoringConfig(),
        base_model="coral-tiny",
        base_parameters=901_760,
        base_scores={"bugfix": 0.1, "retention": 0.95},
        made_with={},
    )


def row_of(facts: TableFacts, cell: int, replicate: int) -> Row:
    """Outcomes drawn with the landscape's rates; a cell of rank 32 with the largest alpha and all modules diverges once."""
    heavy = cells()[cell]
    if heavy.rank == 32 and heavy.alpha == 64 and len(heavy.target_modules) == 7 and replicate == 1:
        return Row(cell=cell, replicate=replicate, infeasible="diverged", losses=(3.0,), cpu_seconds=1.0)
    results = []
    for number, light in enumerate(facts.lights):
        rates = scores(genome_of(cell, light))
        draws = random.Random(seed_from("synthetic table", cell, replicate, number))
        passed = tuple(
            draws.random() < rates["retention" if item.retention or item.base_passes else "bugfix"]
            for item in facts.problems
        )
        partly = tuple(1.0 if won else draws.choice([0.0, 0.0, 0.25]) for won in passed)
        written = tuple(float(draws.random() < rates["syntax"]) for _ in passed)
        results.append(
            LightResult(
                passed=passed, bugfix=partly, style=written, security=written, syntax=written,
                runtime=tuple(0.5 if won else None for won in passed), cpu_seconds=2.0 + number,
            )
        )  # fmt: skip
    size = heavy.rank * len(heavy.target_modules) * 1000
    losses = tuple(round(3 / (step + 1), 2) for step in range(6))
    return Row(
        cell=cell,
        replicate=replicate,
        trainable_parameters=size,
        losses=losses,
        cpu_seconds=8.0,
        results=tuple(results),
    )


def rows_of(facts: TableFacts) -> list[Row]:
    return [row_of(facts, cell, replicate) for cell in range(len(cells())) for replicate in range(facts.replicates)]


@lru_cache(maxsize=1)
def synthetic_table() -> Table:
    """The whole table."""
    facts = facts_of()
    return Table(facts, columns_of(facts, rows_of(facts)))
