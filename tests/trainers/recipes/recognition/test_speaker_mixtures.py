"""Mixtures and their divergence equal closed forms and samples, even for few utterances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence

from trainers.recipes.recognition.speaker_mixtures import (
    RELEVANCE,
    Mixture,
    divergence,
    fit_mixture,
    within_speaker_variance,
)


def mixture(seed: int, *, components: int, width: int = 3) -> Mixture:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(components, 5.0))
    return Mixture(
        weights,
        rng.standard_normal((components, width)),
        rng.uniform(0.5, 2.0, (components, width)),
    )


def as_torch(mixture: Mixture) -> Independent:
    means, deviations = (
        torch.from_numpy(mixture.means[0]),
        torch.from_numpy(mixture.variances[0]).sqrt(),
    )
    return Independent(Normal(means, deviations), 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_single_gaussians_have_the_closed_form(seed: int) -> None:
    """The divergence of single Gaussians is that of torch."""
    first, second = mixture(seed, components=1), mixture(seed + 1, components=1)
    expected = kl_divergence(as_torch(first), as_torch(second)).item()
    assert divergence(first, second) == pytest.approx(expected, rel=1e-9)


def test_mixtures_come_near_what_sampling_gives() -> None:
    """The divergence is within a quarter of 200,000 draws' mean, and 0 for a mixture and itself."""
    first, second = mixture(0, components=3), mixture(5, components=2)
    moved = Mixture(second.weights, second.means + 2, second.variances)

    sampled = [
        torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(torch.from_numpy(found.weights)),
            Independent(
                Normal(torch.from_numpy(found.means), torch.from_numpy(found.variances).sqrt()), 1
            ),
        )
        for found in (first, moved)
    ]

    torch.manual_seed(0)
    draws = sampled[0].sample((200_000,))
    expected = (sampled[0].log_prob(draws) - sampled[1].log_prob(draws)).mean().item()

    assert divergence(first, moved) == pytest.approx(expected, rel=0.25)
    assert divergence(first, first) == pytest.approx(0.0, abs=1e-12)


def test_components_follow_the_utterances() -> None:
    """A speaker gets one component for every ten utterances, at least one and at most the limit."""
    points, common = np.random.default_rng(0).standard_normal((60, 2)), np.ones(2)
    sizes = [
        len(fit_mixture(points[:n], common, num_components=4, seed=0).weights)
        for n in (1, 19, 20, 35, 60)
    ]
    assert sizes == [1, 1, 2, 3, 4]


def test_variances_are_drawn_toward_the_common_one() -> None:
    """One utterance takes 16/17 of it, and two, at 0 and 2, give (2 * 1 + 16 * common) / 18."""
    common = np.asarray([4.0])
    assert RELEVANCE == 16
    one = fit_mixture(np.asarray([[3.0]]), common, num_components=4, seed=0)
    assert (one.means.item(), one.variances.item()) == (3.0, pytest.approx(64 / 17))
    two = fit_mixture(np.asarray([[0.0], [2.0]]), common, num_components=4, seed=0)
    assert (two.means.item(), two.variances.item()) == (1.0, pytest.approx((2 + 64) / 18))


def test_the_common_variance_is_within_speakers() -> None:
    """The common variance is about each speaker's own mean, or that of features for single ones."""
    points = np.asarray([[-1.0, 0.0], [1.0, 0.0], [99.0, 4.0], [101.0, 4.0]])
    shared = within_speaker_variance(points, np.asarray(["a", "a", "b", "b"], dtype=object))
    np.testing.assert_allclose(shared, [2.0, 1e-6])

    alone = within_speaker_variance(points, np.asarray(["a", "b", "c", "d"], dtype=object))
    np.testing.assert_allclose(alone, [(2501 + 4) / 2] * 2)
