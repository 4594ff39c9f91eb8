"""Attentive statistics pooling against numpy, and where there is nothing to pool."""

import numpy as np
import torch

from trainers.models.parts.pooling import AttentiveStatisticsPooling


def test_it_is_the_weighted_mean_and_deviation() -> None:
    """Against numpy, with weights that a softmax of tanh(W x + b) v gives over valid frames."""
    torch.manual_seed(0)
    pool = AttentiveStatisticsPooling(4)
    frames = torch.randn(2, 6, 4)
    mask = torch.arange(6) < torch.tensor([[6], [3]])
    found = pool(frames, mask).detach().numpy()

    weight, bias = (value.detach().numpy() for value in pool.sap_linear.parameters())
    for row, length in enumerate([6, 3]):
        x = frames[row, :length].numpy().astype(np.float64)
        scores = np.tanh(x @ weight.T + bias) @ pool.attention.detach().numpy()[:, 0]
        shares = np.exp(scores) / np.exp(scores).sum()
        mean = shares @ x
        deviation = np.sqrt(np.maximum(shares @ (x - mean) ** 2, 1e-5))
        np.testing.assert_allclose(found[row], np.concatenate([mean, deviation]), atol=1e-5)


def test_an_utterance_without_frames_is_a_number_with_gradients() -> None:
    """Its mean is 0, and neither it nor the gradients of others become NaN."""
    pool = AttentiveStatisticsPooling(3)
    frames = torch.randn(2, 4, 3, requires_grad=True)
    found = pool(frames, torch.tensor([[False] * 4, [True] * 4]))

    assert found[0, :3].tolist() == [0.0, 0.0, 0.0]
    found.sum().backward()
    assert found.isfinite().all()
    assert frames.grad is not None
    assert frames.grad.isfinite().all()
    assert pool.attention.grad is not None
    assert pool.attention.grad.isfinite().all()
