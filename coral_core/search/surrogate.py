"""A Gaussian process over genes: what a search expects of genomes that were not trained.

The model has a constant mean, a Matérn kernel (nu 5/2) with one length scale per gene, and noise. Its hyperparameters are
chosen from a fixed grid under a weak prior by coordinate search, and predictions are rounded: a last bit that differs
between two machines then changes no choice of a search.

Sources: Rasmussen and Williams 2006, algorithm 2.1 and section 5.4.1; the prior on length scales, which grows with the
number of genes, follows Hvarfner et al. 2024.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOST_POINTS = 256
"""Results that a search fits its models to at most: the cost of a fit grows with their cube."""
LENGTHS = tuple(0.125 * 2**n for n in range(8))
"""Length scales to choose from, as shares of a gene's span: from rugged to hardly any effect."""
NOISES = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Variances of the noise to choose from, relative to that of the signal."""
USUAL_NOISE = 0.1
"""Centre of the prior on the noise."""
SWEEPS = 3
"""Passes of the coordinate search at most."""
GAIN = 1e-6
"""Smallest rise of the log density that counts, far above rounding errors."""
DIGITS = 9
"""Decimals of predictions that are kept."""


class Surrogate:
    """A Gaussian process fitted to one measured quantity.

    Args:
        points: Coordinates of genomes in [0, 1]; shape (n, genes), n at least 1.
        values: What was measured at them; shape (n,), finite. Equal values are taken as free of noise and of uncertainty.

    Example:
        >>> model = Surrogate(np.array([[0.0], [0.5], [1.0]]), np.array([0.0, 1.0, 0.0]))
        >>> mean, deviation = model.predict(np.array([[0.5], [0.75]]))
        >>> bool(mean[0] > mean[1] > 0), bool(deviation[0] < deviation[1])
        (True, True)
    """

    def __init__(self, points: Array, values: Array) -> None:
        self.points = points
        self._center, spread = float(values.mean()), float(values.std())
        self._scale = spread if spread > 10.0**-DIGITS else 0.0
        self._values = (values - self._center) / (self._scale or 1.0)
        self._gaps = (points[:, None, :] - points[None, :, :]) ** 2
        self._varied = [n for n in range(points.shape[1]) if np.ptp(points[:, n]) > 0]
        self._middle = math.log(0.5 * math.sqrt(max(1, len(self._varied))))
        start = min(range(len(LENGTHS)), key=lambda n: abs(math.log(LENGTHS[n]) - self._middle))
        self._choice = (NOISES.index(USUAL_NOISE), *[start] * points.shape[1])
        """Indices of the noise and of each gene's length scale."""
        if self._scale and self._varied:
            self._choice = self._best_choice()
        self._lower, self._white = self._factored(self._choice)
        self.signal = self._signal(self._white)
        """Variance of the signal, in units of that of the values."""

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the quantity, without the noise of a measurement.

        Args:
            points: Shape (m, genes).

        Returns:
            Two arrays of shape (m,), rounded to `DIGITS` decimals.
        """
        beliefs = Beliefs(self, points)
        return beliefs.mean, beliefs.deviation

    def kernel(self, gaps: Array) -> Array:
        """Correlation of the signal between points with the squared coordinate differences `gaps`, shape (..., genes)."""
        return self._kernel(gaps, self._choice[1:])

    @property
    def noise(self) -> float:
        """Variance of the noise, relative to that of the signal."""
        return NOISES[self._choice[0]]

    def explained(self, points: Array) -> tuple[Array, Array]:
        """What the measurements say about `points`, shape (m, genes).

        Returns:
            The mean, shape (m,), and the whitened correlations with the measured points, shape (n, m).
        """
        cross = self.kernel((points[:, None, :] - self.points[None, :, :]) ** 2)
        white = np.asarray(np.linalg.solve(self._lower, cross.T), dtype=np.float64)
        mean: Array = self._center + self._scale * (self._white @ white)
        return mean, white

    def scaled(self, variance: Array) -> Array:
        """Standard deviations of the quantity from variances relative to that of the signal."""
        deviation: Array = np.round(self._scale * np.sqrt(self.signal * np.clip(variance, 0.0, None)), DIGITS)
        return deviation

    # -- hyperparameters -------------------------------------------------------------------

    def _best_choice(self) -> tuple[int, ...]:
        """Coordinate search for the hyperparameters of the largest posterior density."""
        sizes = (len(NOISES), *[len(LENGTHS)] * self.points.shape[1])
        choice, best = self._choice, self._density(self._choice)
        for _ in range(SWEEPS):
            before = best
            for axis in (0, *(n + 1 for n in self._varied)):
                for step in (-1, 1):
                    while 0 <= choice[axis] + step < sizes[axis]:
                        moved = (*choice[:axis], choice[axis] + step, *choice[axis + 1 :])
                        density = self._density(moved)
                        if density <= best + GAIN:
                            break
                        choice, best = moved, density
            if best == before:
                break
        return choice

    def _density(self, choice: tuple[int, ...]) -> float:
        """Log of marginal likelihood times prior, at the best variance of the signal; without constants."""
        lower, white = self._factored(choice)
        likelihood = -0.5 * len(white) * math.log(self._signal(white)) - float(np.log(np.diag(lower)).sum())
        lengths = sum(((math.log(LENGTHS[choice[n + 1]]) - self._middle) / 0.8) ** 2 for n in self._varied)
        noise = ((math.log(NOISES[choice[0]]) - math.log(USUAL_NOISE)) / 1.5) ** 2
        return likelihood - 0.5 * (lengths + noise)

    def _factored(self, choice: tuple[int, ...]) -> tuple[Array, Array]:
        """Cholesky factor L of the kernel with noise, and L^-1 times the values, from one factorisation.

        The last row of the factor of [[K, y], [y', c]] is L^-1 y; c only needs to be large enough.
        """
        count, noise = len(self._values), NOISES[choice[0]]
        bordered = np.empty((count + 1, count + 1))
        bordered[:count, :count] = self._kernel(self._gaps, choice[1:])
        bordered[np.arange(count), np.arange(count)] += noise
        bordered[count, :count] = bordered[:count, count] = self._values
        bordered[count, count] = 1.0 + 2.0 * float(self._values @ self._values) / noise
        lower = np.asarray(np.linalg.cholesky(bordered), dtype=np.float64)
        return lower[:count, :count], lower[count, :count]

    @staticmethod
    def _signal(white: Array) -> float:
        return (float(white @ white) + 1.0) / (len(white) + 1)  # one pseudo-measurement: few values say little

    @staticmethod
    def _kernel(gaps: Array, lengths: Sequence[int]) -> Array:
        distance: Array = np.sqrt(5.0 * (gaps @ np.array([LENGTHS[n] ** -2.0 for n in lengths])))
        correlation: Array = (1.0 + distance + distance**2 / 3.0) * np.exp(-distance)
        return correlation


class Beliefs:
    """What a model expects of some candidates, while they are chosen one by one.

    A chosen candidate counts as measured at its expected value (the "kriging believer" of Ginsbourger et al. 2010): means
    stay, and its neighbours become less uncertain.

    Args:
        model: The model.
        points: Coordinates of the candidates; shape (m, genes).
    """

    def __init__(self, model: Surrogate, points: Array) -> None:
        self._model, self._points = model, points
        mean, self._white = model.explained(points)
        self.mean: Array = np.round(mean, DIGITS)
        self._variance: Array = 1.0 - (self._white**2).sum(axis=0)

    @property
    def deviation(self) -> Array:
        """Standard deviations of the quantity; shape (m,)."""
        return self._model.scaled(self._variance)

    @property
    def novelty(self) -> Array:
        """Share of the signal's variance that is unknown, in [0, 1]; also where the quantity is constant."""
        return self._variance.clip(0.0, 1.0).round(DIGITS)

    def believe(self, index: int) -> None:
        """Count candidate `index` as measured."""
        prior = self._model.kernel((self._points - self._points[index]) ** 2)
        covariance = prior - self._white[:, index] @ self._white
        row = covariance / math.sqrt(max(0.0, float(self._variance[index])) + self._model.noise)
        self._white = np.concatenate([self._white, row[None]])
        self._variance = self._variance - row**2
