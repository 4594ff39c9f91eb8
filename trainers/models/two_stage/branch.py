"""One branch: from the frames of one input to frames of its own, and to an answer of its own.

Models 1 to 6 of two-stage-aver are one branch each; they are what stage 1 trains. A branch is an
input, a projection, three transformer layers, attentive statistics pooling and a head (sections
IV-B and V-D). Two inputs exist: the weighted sum of all hidden states of a speech encoder, and a
convolution over face features.

An utterance that lacks the input has no frames. Its attention then looks at zeros, since not every
kernel of attention gives a number where nothing may be looked at, and its pooled features are 0.

Shapes: N utterances, T frames, D width, F features of a frame, S hidden states, C classes.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.parts.float32_buffers import Float32Buffers
from trainers.models.parts.layers import EncoderLayer, clear_padding, frame_mask
from trainers.models.parts.pooling import AttentiveStatisticsPooling
from trainers.models.two_stage.configuration import BranchConfig


class StateSum(nn.Module):
    """The weighted sum of an encoder's hidden states, with weights that sum to 1."""

    def __init__(self, config: BranchConfig) -> None:
        super().__init__()
        self.state_logits = nn.Parameter(torch.zeros(config.num_states))
        self.projection = nn.Linear(config.feature_size, config.hidden_size)

    def forward(self, states: Sequence[Tensor], mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Join S states [N, T, F] to frames [N, T, D]; the mask [N, T] stays."""
        weights_S = self.state_logits.float().softmax(dim=0)
        # One after another: all states of a large encoder, stacked, would take twice the memory.
        mixed_NTF = sum(
            (weight * state for weight, state in zip(weights_S, states, strict=True)),
            start=torch.zeros((), device=weights_S.device),
        )
        return self.projection(mixed_NTF.to(self.projection.weight.dtype)), mask_NT


class FaceConvolution(Float32Buffers, nn.Module):
    """A convolution over time with ReLU; features are standardized by the training set before."""

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: BranchConfig) -> None:
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(config.feature_size))
        self.register_buffer("feature_std", torch.ones(config.feature_size))
        self._kernel_size, self._stride = config.kernel_size, config.stride

        self.convolution = nn.Conv1d(
            config.feature_size,
            config.hidden_size,
            kernel_size=config.kernel_size,
            stride=config.stride,
            padding=config.kernel_size // 2,
        )
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)

    def set_statistics(self, mean_F: Tensor, std_F: Tensor) -> None:
        """Standardize features by these, which are saved with the weights."""
        # A feature that never changes has a deviation of 0, and dividing by 0 is no use.
        self.feature_mean.copy_(mean_F)
        self.feature_std.copy_(std_F.clamp_min(1e-3))

    def forward(self, features_NTF: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        """Compute frames [N, T', D] and their mask [N, T']."""
        mask_NT = frame_mask(lengths_N, features_NTF.shape[1])
        features_NTF = (features_NTF.float() - self.feature_mean) / self.feature_std
        cleared_NTF = clear_padding(features_NTF, mask_NT).to(self.projection.weight.dtype)

        hidden_NTD = F.relu(self.convolution(cleared_NTF.transpose(1, 2))).transpose(1, 2)
        # With an odd kernel and half of it as padding, L frames become the L / stride that follow
        # from counting every stride-th of them, and none stays none.
        frames_N = (lengths_N + self._stride - 1) // self._stride
        return self.projection(hidden_NTD), frame_mask(frames_N, hidden_NTD.shape[1])


class Branch(nn.Module):
    """A branch; it has no head where it was never trained to answer alone."""

    def __init__(self, config: BranchConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size

        self.front = StateSum(config) if config.input == "sound" else FaceConvolution(config)
        self.dropout = nn.Dropout(config.dropout_probability)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width)
        self.pool: AttentiveStatisticsPooling | None = None
        self.head: nn.Module | None = None
        if config.head_width is not None:
            self.pool = AttentiveStatisticsPooling(width)
            self.head = dense_head(
                2 * width, config.head_width, num_classes, config.dropout_probability
            )

    def forward(
        self, states: Sequence[Tensor] | Tensor, mask_or_lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the branch's frames [N, T, D] and their mask [N, T].

        A branch of sound takes the encoder's S states [N, T, F] and their mask; a branch of faces
        takes features [N, T, F] and their lengths [N].
        """
        hidden_NTD, mask_NT = self.front(states, mask_or_lengths)
        if self.config.positions == "sinusoidal":
            hidden_NTD = hidden_NTD + sinusoids(*hidden_NTD.shape[1:], like=hidden_NTD)

        return self._through_layers(hidden_NTD, mask_NT), mask_NT

    def pooled(self, frames_NTD: Tensor, mask_NT: Tensor) -> Tensor:
        """Pool the branch's own frames [N, 2D]; 0 where there are none."""
        if self.pool is None:
            raise ValueError("pooled: got a branch without a head, expected one that answers alone")
        return pooled_or_zero(self.pool, frames_NTD, mask_NT)

    def answer(self, pooled_N2D: Tensor) -> Tensor:
        """Compute the branch's own logits [N, C], float32."""
        if self.head is None:
            raise ValueError("answer: got a branch without a head, expected one that answers alone")
        found: Tensor = self.head(pooled_N2D).float()
        return found

    def _through_layers(self, hidden_NTD: Tensor, mask_NT: Tensor) -> Tensor:
        hidden_NTD = self.dropout(clear_padding(hidden_NTD, mask_NT))
        seen_NT = seen_by_attention(mask_NT)
        for layer in self.layers:
            hidden_NTD = layer(hidden_NTD, seen_NT)

        found: Tensor = self.norm(hidden_NTD)
        return found


def dense_head(width: int, hidden: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Two layers from pooled features to logits."""
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(width, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, num_classes),
    )


def seen_by_attention(mask_NT: Tensor) -> Tensor:
    """The mask [N, T], but true throughout for utterances without a frame."""
    return mask_NT | ~mask_NT.any(dim=1, keepdim=True)


def pooled_or_zero(pool: AttentiveStatisticsPooling, frames_NTD: Tensor, mask_NT: Tensor) -> Tensor:
    """Pool over the frames [N, 2D]; utterances without a frame get 0 throughout."""
    pooled_N2D = pool(clear_padding(frames_NTD, mask_NT), mask_NT)
    return pooled_N2D.masked_fill(~mask_NT.any(dim=1, keepdim=True), 0.0)


def sinusoids(length: int, width: int, *, like: Tensor) -> Tensor:
    """The positions of Vaswani et al. 2017 [length, width], sines beside cosines."""
    places = torch.arange(length, device=like.device, dtype=torch.float32)
    steps = torch.arange(0, width, 2, device=like.device, dtype=torch.float32)
    angles = places[:, None] * torch.exp(-math.log(10000.0) * steps / width)

    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width].to(like.dtype)
