"""Heads have the published sizes, and padding has no influence on them."""

import pytest
import torch
from torch import Tensor, nn

from trainers.probing.config import HeadName
from trainers.probing.heads import make_head, num_parameters


def padded(*lengths: int, num_layers: int = 1, filler: float = 0.0) -> tuple[Tensor, Tensor]:
    """Frames of random numbers [B, T, L, 6] with `filler` behind them, and their mask."""
    torch.manual_seed(0)
    frames = torch.randn(len(lengths), max(lengths), num_layers, 6)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.where(mask[..., None, None], frames, torch.tensor(filler)), mask


def test_the_published_number_of_parameters() -> None:
    """768 numbers a frame and four classes: 197,892, the .20 M of emotion2vec's Table 2."""
    assert num_parameters(make_head("emotion2vec", 768, 1, 4)) == 197_892
    assert num_parameters(make_head("superb", 768, 1, 4)) == 197_892
    assert num_parameters(make_head("superb", 768, 13, 4)) == 197_892 + 13


def test_heads_are_what_they_say() -> None:
    """emotion2vec's is Linear, ReLU, mean, Linear; SUPERB's has no ReLU."""
    (frames, mask), weights = padded(5), {}
    for name in ("emotion2vec", "superb"):
        head = make_head(name, 6, 1, 3)
        first, last = [one for one in head.modules() if isinstance(one, nn.Linear)][::-1]
        weights[name] = (head, first, last)
        rows = first(frames[0, :, 0])
        hidden = (rows.relu() if name == "emotion2vec" else rows).mean(dim=0)
        logits, found = head(frames, mask)
        torch.testing.assert_close(found[0], hidden)
        torch.testing.assert_close(logits[0], last(hidden))


@pytest.mark.parametrize("name", ["emotion2vec", "superb", "gru"])
def test_padding_has_no_influence(name: HeadName) -> None:
    """An utterance gives the same alone as beside a longer one, whatever fills its place."""
    head = make_head(name, 6, 1, 3).eval()
    frames, mask = padded(3, 7, filler=1e3)
    together, _ = head(frames, mask)
    alone, _ = head(frames[:1, :3], mask[:1, :3])
    torch.testing.assert_close(together[0], alone[0])


def test_weighted_layers_begin_with_their_mean() -> None:
    """Three layers are weighed alike at first, and their weights are learned."""
    head = make_head("superb", 6, 3, 2)
    frames, mask = padded(4, num_layers=3)
    logits, _ = head(frames, mask)

    plain = make_head("superb", 6, 1, 2)
    plain.load_state_dict(head.state_dict(), strict=False)
    torch.testing.assert_close(logits, plain(frames.mean(dim=2, keepdim=True), mask)[0])

    logits.sum().backward()
    assert head.layer_weights is not None
    assert head.layer_weights.grad is not None
    assert head.layer_weights.grad.abs().sum() > 0
