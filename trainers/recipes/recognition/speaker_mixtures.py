"""Describes a speaker by a Gaussian mixture over utterances, and compares two such mixtures.

The divergence of two mixtures has no closed form. The variational approximation is used (Hershey
and Olsen 2007, "Approximating the Kullback Leibler divergence between Gaussian mixture models", Eq.
20): it draws nothing, is exact for single Gaussians, and is 0 for a mixture and itself. Monte Carlo
lost: with 30 features the logarithm of the ratio spreads by 4 to 6 nats, so it takes ten thousand
draws a pair to tell apart speakers that differ by 0.1 nat.

Shapes: N utterances, D features, K components, A and B those of two mixtures.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.mixture import GaussianMixture

UTTERANCES_A_COMPONENT = 10
# The common variance counts for as many utterances; 16 is usual for adapted mixtures.
RELEVANCE = 16.0
LEAST_VARIANCE = 1e-6

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Diagonal Gaussians: `weights` [K], `means` [K, D], `variances` [K, D]."""

    weights: Array
    means: Array
    variances: Array


def fit_mixture(points_ND: Array, common_D: Array, *, num_components: int, seed: int) -> Mixture:
    """Fit the mixture of one speaker's utterances.

    A speaker gets one component for every ten utterances, at least one and at most
    `num_components`. Every component's variance is drawn toward `common_D`, the more the fewer
    utterances it has: one utterance alone has no variance, and a handful has too little.
    """
    number = max(1, min(num_components, len(points_ND) // UTTERANCES_A_COMPONENT))
    weights, means, variances = (
        np.ones(1),
        points_ND.mean(axis=0)[None],
        points_ND.var(axis=0)[None],
    )

    if number > 1:
        found = GaussianMixture(number, covariance_type="diag", random_state=seed).fit(points_ND)
        weights, means, variances = found.weights_, found.means_, found.covariances_

    counts = (weights * len(points_ND))[:, None]
    return Mixture(
        weights, means, (counts * variances + RELEVANCE * common_D) / (counts + RELEVANCE)
    )


def within_speaker_variance(points_ND: Array, speakers_N: NDArray[np.object_]) -> Array:
    """Variance [D] of utterances about their speaker's mean.

    If no speaker has two utterances, it is the mean variance of all features, and Euclidean
    distances then decide who is near. With each feature's own variance, the least of the principal
    components would be as important as the first.
    """
    _, places, counts = np.unique(speakers_N.astype(str), return_inverse=True, return_counts=True)
    if counts.max() == 1:
        return np.full(points_ND.shape[1], max(points_ND.var(axis=0).mean(), LEAST_VARIANCE))

    sums = np.zeros((len(counts), points_ND.shape[1]))
    np.add.at(sums, places, points_ND)
    deviations_ND = points_ND - (sums / counts[:, None])[places]

    return np.maximum(
        np.square(deviations_ND).sum(axis=0) / (len(points_ND) - len(counts)), LEAST_VARIANCE
    )


def divergence(first: Mixture, second: Mixture) -> float:
    """Approximate KL(first || second) in nats."""
    near_A = logsumexp(-_between_components(first, first), b=first.weights, axis=1)
    far_A = logsumexp(-_between_components(first, second), b=second.weights, axis=1)
    return float(first.weights @ (near_A - far_A))


def _between_components(first: Mixture, second: Mixture) -> Array:
    """KL of every pair of Gaussians, one of each mixture [A, B]."""
    ratios_ABD = first.variances[:, None] / second.variances[None]
    squares_ABD = np.square(first.means[:, None] - second.means[None]) / second.variances[None]
    return 0.5 * (ratios_ABD + squares_ABD - 1 - np.log(ratios_ABD)).sum(axis=-1)
