"""What all baselines share: attention from one stream to another, and what a baseline answers.

A baseline joins a stream of sound and one of faces. Projections before it, attentive statistics
pooling, dense head, loss and protocol are those of the branches, so that a figure differs from
theirs by how streams are joined. Layers are pre-norm, as in the branches.

Shapes: N utterances, T frames, Q frames that look, K frames that are looked at, D width, C classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.parts.layers import EncoderLayer, LayerSizes, clear_padding, feed_forward
from trainers.models.two_stage.branch import seen_by_attention
from trainers.models.two_stage.shared import Stream


@dataclass(frozen=True)  # no slots: ZeRO 3 looks for tensors in __dict__
class Joined:
    """What a baseline answers to N utterances.

    `log_probs_NC` are logarithms of probabilities. `pooled` [N, W] are the features in front of the
    head. Each of `learned` [N, C] learns the labels, by a loss of the same weight; an answer of one
    stream alone is among them in VAVL and AuxFormer.
    """

    log_probs_NC: Tensor
    pooled: Tensor
    learned: tuple[Tensor, ...]


class Baseline(nn.Module, ABC):
    """Joins a stream of sound and a stream of faces, in this order."""

    feature_width: int

    @abstractmethod
    def forward(self, streams: Sequence[Stream]) -> Joined:
        """Answer by two streams; an utterance has a frame in at least one of them."""


class CrossLayer(nn.Module):
    """A pre-norm transformer layer whose frames look at the frames of another stream."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.num_heads = sizes.num_attention_heads

        self.query_norm, self.source_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.projection = nn.Linear(width, width)
        self.feed_forward = feed_forward(sizes)
        self.dropout = nn.Dropout(sizes.dropout_probability)

    def forward(self, hidden_NQD: Tensor, source: Stream) -> Tensor:
        """Compute frames [N, Q, D]; where `source` has no frame, attention adds nothing."""
        hidden_NQD = hidden_NQD + self.dropout(self.attend(hidden_NQD, source))
        found: Tensor = hidden_NQD + self.dropout(self.feed_forward(hidden_NQD))
        return found

    def attend(self, hidden_NQD: Tensor, source: Stream) -> Tensor:
        """What the frames find in the other stream [N, Q, D]; 0 where it has no frame."""
        source_NKD, mask_NK = source
        source_NKD = self.source_norm(clear_padding(source_NKD, mask_NK))
        query = self._heads(self.query(self.query_norm(hidden_NQD)))
        key, value = (self._heads(part) for part in self.key_value(source_NKD).chunk(2, dim=-1))

        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=seen_by_attention(mask_NK)[:, None, None, :]
        )
        found_NQD: Tensor = self.projection(attended.transpose(1, 2).flatten(2))
        return found_NQD.masked_fill(~mask_NK.any(dim=1)[:, None, None], 0.0)

    def _heads(self, hidden_NTD: Tensor) -> Tensor:
        return hidden_NTD.reshape(*hidden_NTD.shape[:2], self.num_heads, -1).transpose(1, 2)


class CrossModal(nn.Module):
    """Layers in which one stream looks at another, which stays as it came in (Tsai et al. 2019)."""

    def __init__(self, sizes: LayerSizes, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossLayer(sizes) for _ in range(num_layers))

    def forward(self, target: Stream, source: Stream) -> Stream:
        """Compute the frames of `target` [N, T, D], and return them with their mask."""
        hidden_NTD, mask_NT = target
        for layer in self.layers:
            hidden_NTD = layer(hidden_NTD, source)
        return clear_padding(hidden_NTD, mask_NT), mask_NT


class SelfAttention(nn.Module):
    """Transformer layers within one stream, and a norm."""

    def __init__(self, sizes: LayerSizes, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(sizes) for _ in range(num_layers))
        self.norm = nn.LayerNorm(sizes.hidden_size)

    def forward(self, stream: Stream) -> Stream:
        """Compute the frames [N, T, D], and return them with their mask."""
        hidden_NTD, mask_NT = stream
        seen_NT = seen_by_attention(mask_NT)
        for layer in self.layers:
            hidden_NTD = layer(hidden_NTD, seen_NT)
        return self.norm(hidden_NTD), mask_NT


def one_answer(logits_NC: Tensor, pooled: Tensor) -> Joined:
    """What a baseline with a single head answers."""
    log_probs_NC = logits_NC.float().log_softmax(dim=-1)
    return Joined(log_probs_NC, pooled, (log_probs_NC,))


def heard(streams: Sequence[Stream]) -> Tensor:
    """[N, J], true where an utterance has a frame of the stream."""
    return torch.stack([mask_NT.any(dim=1) for _, mask_NT in streams], dim=1)
