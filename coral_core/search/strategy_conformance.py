"""Checks that a search strategy keeps its contract; for authors of plug-ins.

In a test of the plug-in's own:

    from coral_core.search.strategy_conformance import complaints
    assert complaints(MyStrategy) == []

It plays the strategy on small search spaces with made-up scores, in which all, some or no genomes are feasible and in
which objectives differ, tie or are constant. It takes seconds.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from coral_core.config import RunConfig
from coral_core.digest import seed_from
from coral_core.genome import DEFAULT_LORA, Genome
from coral_core.search.archive import Scored
from coral_core.search.selection import fitness
from coral_core.search.strategy import Search, first_genome, genome_at

Scorer = Callable[[Genome], dict[str, float] | None]
"""Scores of a genome; None when it is infeasible."""

NAMES = ("bugfix", "retention", "cost", "syntax", "security", "style", "runtime")


def complaints(strategy: type[Search], seeds: Sequence[int] = (0, 1)) -> list[str]:
    """Every way in which a strategy breaks its contract, each naming the case; empty when it conforms.

    The contract, for every configuration with a population of `smallest_population` or more: equal configurations and
    results give equal genomes, whatever the order of the results, the objects made before and the global random numbers;
    asking twice changes nothing; genomes have the ids of their slots, genes inside the search space, and parents that were
    asked for before; incomplete, repeated or foreign results and scores that are no numbers are refused and change
    nothing; the search ends after `search.generations` at the latest, with a reason, and then gives nothing more.

    Args:
        strategy: The class.
        seeds: Seeds of the runs that are played.
    """
    found = list(_of_the_class(strategy))
    for name, config, carried, scorer in _cases(strategy):
        for seed in seeds:
            seeded = config.model_copy(update={"seed": seed})
            try:
                found += [f"{name}, seed {seed}: {text}" for text in _of_a_run(strategy, seeded, carried, scorer)]
            except Exception as error:  # whatever a strategy raises is a finding
                found.append(f"{name}, seed {seed}: {type(error).__name__}: {error}")
    return found


def _of_the_class(strategy: type[Search]) -> Iterator[str]:
    if not (isinstance(strategy, type) and issubclass(strategy, Search)):
        yield "it is no subclass of coral_core.search.strategy.Search"
    elif strategy.__module__.split(".")[0] != "coral_core" and not (
        isinstance(strategy.version, str) and strategy.version
    ):
        yield f"version is {strategy.version!r}: give a text that changes when equal results may give other genomes"


def _of_a_run(strategy: type[Search], config: RunConfig, carried: Sequence[Genome], scorer: Scorer) -> Iterator[str]:
    """Play one run, and a second one beside it that is told the same results in reverse order."""
    search, again = (strategy(config, carried, DEFAULT_LORA) for _ in range(2))
    earlier = {genome.genome_id for genome in carried}
    for number in range(config.search.generations):
        if search.done:
            break
        if search.generation != number:
            yield f"generation is {search.generation} after {number} generations"
            return
        genomes = search.ask()
        if search.ask() != genomes:
            yield f"generation {number}: asking twice gave other genomes"
        random.seed(number)
        np.random.seed(number)
        if again.ask() != genomes:
            yield f"generation {number}: a second object with equal results gave other genomes"
            return
        for genome in genomes:
            if unknown := set(genome.lineage.parents) - earlier:
                yield f"{genome.genome_id}: its parents {sorted(unknown)} were not asked for before it"
        earlier |= {genome.genome_id for genome in genomes}
        results = [_scored(genome, scorer, config) for genome in genomes]
        yield from _refusals(search, results)
        search.tell(results)
        again.tell(results[::-1])
    if not search.done or not search.reason:
        yield f"it is not done after {config.search.generations} generations, or gives no reason"
        return
    if (search.reason, search.best(), search.front()) != (again.reason, again.best(), again.front()):
        yield "a second object with equal results ended otherwise"
    for call in (search.ask, lambda: search.tell([])):
        if not _refused(call):
            yield "ask or tell after the end of the search was not refused"


def _refusals(search: Search, results: list[Scored]) -> Iterator[str]:
    """Results that must be refused, and then must have changed nothing."""
    first, before = results[0], (search.generation, search.ask(), search.told())
    broken = first.model_copy(update={"scores": {"bugfix": math.nan}, "fitness": 0.5, "infeasible": None})
    endless = first.model_copy(update={"scores": {"bugfix": 0.5}, "fitness": math.inf, "infeasible": None})
    stranger = first.model_copy(update={"genome": first.genome.model_copy(update={"genome_id": "g999-999"})})
    wrong = {
        "no results": [],
        "a missing result": results[1:],
        "a repeated result": [*results, first],
        "a result of an unknown genome": [stranger, *results[1:]],
        "a score that is NaN": [broken, *results[1:]],
        "an infinite fitness": [endless, *results[1:]],
    }
    for name, given in wrong.items():
        if not _refused(partial(search.tell, given)):
            yield f"{name} was not refused"
            return
        if (search.generation, search.ask(), search.told()) != before:
            yield f"{name} was refused, but changed the search"


def _refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except ValueError:
        return True
    return False


def _scored(genome: Genome, scorer: Scorer, config: RunConfig) -> Scored:
    scores = scorer(genome)
    if scores is None:
        return Scored(genome=genome, scores=None, fitness=None, infeasible="diverged")
    return Scored(genome=genome, scores=scores, fitness=fitness(scores, config.scoring.weights))


# -- cases ------------------------------------------------------------------------------------


def _mixed(genome: Genome) -> dict[str, float]:
    """Scores that depend on the genes alone and differ in each objective."""
    return {name: seed_from(name, genome.genes_digest()) % 1001 / 1000 for name in NAMES}


def _tied(genome: Genome) -> dict[str, float]:
    return dict.fromkeys(NAMES, 0.5)


def _few_values(genome: Genome) -> dict[str, float]:
    return {name: round(value) / 2 for name, value in _mixed(genome).items()}


def _one_constant(genome: Genome) -> dict[str, float]:
    return _mixed(genome) | {"bugfix": 0.0}


def _infeasible(genome: Genome) -> None:
    return None


def _half_infeasible(genome: Genome) -> dict[str, float] | None:
    return _mixed(genome) if seed_from(genome.heavy.digest()) % 2 else None


def _first_infeasible(genome: Genome) -> dict[str, float] | None:
    return _mixed(genome) if genome.generation else None


ONE_OF_EACH = {
    "heavy": {"rank": [4], "alpha": [8], "dropout": [0], "target_modules": ["q"], "adapter": ["lora"], "learning_rate": [1e-3]},
    "light": {
        "temperature": {"low": 0.5, "high": 0.5},
        "top_p": {"low": 0.9, "high": 0.9},
        "top_k": {"low": 20, "high": 20},
        "repetition_penalty": {"low": 1.0, "high": 1.0},
        "token_limit": {"low": 64, "high": 64},
        "sampling": [True],
    },
}  # fmt: skip
"""A search space with a single genome."""
FEW = {
    "heavy": ONE_OF_EACH["heavy"]
    | {"rank": [1, 2, 4], "target_modules": ["q", "v_proj+q_proj", "q+v", "all"], "adapter": ["dora"]}
}
SMALL_AUTOMATA = {"size": 4, "steps": {"low": 4, "high": 4}}
NARROW = {
    "heavy": {"dropout": [0.05], "learning_rate": [1e-5, 3e-5, 1e-4], "scaling": ["rslora", "lora"]},
    "light": {"temperature": {"low": 0.12345, "high": 0.12346}, "top_k": {"low": 0, "high": 0}, "sampling": [True]},
}
"""Ranges finer than the decimals of light genes."""


def _cases(strategy: type[Search]) -> Iterator[tuple[str, RunConfig, tuple[Genome, ...], Scorer]]:
    """Name, configuration, carried genomes and scores of each run."""
    least = strategy.smallest_population
    sizes = {"generations": 3, "population": max(5, least)}
    one_objective = {
        "roles": {"bugfix": "objective", "retention": "report", "cost": "report"},
        "weights": {"bugfix": 1.0},
    }
    five_objectives = {"roles": dict.fromkeys(("bugfix", "retention", "cost", "runtime", "style"), "objective")}

    def config(search: dict[str, object], **sections: object) -> RunConfig:
        quick = {"diversity": {"minimum_unique": 0.0, "spread": 1}, "early_stopping": {"enabled": False}, "elites": 1}
        return RunConfig.model_validate(
            {"search": {"strategy": "random", **sizes, **quick, **search}, "automaton": SMALL_AUTOMATA, **sections}
        )

    scorers = (_mixed, _tied, _few_values, _one_constant, _infeasible, _half_infeasible, _first_infeasible)
    for scorer in scorers:
        yield f"scores {scorer.__name__.strip('_')}", config({}), (), scorer
    yield "the smallest population", config({"population": least, "elites": 0}), (), _mixed
    yield "one generation", config({"generations": 1}), (), _mixed
    yield "a population of 2", config({"population": max(2, least)}), (), _mixed
    yield "without the default LoRA", config({"start_with_default": False}), (), _mixed
    yield "few trainings", config({"trainings": sizes["population"] + 1}), (), _mixed
    yield "one objective", config({}, scoring=one_objective), (), _mixed
    yield "five objectives", config({}, scoring=five_objectives), (), _mixed
    yield "a single genome", config({"generations": 2, "population": max(2, least)}, genes=ONE_OF_EACH), (), _mixed
    yield "few genomes", config({"generations": 4}, genes=FEW), (), _mixed
    yield "narrow ranges", config({}, genes=NARROW), (), _mixed
    old = first_genome(config({}))
    carried = tuple(
        genome_at(0, slot, old.heavy.model_copy(update={"rank": rank}), old.light, "seed").model_copy(
            update={"genome_id": f"earlier/g000-{slot:03d}"}
        )
        for slot, rank in enumerate((2, 3, 64))
    )
    yield "carried genomes", config({"start_from": "last-champion"}), carried, _mixed
