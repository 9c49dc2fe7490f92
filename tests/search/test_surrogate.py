"""The Gaussian process: exact against the textbook formulas, honest about noise, safe with degenerate data."""

import numpy as np
import pytest

from coral_core.search.surrogate import LENGTHS, Beliefs, Surrogate

RNG = np.random.Generator(np.random.PCG64(7))
POINTS = RNG.random((30, 3))
VALUES = np.sin(5 * POINTS[:, 0]) + 0.3 * POINTS[:, 1] + RNG.normal(0, 0.05, 30)
CHILDREN = RNG.random((12, 3))


def textbook(model: Surrogate, points: np.ndarray, values: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation by a dense inverse (Rasmussen and Williams 2006, equations 2.25 and 2.26)."""

    def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        lengths = np.array([LENGTHS[n] for n in model._choice[1:]])
        distance = np.sqrt(5) * np.linalg.norm((first[:, None] - second[None]) / lengths, axis=2)
        return np.asarray((1 + distance + distance**2 / 3) * np.exp(-distance))

    center, scale = VALUES.mean(), VALUES.std()
    inverse = np.linalg.inv(correlations(points, points) + model.noise * np.eye(len(points)))
    cross = correlations(at, points)
    mean = center + cross @ inverse @ (values - center)
    variance = 1 - np.einsum("ij,jk,ik->i", cross, inverse, cross)
    return mean, scale * np.sqrt(model.signal * variance)


def test_predictions_follow_the_textbook() -> None:
    model = Surrogate(POINTS, VALUES)
    mean, deviation = model.predict(CHILDREN)
    expected = textbook(model, POINTS, VALUES, CHILDREN)
    assert np.allclose(mean, expected[0], atol=1e-7) and np.allclose(deviation, expected[1], atol=1e-7)


def test_a_believed_child_counts_as_measured_at_its_mean() -> None:
    model = Surrogate(POINTS, VALUES)
    beliefs = Beliefs(model, CHILDREN)
    for index in (3, 8):
        beliefs.believe(index)
    points = np.concatenate([POINTS, CHILDREN[[3, 8]]])
    values = np.concatenate([VALUES, beliefs.mean[[3, 8]]])
    mean, deviation = textbook(model, points, values, CHILDREN)
    assert np.allclose(beliefs.mean, mean, atol=1e-7) and np.allclose(beliefs.deviation, deviation, atol=1e-7)


def test_genes_without_effect_get_longer_scales() -> None:
    model = Surrogate(POINTS, np.sin(6 * POINTS[:, 0]))
    assert LENGTHS[model._choice[1]] < min(LENGTHS[model._choice[2]], LENGTHS[model._choice[3]])


def test_noise_is_averaged_away() -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    points = rng.random((60, 2))
    truth = points[:, 0]
    measured = truth + rng.normal(0, 0.3, 60)
    expected = Surrogate(points, measured).predict(points)[0]
    assert np.abs(expected - truth).mean() < 0.5 * np.abs(measured - truth).mean()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_constant_has_no_uncertainty_but_novelty(count: int) -> None:
    model = Surrogate(POINTS[:count], np.full(count, 0.4))
    mean, deviation = model.predict(CHILDREN)
    assert np.allclose(mean, 0.4) and not deviation.any()
    assert (Beliefs(model, CHILDREN).novelty > 0).all()


def test_repeated_points_and_genes_that_do_not_vary_are_no_error() -> None:
    points = np.concatenate([POINTS, POINTS])
    points[:, 2] = 0.5
    mean, deviation = Surrogate(points, np.concatenate([VALUES, VALUES])).predict(points)
    assert np.isfinite(mean).all() and np.isfinite(deviation).all()
    assert np.isfinite(Surrogate(POINTS[:, :0], VALUES).predict(POINTS[:, :0])[0]).all()
