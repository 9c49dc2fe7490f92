"""The statistics against counting by hand, and against figures that scipy 1.16 gave."""

import itertools
import random

import numpy as np
import pytest

from coral_core.comparison.seed_statistics import (
    Interval,
    a12,
    a12_interval,
    effect,
    holm,
    median_interval,
    smallest_p,
    wilcoxon,
)


def by_counting(ours: list[float], theirs: list[float]) -> float:
    """Wilcoxon's p from all assignments of signs, with midranks written out."""
    found = [one - other for one, other in zip(ours, theirs, strict=True) if one != other]
    sizes = sorted(map(abs, found))
    ranks = [(sizes.index(abs(d)) + 1 + len(sizes) - sizes[::-1].index(abs(d))) / 2 for d in found]
    observed = sum(rank for rank, d in zip(ranks, found, strict=True) if d > 0)
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product((0, 1), repeat=len(ranks))]
    tail = min(sum(s <= observed for s in sums), sum(s >= observed for s in sums))
    return min(1.0, 2 * tail / len(sums))


@pytest.mark.parametrize("seed", range(8))
def test_wilcoxon_is_exact_with_ties_and_zeros(seed: int) -> None:
    draws = random.Random(seed)
    ours, theirs = ([float(draws.randrange(5)) for _ in range(9)] for _ in range(2))
    assert wilcoxon(ours, theirs) == pytest.approx(by_counting(ours, theirs), rel=1e-12)
    assert wilcoxon(ours, theirs) == wilcoxon(theirs, ours)


def test_wilcoxon_as_scipy() -> None:
    draws = np.random.default_rng(3)
    for pairs, p in (
        (6, 1.0),
        (9, 0.5703125),
        (15, 0.97796630859375),
        (25, 0.17295855283737183),
        (50, 0.559104623193516),
    ):
        ours, theirs = draws.normal(0.4, 1, pairs), draws.normal(0, 1, pairs)
        assert wilcoxon(list(ours), list(theirs)) == pytest.approx(p, rel=1e-9)


def test_two_hundred_pairs_in_one_direction() -> None:
    assert wilcoxon([1.0] * 200, [0.0] * 200) == pytest.approx(2.0**-199)


def test_rounding_makes_no_difference() -> None:
    assert wilcoxon([0.1 + 0.2] * 8, [0.3] * 8) == 1.0 and a12([0.1 + 0.2], [0.3]) == 0.5


def test_no_seed_of_five_can_show_a_difference() -> None:
    assert smallest_p(5) > 0.05 > smallest_p(6) == wilcoxon(range(1, 7), [0] * 6)


def test_a12_counts_ties_half() -> None:
    assert a12([1, 2], [1, 2]) == 0.5 and a12([3, 3], [1, 2]) == 1.0 and a12([1], [1, 2]) == 0.25
    ours, theirs = [random.Random(n).random() for n in range(7)], [random.Random(n + 9).random() for n in range(5)]
    counted = sum((a > b) + (a == b) / 2 for a in ours for b in theirs) / 35
    assert a12(ours, theirs) == pytest.approx(counted) == pytest.approx(1 - a12(theirs, ours))


def test_the_interval_of_a12_holds_it_and_is_the_same_again() -> None:
    draws = random.Random(1)
    ours, theirs = [draws.gauss(0.5, 1) for _ in range(40)], [draws.gauss(0, 1) for _ in range(40)]
    found = a12_interval(ours, theirs)
    assert found == a12_interval(ours, theirs)
    assert 0 < found.low < a12(ours, theirs) < found.high < 1


def test_the_interval_of_a_median_covers_as_it_says() -> None:
    """Exponential draws have the median log 2; 60 % intervals of 9 values hold it in their share of 2,000 samples."""
    draws = np.random.default_rng(2)
    found = [median_interval(list(draws.exponential(size=9)), 0.6) for _ in range(2000)]
    assert len({interval.confidence for interval in found}) == 1 and 0.6 <= found[0].confidence < 0.85
    covered = np.mean([interval.low <= np.log(2) <= interval.high for interval in found])
    assert covered == pytest.approx(found[0].confidence, abs=0.03)


@pytest.mark.parametrize(
    ("count", "places", "confidence"),
    [(1, (0, 0), 0.0), (3, (0, 2), 0.75), (5, (0, 4), 0.9375), (6, (0, 5), 0.96875), (8, (0, 7), 0.9921875),
     (11, (1, 9), 0.98828125), (20, (5, 14), 0.9586105346679688), (200, (85, 114), 0.9599628083866004)],
)  # fmt: skip
def test_intervals_of_medians(count: int, places: tuple[int, int], confidence: float) -> None:
    values = list(range(count))
    random.Random(count).shuffle(values)
    assert median_interval(values) == pytest.approx(Interval(*map(float, places), confidence))


def test_holm() -> None:
    assert holm([]) == [] and holm([0.2]) == [0.2] and holm([0.9, 0.001, 0.4]) == pytest.approx([0.9, 0.003, 0.8])


def test_effects_are_named_by_their_distance() -> None:
    assert [effect(value) for value in (0.55, 0.6, 0.36, 0.71, 0.0)] == [
        "negligible",
        "small",
        "medium",
        "large",
        "large",
    ]


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_what_is_no_number_is_refused(values: list[float]) -> None:
    for call in (lambda: a12(values, [1.0]), lambda: median_interval(values), lambda: wilcoxon(values, values)):
        with pytest.raises(ValueError, match="finite number"):
            call()
    with pytest.raises(ValueError, match="no pairs"):
        wilcoxon([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="too few to resample"):
        a12_interval([1.0], [1.0])
