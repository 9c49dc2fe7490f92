"""A synthetic landscape shaped like the embedded base model's (shared/facts/tiny-model.md), for tests of the search.

pass@1 rises with rank, modules, alpha and learning rate up to a ridge and falls behind it
(divergence); retention falls with the size of the update; cost is the log of the trainable
parameters. Light genes: a repetition penalty and hot sampling hurt, a short token limit cuts
answers off. Scores are counted on 96 problems and carry the noise of a training (by digest).
"""

import math

from coral_core.config import RunConfig
from coral_core.digest import seed_from
from coral_core.genome import Genome
from coral_core.search.selection import fitness
from coral_core.search.strategy import Scored, Search, make_search

WIDTH = {
    "q_proj": 256,
    "k_proj": 256,
    "v_proj": 256,
    "o_proj": 256,
    "gate_proj": 480,
    "up_proj": 480,
    "down_proj": 480,
}
"""Inputs plus outputs of each linear module: trainable parameters per unit of rank and layer."""
PROBLEMS = 96


def noise(genome: Genome, purpose: str) -> float:
    """About normal, standard deviation .03, decided by what was trained and how it was run."""
    parts = [seed_from(purpose, genome.genes_digest(), n) % 10_000 / 10_000 - 0.5 for n in range(4)]
    return 0.03 * sum(parts) * math.sqrt(3)


def scores(genome: Genome) -> dict[str, float]:
    """Noisy scores of `genome`, as an evaluation would give them."""
    heavy, light = genome.heavy, genome.light
    parameters = 4 * heavy.rank * sum(WIDTH[name] for name in heavy.target_modules)
    capacity = math.log2(parameters / 2**10) / 7.5  # about 0 for rank 1 on q, 1 for rank 32 on all
    push = math.log10(heavy.learning_rate / 5e-3) + 0.5 * math.log10(heavy.alpha / heavy.rank / 2)
    ridge = math.exp(-(((push - 0.15) / (0.8 if push < 0.15 else 0.35)) ** 2))
    repaired = 0.45 / (1 + math.exp(-9 * (capacity - 0.55))) * ridge * (1.04 if heavy.adapter == "dora" else 1)
    decoding = math.exp(-12 * (light.repetition_penalty - 1)) * (1 if light.token_limit >= 88 else 0.8)
    if light.sampling:
        decoding *= 1 - 0.35 * light.temperature * light.top_p
    damage = 0.2 * max(0.0, capacity) + 0.5 * max(0.0, push - 0.2)
    return {
        "bugfix": counted(repaired * decoding + noise(genome, "bugfix")),
        "retention": counted(0.97 - damage - 0.3 * (1 - decoding) + noise(genome, "retention")),
        "cost": min(1.0, max(0.0, 1 - math.log2(1 + parameters / 2**9) / 9)),
        "syntax": counted(0.99 - 0.8 * max(0.0, push - 0.45) - 0.2 * (1 - decoding)),
        "style": 0.9,
        "security": 1.0,
        "runtime": 0.5,
    }


def counted(share: float) -> float:
    return round(min(1.0, max(0.0, share)) * PROBLEMS) / PROBLEMS


def scored(genome: Genome, config: RunConfig) -> Scored:
    found = scores(genome)
    return Scored(genome=genome, scores=found, fitness=fitness(found, config.scoring.weights))


def run(config: RunConfig) -> Search:
    """A whole search on the landscape."""
    search = make_search(config)
    while not search.done:
        search.tell([scored(genome, config) for genome in search.ask()])
    return search


def asked(config: RunConfig) -> list[tuple[Genome, ...]]:
    """All generations that a search asks for on the landscape."""
    search, generations = make_search(config), []
    while not search.done:
        generations.append(search.ask())
        search.tell([scored(genome, config) for genome in generations[-1]])
    return generations
