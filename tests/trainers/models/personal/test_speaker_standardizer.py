"""Features are standardized by their own set, as by hand, and few utterances lean on the prior."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from trainers.models.personal.speaker_standardizer import SpeakerStandardizer


def made(
    prior: float, mean: float = 0.0, variance: float = 1.0, between: float = 1e9
) -> SpeakerStandardizer:
    """Make one that has learned these of a single feature."""
    standardizer = SpeakerStandardizer(1, prior)
    standardizer.mean.fill_(mean)
    standardizer.variance.fill_(variance)
    standardizer.between.fill_(between)
    return standardizer


def test_each_set_is_standardized_by_itself() -> None:
    """Without a prior, a set comes out as scikit-learn's scaler standardizes it alone."""
    features_ND = torch.randn(12, 3) * 5 + 7
    sets_N = torch.tensor([0, 1] * 6)
    standardizer = SpeakerStandardizer(3, prior=0)
    standardizer.between.fill_(1e9)
    found_ND, means_BD = standardizer(features_ND, sets_N)

    for number in (0, 1):
        mine_ND = features_ND[sets_N == number].numpy().astype(np.float64)
        expected_ND = StandardScaler().fit_transform(mine_ND)
        np.testing.assert_allclose(found_ND[sets_N == number].numpy(), expected_ND, atol=1e-5)
        np.testing.assert_allclose(means_BD[number].numpy(), mine_ND.mean(axis=0), atol=1e-5)


def test_few_utterances_lean_on_the_training_speakers() -> None:
    """By hand: 2 and 6 (mean 4, variance 4) where v_0 is 16, b is 8 and the prior 2.

    Then r is 2, the mean becomes 2, the variance 10, so 6 becomes 4 / sqrt(10).
    """
    standardizer = made(prior=2, mean=0.0, variance=16.0, between=8.0)
    found_ND, _ = standardizer(torch.tensor([[2.0], [6.0]]), torch.tensor([0, 0]))
    assert found_ND[:, 0].tolist() == pytest.approx([0.0, 4 / 10**0.5])


def test_one_utterance_keeps_what_speakers_share() -> None:
    """Alone it is its own mean; where speakers hardly differ it is as for an unknown speaker."""
    alone = torch.tensor([[5.0]]), torch.tensor([0])
    assert made(prior=1, mean=1.0, variance=4.0)(*alone)[0].item() == pytest.approx(0.0, abs=1e-6)

    alike = made(prior=1, mean=1.0, variance=4.0, between=1e-9)
    assert alike(*alone)[0].item() == pytest.approx((5 - 1) / (4 / 2) ** 0.5)


def test_support_alone_says_what_a_speaker_is_like() -> None:
    """With a source, the other utterances are standardized by it and do not count themselves."""
    features_ND = torch.tensor([[100.0], [1.0], [3.0]])
    source_N = torch.tensor([False, True, True])
    found_ND, means_BD = made(prior=0)(features_ND, torch.zeros(3, dtype=torch.long), source_N)

    assert found_ND[:, 0].tolist() == pytest.approx([98.0, -1.0, 1.0])
    assert means_BD.item() == 2.0


def test_speakers_count_alike_in_what_is_learned() -> None:
    """By hand: a speaker of four utterances moves the prior no more than one of two."""
    standardizer = SpeakerStandardizer(1, prior=1)
    features_ND = torch.tensor([[0.0], [0.0], [2.0], [2.0], [10.0], [14.0]])
    standardizer.learn(features_ND, torch.tensor([0, 0, 0, 0, 1, 1]))

    assert standardizer.mean.item() == pytest.approx((1 + 12) / 2)
    assert standardizer.variance.item() == pytest.approx((1 + 4) / 2)
    # The means 1 and 12 differ by a variance of 60.5, of which 2.5 * (1/4 + 1/2) / 2 is chance.
    assert standardizer.between.item() == pytest.approx(60.5 - 2.5 * 3 / 8)


def test_what_is_between_speakers_is_found() -> None:
    """In data made with known variances, m_0, v_0 and b come out."""
    rng = np.random.default_rng(3)
    offsets = 3.0 * rng.standard_normal(400)
    features = offsets[:, None] + 5 + 2.0 * rng.standard_normal((400, 6))
    standardizer = SpeakerStandardizer(1, prior=1)
    standardizer.learn(
        torch.from_numpy(features.reshape(-1, 1)), torch.arange(400).repeat_interleave(6)
    )

    assert standardizer.mean.item() == pytest.approx(5, abs=0.5)
    assert standardizer.variance.item() == pytest.approx(4 * 5 / 6, rel=0.1)
    assert standardizer.between.item() == pytest.approx(9, rel=0.2)
