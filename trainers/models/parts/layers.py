"""Layers whose results padding cannot change; the small models are made of them.

Frames are masked wherever something looks across them: a convolution sees zeros after the end of
its utterance, and attention skips the padding.

Shapes: B batch, T frames, D width.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerSizes(Protocol):
    """The sizes of an EncoderLayer: any configuration that has these fields."""

    @property
    def hidden_size(self) -> int:
        """The width of a frame."""

    @property
    def num_attention_heads(self) -> int:
        """The number of heads, which divides the width."""

    @property
    def intermediate_size(self) -> int:
        """The width between the two feed-forward layers."""

    @property
    def dropout_probability(self) -> float:
        """The share of numbers that training drops."""


class StridedConvolution(nn.Module):
    """Halves the frame rate; what stands behind an utterance's last frame has no influence."""

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(size_in, size_out, kernel_size=3, stride=2, padding=1)

    def forward(self, frames_BTD: Tensor, frames_B: Tensor) -> tuple[Tensor, Tensor]:
        cleared_BTD = clear_padding(frames_BTD, frame_mask(frames_B, frames_BTD.shape[1]))
        halved_BTD = F.gelu(self.convolution(cleared_BTD.transpose(1, 2))).transpose(1, 2)
        return halved_BTD, (frames_B - 1) // 2 + 1


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer whose attention skips masked frames."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.num_heads = sizes.num_attention_heads

        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.feed_forward = feed_forward(sizes)

        self.dropout = nn.Dropout(sizes.dropout_probability)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        hidden_BTD = hidden_BTD + self.dropout(
            self._attend(self.attention_norm(hidden_BTD), mask_BT)
        )
        return hidden_BTD + self.dropout(self.feed_forward(hidden_BTD))

    def _attend(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.query_key_value(hidden_BTD).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask_BT[:, None, None, :]
        )
        return self.projection(attended.transpose(1, 2).flatten(2))


def feed_forward(sizes: LayerSizes) -> nn.Sequential:
    """The second half of a pre-norm transformer layer, with its norm."""
    return nn.Sequential(
        nn.LayerNorm(sizes.hidden_size),
        nn.Linear(sizes.hidden_size, sizes.intermediate_size),
        nn.GELU(),
        nn.Linear(sizes.intermediate_size, sizes.hidden_size),
    )


def frame_mask(frames_B: Tensor, length: int) -> Tensor:
    """[B, length], true for the first `frames_B` frames of each row."""
    return torch.arange(length, device=frames_B.device) < frames_B.unsqueeze(-1)


def clear_padding(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """`hidden_BTD` with zeros where the mask is false."""
    return hidden_BTD.masked_fill(~mask_BT.unsqueeze(-1), 0.0)
