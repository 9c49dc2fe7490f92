"""Automata, features and their expression into genes: spread, locality, reach."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from coral_core.config import RunConfig
from coral_core.config.tree import AutomatonConfig, module_names
from coral_core.genome import Automaton, Genome
from coral_core.search.automaton import RULE_BITS, draw, history
from coral_core.search.expression import GENES, calibration, heavy_genes, light_genes, positions
from coral_core.search.features import features
from coral_core.search.randomness import generator

CONFIG = RunConfig()


@lru_cache(maxsize=1)
def sample() -> tuple[list[Automaton], NDArray[np.float64], NDArray[np.float64]]:
    """500 automata, their raw features, their gene positions."""
    automata = [draw(CONFIG.automaton, generator(17, 0, slot, "test")) for slot in range(500)]
    found = [positions(automaton, CONFIG.automaton) for automaton in automata]
    raw = np.array([[f.complexity, f.intensity, f.periodicity, f.convergence] for f, _ in found])
    return automata, raw, np.array([[place[gene] for gene in GENES] for _, place in found])


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse], dtype=float)


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def distances(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    upper = np.triu_indices(len(rows), 1)
    return np.asarray(np.sqrt(((rows[:, None, :] - rows[None, :, :]) ** 2).sum(-1))[upper])


def test_game_of_life_blinker() -> None:
    born, survive = {3}, {2, 3}
    rule = sum(1 << count for count in born) + sum(1 << (9 + count) for count in survive)
    grid = [[0] * 7 for _ in range(7)]
    grid[3][2] = grid[3][3] = grid[3][4] = 1
    grids = history(Automaton(grid=tuple(map(tuple, grid)), rule=rule, steps=4))
    assert grids.shape == (5, 7, 7)
    assert (grids[1].sum(), grids[1][2][3], grids[1][4][3]) == (3, 1, 1)
    assert (grids[2] == grids[0]).all() and (grids[3] == grids[1]).all()


def test_every_rule_bit_is_reachable_and_counts() -> None:
    """Each bit of the rule changes some history: rule and index fit each other."""
    grid = draw(AutomatonConfig(), generator(3, 0, 0, "bits")).grid
    used = set()
    for bit in range(RULE_BITS):
        for seed in range(40):
            grid = draw(AutomatonConfig(), generator(seed, 0, 0, "bits")).grid
            with_bit = history(Automaton(grid=grid, rule=1 << bit, steps=1))[1]
            without = history(Automaton(grid=grid, rule=0, steps=1))[1]
            if (with_bit != without).any():
                used.add(bit)
                break
    assert len(used) >= RULE_BITS - 2  # a live cell with 0 or 8 live neighbours may not occur in 40 grids


@pytest.mark.parametrize("column", range(4))
def test_each_feature_spreads(column: int) -> None:
    _, raw, _ = sample()
    low, high = np.quantile(raw[:, column], [0.1, 0.9])
    assert high - low >= 0.2


def test_near_features_give_near_genes() -> None:
    _, raw, place = sample()
    quantiles = calibration(CONFIG.automaton).quantiles(raw)
    assert spearman(distances(quantiles), distances(place)) >= 0.8
    assert spearman(distances(raw), distances(place)) >= 0.8


def test_near_features_give_near_genes_after_rounding_to_candidates() -> None:
    _, raw, place = sample()
    rows = np.array([normalised(dict(zip(GENES, row, strict=True))) for row in place])
    assert spearman(distances(raw), distances(rows)) >= 0.8


def normalised(place: dict[str, float]) -> list[float]:
    """The genes as numbers in [0, 1]: index of the candidate, or place in the range."""
    heavy, light = heavy_genes(place, CONFIG.genes), light_genes(place, CONFIG.genes)
    space, ranges = CONFIG.genes.heavy, CONFIG.genes.light
    modules = [module_names(item) for item in space.target_modules]
    indices = [
        (space.rank.index(heavy.rank), len(space.rank)),
        (space.alpha.index(heavy.alpha), len(space.alpha)),
        (space.dropout.index(heavy.dropout), len(space.dropout)),
        (modules.index(heavy.target_modules), len(modules)),
        (space.adapter.index(heavy.adapter), len(space.adapter)),
        (space.learning_rate.index(heavy.learning_rate), len(space.learning_rate)),
        (ranges.sampling.index(light.sampling), len(ranges.sampling)),
    ]
    rows = [index / (count - 1) for index, count in indices]
    for name in ("temperature", "top_p", "top_k", "repetition_penalty", "token_limit"):
        span = getattr(ranges, name)
        rows.append((getattr(light, name) - span.low) / (span.high - span.low))
    return rows


def test_every_candidate_is_drawn_at_least_half_as_often_as_uniform() -> None:
    _, _, place = sample()
    drawn = [heavy_genes(dict(zip(GENES, row, strict=True)), CONFIG.genes) for row in place]
    space = CONFIG.genes.heavy
    columns: dict[str, list[tuple[object, Sequence[object]]]] = {
        "rank": [(heavy.rank, space.rank) for heavy in drawn],
        "alpha": [(heavy.alpha, space.alpha) for heavy in drawn],
        "dropout": [(heavy.dropout, space.dropout) for heavy in drawn],
        "adapter": [(heavy.adapter, space.adapter) for heavy in drawn],
        "learning_rate": [(heavy.learning_rate, space.learning_rate) for heavy in drawn],
        "modules": [
            (heavy.target_modules, tuple(module_names(item) for item in space.target_modules)) for heavy in drawn
        ],
    }
    for name, pairs in columns.items():
        candidates = pairs[0][1]
        for candidate in candidates:
            count = sum(value == candidate for value, _ in pairs)
            assert count >= 0.5 * len(pairs) / len(candidates), f"{name} {candidate}: {count} of {len(pairs)}"


def test_light_genes_cover_their_ranges() -> None:
    """Ten equal parts of each range (two for sampling), each drawn at least half as often as uniform."""
    _, _, place = sample()
    for gene in ("temperature", "top_p", "top_k", "repetition_penalty", "token_limit", "sampling"):
        parts = 2 if gene == "sampling" else 10
        column = place[:, GENES.index(gene)]
        counts = np.bincount(np.minimum(parts - 1, (column * parts).astype(int)), minlength=parts)
        assert counts.min() >= 0.5 * len(column) / parts, f"{gene}: {counts.tolist()}"


def test_last_bits_of_features_change_no_gene() -> None:
    """Machines differ in the last bits of a logarithm; genes must not, least of all where many automata tie."""
    automata, _, _ = sample()
    known = calibration(CONFIG.automaton)
    for automaton in automata[:200]:
        found = features(automaton)
        moved = {name: min(1.0, value * (1 + 4e-16)) for name, value in found.model_dump().items()}
        assert known.positions(found) == known.positions(found.model_copy(update=moved))


def test_a_small_change_of_an_automaton_changes_its_genes_little() -> None:
    automata, _, place = sample()
    moves = []
    for automaton, row in zip(automata[:100], place, strict=False):
        grid = [list(cells) for cells in automaton.grid]
        grid[0][0] ^= 1
        changed = automaton.model_copy(update={"grid": tuple(map(tuple, grid))})
        other = positions(changed, CONFIG.automaton)[1]
        moves.append(np.sqrt(sum((other[gene] - old) ** 2 for gene, old in zip(GENES, row, strict=True))))
    typical = np.median(distances(place))
    assert np.median(moves) < 0.35 * typical


def test_features_are_in_range_for_extreme_automata() -> None:
    full = tuple(tuple(1 for _ in range(6)) for _ in range(6))
    empty = tuple(tuple(0 for _ in range(6)) for _ in range(6))
    for grid in (full, empty):
        for rule in (0, 2**RULE_BITS - 1, 1, 1 << 17):
            features(Automaton(grid=grid, rule=rule, steps=4))  # validated by the model: each in [0, 1]


def test_genome_round_trip_through_json() -> None:
    from coral_core.search.strategy import make_search

    for genome in make_search(CONFIG).ask():
        assert Genome.model_validate_json(genome.model_dump_json()) == genome
