"""Losses equal hand-computed cases and torchmetrics."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import concordance_corrcoef

from trainers.models.losses import (
    balanced_class_weights,
    ccc,
    ccc_loss,
    class_balanced_cross_entropy,
    info_nce,
    soft_cross_entropy,
)


def test_info_nce_by_hand() -> None:
    """Eq. 7 written out for two speakers, of similarities 2, 0 and 0, 1 at temperature 0.5."""
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[2.0, 0.0], [0.0, 1.0]])

    by_hand = [
        -math.log(math.exp(4) / (math.exp(4) + 1)),
        -math.log(math.exp(2) / (math.exp(2) + 1)),
    ]

    assert info_nce(first, second, 0.5).item() == pytest.approx(sum(by_hand) / 2, rel=1e-6)
    assert info_nce(first[:1], second[:1], 0.5).item() == 0.0


def test_a_cosine_ignores_lengths() -> None:
    """Scaling a speaker's embeddings changes dot products but not cosines."""
    first, second = torch.randn(3, 5), torch.randn(3, 5)
    longer = first * torch.tensor([[1.0], [7.0], [0.1]])
    torch.testing.assert_close(
        info_nce(longer, second, 0.1, "cosine"), info_nce(first, second, 0.1, "cosine")
    )

    unit, unit_second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    torch.testing.assert_close(
        info_nce(first, second, 0.1, "cosine"), info_nce(unit, unit_second, 0.1)
    )


def test_info_nce_is_float32_in_bfloat16() -> None:
    """Similarities in the thousands keep their differences."""
    first, second = torch.full((2, 64), 4.0), torch.full((2, 64), 4.0)
    second[1, 0] = 3.9375  # exact in bfloat16
    rough = info_nce(first.bfloat16(), second.bfloat16(), 0.1)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, info_nce(first, second, 0.1))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(3, 40), st.floats(0.1, 3.0), st.floats(-2.0, 2.0))
def test_ccc_is_torchmetrics(seed: int, number: int, scale: float, shift: float) -> None:
    """CCC equals that of torchmetrics on many repetitions of the data.

    torchmetrics uses sample variances, which come near population variances on repeated data.
    """
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(number, generator=generator, dtype=torch.float64)
    predicted = (
        scale * truth + shift + 0.3 * torch.randn(number, generator=generator, dtype=torch.float64)
    )

    repeated = concordance_corrcoef(predicted.repeat(2000), truth.repeat(2000)).item()
    assert ccc(predicted, truth).item() == pytest.approx(repeated, abs=1e-3)


def test_ccc_by_hand() -> None:
    """CCC is that by hand for (1, 2, 3) and (2, 2, 5), whose covariance is 1."""
    assert ccc(
        torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 5.0])
    ).item() == pytest.approx(2 * 1 / (2 / 3 + 2 + 1), rel=1e-6)
    assert ccc(torch.ones(4), torch.ones(4)).item() == 0.0

    two = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    truth = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    assert ccc_loss(two, truth).item() == pytest.approx((0 + 1) / 2, abs=1e-6)


def test_weights_stand_for_repeated_rows() -> None:
    """A row of weight 3 counts as three rows in both losses, and two rows equal those by hand.

    The cross-entropy is divided by the number of rows and not by their weights.
    """
    weights = torch.tensor([3.0, 1.0, 2.0])
    rows = torch.tensor([0, 0, 0, 1, 2, 2])
    predicted, truth = torch.randn(3, 2), torch.randn(3, 2)

    torch.testing.assert_close(
        ccc_loss(predicted, truth, weights), ccc_loss(predicted[rows], truth[rows])
    )

    probs = truth.softmax(dim=-1)
    torch.testing.assert_close(
        soft_cross_entropy(predicted, probs, row_weights_N=weights / weights.mean()),
        soft_cross_entropy(predicted[rows], probs[rows]),
    )

    logits, hard = (
        torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]),
        torch.tensor([[1.0, 0.0], [1.0, 0.0]]),
    )
    by_hand = (2 * math.log(2) + math.log(4 / 3)) / 2
    assert soft_cross_entropy(
        logits, hard, row_weights_N=torch.tensor([2.0, 1.0])
    ).item() == pytest.approx(by_hand)


def test_weighted_ccc_by_hand() -> None:
    """Weighted CCC is that by hand for (0, 3) and (1, 3) with weights 2 and 1.

    The means are 1 and 5/3, the variances 2 and 8/9, the covariance 4/3.
    """
    found = ccc(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 3.0]), torch.tensor([2.0, 1.0]))
    assert found.item() == pytest.approx(2 * (4 / 3) / (2 + 8 / 9 + (2 / 3) ** 2), rel=1e-6)


def test_soft_cross_entropy_is_the_usual_one_for_hard_labels() -> None:
    """For hard labels it is the mean of torch's losses, weighted or not; weight 0 leaves out."""
    logits, labels = torch.randn(9, 4), torch.randint(4, (9,))
    hard, weights = F.one_hot(labels, 4).float(), torch.tensor([0.5, 1.0, 2.0, 3.0])

    torch.testing.assert_close(soft_cross_entropy(logits, hard), F.cross_entropy(logits, labels))
    torch.testing.assert_close(
        soft_cross_entropy(logits, hard, weights),
        F.cross_entropy(logits, labels, weight=weights, reduction="none").mean(),
    )

    rows = torch.tensor([1.0] * 5 + [0.0] * 4)
    torch.testing.assert_close(
        soft_cross_entropy(logits, hard, row_weights_N=rows),
        F.cross_entropy(logits[:5], labels[:5], reduction="sum") / 9,
    )


def test_balanced_weights_are_inverse_frequencies() -> None:
    """The weights average to 1 over the utterances, and an absent class gets 0."""
    counts = torch.tensor([10, 30, 0])
    weights = balanced_class_weights(counts)
    torch.testing.assert_close(weights, torch.tensor([2.0, 2 / 3, 0.0]))
    assert ((weights * counts).sum() / counts.sum()).item() == pytest.approx(1.0)


def test_class_balanced_loss_multiplies_each_whole_cross_entropy() -> None:
    """Against numpy; `soft_cross_entropy`, which weighs within the sum, is another number."""
    rng = np.random.default_rng(0)
    logits, votes = rng.standard_normal((7, 4)), rng.integers(1, 9, (7, 4))
    probs, weights = votes / votes.sum(axis=1, keepdims=True), np.array([0.4, 0.8, 1.2, 1.6])

    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    entropies = [
        -sum(p * q for p, q in zip(*row, strict=True)) for row in zip(probs, log_probs, strict=True)
    ]
    expected = [sum(weights * p) * entropy for p, entropy in zip(probs, entropies, strict=True)]

    tensors = [torch.from_numpy(values).float() for values in (log_probs, probs, weights)]
    found = class_balanced_cross_entropy(*tensors)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    other = soft_cross_entropy(tensors[0], tensors[1], tensors[2])
    assert abs(other.item() - np.mean(expected)) > 1e-3

    unweighted = class_balanced_cross_entropy(*tensors[:2])
    np.testing.assert_allclose(unweighted.numpy(), entropies, rtol=1e-5)
