"""The parts before the body: from waveforms to frames of the body's width.

Teacher and student share them. What stands behind an utterance's last frame has no influence on its
frames: the convolutions are normalized over channels, never over time.

Shapes: N utterances, S samples, T frames, C channels, M mel bands, D width.
"""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.encoders.data2vec.configuration import Data2VecConfig
from trainers.models.parts.float32_buffers import Float32Buffers
from trainers.models.parts.layers import StridedConvolution, frame_mask
from trainers.models.parts.log_mel import (
    HOP_SAMPLES,
    WINDOW_SAMPLES,
    log_mel,
    mel_filters,
    num_frames,
)

SMALLEST_DEVIATION = 1e-3


class ConvolutionalFrontEnd(nn.Module):
    """Seven convolutions, a norm and a projection: a frame of 400 samples every 320."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *(
                _NormedConvolution(1 if number == 0 else config.conv_size, config.conv_size, *sizes)
                for number, sizes in enumerate(
                    zip(config.conv_kernel, config.conv_stride, strict=True)
                )
            )
        )
        self.norm = nn.LayerNorm(config.conv_size)
        self.projection = nn.Linear(config.conv_size, config.hidden_size)
        self._kernels, self._strides = config.conv_kernel, config.conv_stride

    @property
    def watched(self) -> nn.Module:
        """The module whose output [N, C, T] are the features before the projection."""
        return self.convolutions

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return prod(self._strides)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees."""
        samples = 1
        for kernel, stride in zip(reversed(self._kernels), reversed(self._strides), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    def num_frames(self, lengths_N: Tensor) -> Tensor:
        """Count the frames [N] of `lengths_N` samples; every utterance has at least one."""
        frames_N = lengths_N.clamp_min(self.receptive_field)
        for kernel, stride in zip(self._kernels, self._strides, strict=True):
            frames_N = (frames_N - kernel) // stride + 1
        return frames_N

    def forward(self, samples_NS: Tensor, lengths_N: Tensor) -> Tensor:
        """Compute frames [N, T, D]; those behind an utterance's last frame mean nothing."""
        short = max(0, self.receptive_field - samples_NS.shape[1])
        valid_NS = frame_mask(lengths_N, samples_NS.shape[1])
        cleared_NS = F.pad(samples_NS.masked_fill(~valid_NS, 0.0), (0, short))

        dtype = self.projection.weight.dtype
        features_NCT = self.convolutions(cleared_NS.to(dtype).unsqueeze(1))
        return self.projection(self.norm(features_NCT.transpose(1, 2)))


class LogMelFrontEnd(Float32Buffers, nn.Module):
    """Standardized log-mel energies, whose rate two convolutions lower to 25 Hz."""

    window: Tensor
    filters: Tensor
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        bands, width = config.num_mel_bands, config.hidden_size
        self.register_buffer("window", torch.hann_window(WINDOW_SAMPLES))
        self.register_buffer("filters", mel_filters(bands))
        self.register_buffer("feature_mean", torch.zeros(bands))
        self.register_buffer("feature_std", torch.ones(bands))

        self.convolutions = nn.ModuleList(
            [StridedConvolution(bands, width), StridedConvolution(width, width)]
        )
        self.norm = nn.LayerNorm(width)

    @property
    def watched(self) -> nn.Module:
        """The module whose output starts with the features before the norm."""
        return self.convolutions[-1]

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return HOP_SAMPLES * 2 ** len(self.convolutions)

    def set_statistics(self, mean_M: Tensor, std_M: Tensor) -> None:
        """Standardize energies by the mean and standard deviation of the training set."""
        self.feature_mean.copy_(mean_M)
        self.feature_std.copy_(std_M.clamp_min(SMALLEST_DEVIATION))

    def features(self, samples_NS: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        """Compute log energies [N, T, M] at 100 Hz, and count their valid frames [N]."""
        valid_NS = frame_mask(lengths_N, samples_NS.shape[1])
        energies_NTM = log_mel(samples_NS.masked_fill(~valid_NS, 0.0), self.window, self.filters)
        return energies_NTM, num_frames(samples_NS, valid_NS)

    def num_frames(self, lengths_N: Tensor) -> Tensor:
        """Count the frames [N] of `lengths_N` samples; every utterance has at least one."""
        frames_N = (lengths_N - WINDOW_SAMPLES).clamp_min(0) // HOP_SAMPLES + 1
        for _ in self.convolutions:
            frames_N = (frames_N - 1) // 2 + 1
        return frames_N

    def forward(self, samples_NS: Tensor, lengths_N: Tensor) -> Tensor:
        """Compute frames [N, T, D]; those behind an utterance's last frame mean nothing."""
        energies_NTM, frames_N = self.features(samples_NS, lengths_N)
        standardized_NTM = (energies_NTM - self.feature_mean) / self.feature_std

        hidden_NTD = standardized_NTM.to(self.norm.weight.dtype)
        for convolution in self.convolutions:
            hidden_NTD, frames_N = convolution(hidden_NTD, frames_N)
        return self.norm(hidden_NTD)


def make_front_end(config: Data2VecConfig) -> ConvolutionalFrontEnd | LogMelFrontEnd:
    """The front end that `config.front_end` names."""
    if config.front_end == "log_mel":
        return LogMelFrontEnd(config)
    return ConvolutionalFrontEnd(config)


class _NormedConvolution(nn.Module):
    def __init__(self, size_in: int, size_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(size_in, size_out, kernel, stride, bias=False)
        nn.init.kaiming_normal_(self.convolution.weight)
        self.norm = nn.LayerNorm(size_out)

    def forward(self, hidden_NCT: Tensor) -> Tensor:
        convolved_NTC = self.convolution(hidden_NCT).transpose(1, 2)
        return F.gelu(self.norm(convolved_NTC)).transpose(1, 2)
