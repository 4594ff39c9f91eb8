"""Heads have the published sizes, and padding has no influence on them."""

import pytest
import torch
from torch import Tensor, nn

from trainers.probing.config import HeadName
from trainers.probing.heads import ConversationHead, make_head, num_parameters


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


def test_recurrent_heads_have_two_layers_of_gates() -> None:
    """Three gates of 256 units, each with a matrix and a bias for the input and for the state."""
    lower, upper, output = 3 * 256 * (768 + 256 + 2), 3 * 256 * (256 + 256 + 2), 257 * 4
    assert num_parameters(make_head("gru", 768, 1, 4)) == lower + upper + output
    # A conversation's has a number more for each utterance: whose turn it is.
    wanted = lower + 3 * 256 + upper + output
    assert num_parameters(ConversationHead(769, 1, 4)) == wanted


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


def test_neither_padding_nor_batchmates_change_a_conversation() -> None:
    """Three utterances in two turns give the same beside seven in four, whatever fills the gap."""
    torch.manual_seed(1)
    head = ConversationHead(6, 1, 3).eval()
    frames, mask = padded(3, 7, filler=1e3)
    turns = torch.tensor([[0, 1, 1, 9, 9, 9, 9], [0, 0, 1, 2, 2, 2, 3]])
    together, _ = head(frames, mask, turns)
    alone, _ = head(frames[:1, :3], mask[:1, :3], turns[:1, :3])
    torch.testing.assert_close(together[0], alone[0])
    swapped, _ = head(frames.flip(0), mask.flip(0), turns.flip(0))
    torch.testing.assert_close(swapped.flip(0), together)


def test_a_conversation_is_heard_turn_by_turn() -> None:
    """The upper layer sees the lower one's last state of each turn, as torch's cells compute it."""
    torch.manual_seed(1)
    head = ConversationHead(6, 1, 3).eval()
    frames, mask = padded(3)
    _, hidden = head(frames, mask, torch.tensor([[0, 1, 1]]))

    lower, upper = nn.GRUCell(6, 256), nn.GRUCell(256, 256)
    for cell, layer in ((lower, head.within_turn), (upper, head.over_turns)):
        weights = layer.state_dict().items()
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in weights})
    first, second, third = frames[0, :, 0]
    turns = [lower(first[None]), lower(third[None], lower(second[None]))]
    torch.testing.assert_close(hidden, upper(turns[1], upper(turns[0])))


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
