"""The parts that a body is made of: positional convolutions, ALiBi, and post-norm layers.

Shapes: N utterances, T frames, D width, H heads.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.encoders.data2vec.configuration import Data2VecConfig
from trainers.models.parts.layers import clear_padding

INITIAL_DEVIATION = 0.02  # of the weights of linear layers, as in BERT


class PositionalConvolutions(nn.Module):
    """A stack of convolutions that tells a frame where it is among its neighbors.

    Each is followed by a norm without weights and a GELU. The padding is cleared before each, or
    all but the first would see what the one before made of it.
    """

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        kernel, width = config.position_kernel, config.hidden_size
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=config.position_groups)
            for _ in range(config.num_position_convolutions)
        )

    def forward(self, frames_NTD: Tensor, mask_NT: Tensor) -> Tensor:
        num_frames = frames_NTD.shape[1]
        for convolution in self.convolutions:
            cleared_NDT = clear_padding(frames_NTD, mask_NT).transpose(1, 2)
            # An even kernel gives one frame too many.
            convolved_NTD = convolution(cleared_NDT)[..., :num_frames].transpose(1, 2)
            frames_NTD = F.gelu(F.layer_norm(convolved_NTD, convolved_NTD.shape[-1:]))
        return frames_NTD


class PostNormLayer(nn.Module):
    """A transformer layer that is normalized behind each of its two sums.

    The output of `feed_forward` is what the teacher of data2vec gives as a target.
    """

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        width, self._num_heads = config.hidden_size, config.num_attention_heads
        self.dropout_prob = config.dropout_probability

        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, config.intermediate_size),
            nn.GELU(),
            nn.Linear(config.intermediate_size, width),
        )
        self.output_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout_probability)

        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=INITIAL_DEVIATION)
                nn.init.zeros_(part.bias)

    def forward(self, hidden_NTD: Tensor, bias_NHTT: Tensor) -> Tensor:
        """Compute the output [N, T, D]; `bias_NHTT` is added to the attention's logits."""
        attended_NTD = self.dropout(self._attend(hidden_NTD, bias_NHTT))
        hidden_NTD = self.attention_norm(hidden_NTD + attended_NTD)
        return self.output_norm(hidden_NTD + self.dropout(self.feed_forward(hidden_NTD)))

    def _attend(self, hidden_NTD: Tensor, bias_NHTT: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self._num_heads, -1)).transpose(1, 2)
            for part in self.query_key_value(hidden_NTD).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=bias_NHTT.to(query.dtype),
            dropout_p=self.dropout_prob if self.training else 0.0,
        )
        return self.projection(attended.transpose(1, 2).flatten(2))


def alibi_slopes(num_heads: int) -> list[float]:
    """How fast the attention of each head [H] falls off with distance.

    These are those of Press et al. 2022: a geometric sequence from 2^(-8/H), for a power of two;
    for other numbers, the sequence of the next lower power, then every second one of the next
    higher. 12 heads have .5 to .0039 and then .7071, .3536, .1768, .0884.
    """
    lower = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8 * place / lower) for place in range(1, lower + 1)]
    if lower == num_heads:
        return slopes

    between = [2.0 ** (-4 * place / lower) for place in range(1, 2 * lower + 1, 2)]
    return slopes + between[: num_heads - lower]


class Alibi(nn.Module):
    """The bias by which attention falls off with distance; one scale a head, for all layers.

    It is a module of its own because ZeRO 3 brings a weight back for the backward pass of the
    module that it belongs to.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_heads))

    def forward(self, positions_NT: Tensor) -> Tensor:
        """The bias [N, H, T, T]: minus slope times scale times the distance between two frames.

        `positions_NT` are the frames' places in the whole utterance, which they keep when others
        have been removed. A scale below 0 counts as 0: attention never grows with distance.
        """
        slopes_H = torch.tensor(alibi_slopes(len(self.scale)), device=self.scale.device)
        distances_NTT = (positions_NT.unsqueeze(2) - positions_NT.unsqueeze(1)).abs()
        strengths_H = slopes_H * self.scale.float().clamp_min(0.0)
        return -strengths_H[:, None, None] * distances_NTT.unsqueeze(1)
