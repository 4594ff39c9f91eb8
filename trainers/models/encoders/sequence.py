"""A small transformer encoder for a laptop, from log-mel energies or face features.

It replaces HuBERT and VideoMAE where no checkpoint can be downloaded: it has 0.18 million
parameters and trains from nothing in a minute on one core. The log-mel front end keeps the level of
the recording, which HuBERT-type front ends normalize away. The layers are those of `mel.py`, with a
seam before each of them.

Shapes: N utterances, S samples, F features, T frames, M mel bands, D width.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from trainers.models.encoders.seams import BeforeLayer, LayerInput
from trainers.models.parts.float32_buffers import Float32Buffers
from trainers.models.parts.layers import EncoderLayer, StridedConvolution, clear_padding, frame_mask
from trainers.models.parts.log_mel import (
    HOP_SAMPLES,
    WINDOW_SAMPLES,
    log_mel,
    mel_filters,
    num_frames,
)


class SequenceEncoderConfig(PretrainedConfig):
    """Sizes of the encoder.

    `front_end` is "mel" for waveforms, or "face" for features of `feature_size` numbers a frame.
    """

    model_type = "emostream_sequence"

    def __init__(
        self,
        front_end: Literal["mel", "face"] = "mel",
        feature_size: int = 80,
        hidden_size: int = 64,
        num_hidden_layers: int = 3,
        num_attention_heads: int = 4,
        intermediate_size: int = 256,
        dropout_probability: float = 0.1,
        **kwargs: Any,
    ) -> None:
        self.front_end = front_end
        self.feature_size = feature_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.dropout_probability = dropout_probability
        super().__init__(**kwargs)


class SequenceEncoder(Float32Buffers, PreTrainedModel):
    """Computes hidden frames [N, T', D] of waveforms [N, S] or features [N, T, F]."""

    config_class = SequenceEncoderConfig
    main_input_name = "inputs"

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config)
        width, size = config.hidden_size, config.feature_size
        self.register_buffer("feature_mean", torch.zeros(size))
        self.register_buffer("feature_std", torch.ones(size))

        if config.front_end == "mel":
            self.register_buffer("window", torch.hann_window(WINDOW_SAMPLES))
            self.register_buffer("filters", mel_filters(size))
            self.subsampling = nn.ModuleList(
                [StridedConvolution(size, width), StridedConvolution(width, width)]
            )
        else:
            self.projection = nn.Linear(size, width)

        self.position = nn.Conv1d(width, width, kernel_size=31, padding=15, groups=width)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout_probability)
        # Stands for frames hidden from the layers.
        self.mask_embedding = nn.Parameter(torch.rand(width))

        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep each layer's own initialization; transformers' normal(0, 0.02) suits wider ones."""

    def set_statistics(self, mean_F: Tensor, std_F: Tensor) -> None:
        """Standardize features by the mean and standard deviation of the training set.

        Both are saved with the weights.
        """
        self.feature_mean.copy_(mean_F)
        self.feature_std.copy_(std_F.clamp_min(1e-3))

    def features(self, inputs: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features [N, T, F] before standardization, and count their valid frames [N]."""
        if self.config.front_end == "face":
            return inputs.float(), lengths_N

        valid_NS = frame_mask(lengths_N, inputs.shape[1])
        return log_mel(inputs.masked_fill(~valid_NS, 0.0), self.window, self.filters), num_frames(
            inputs, valid_NS
        )

    @property
    def subsampling_factor(self) -> int:
        """How many feature frames make one frame of the output."""
        return 2 ** len(self.subsampling) if self.config.front_end == "mel" else 1

    def num_frames(self, lengths_N: Tensor) -> Tensor:
        """Count the frames [N] that `lengths_N` samples (or feature frames) give."""
        if self.config.front_end == "face":
            return lengths_N

        frames_N = (lengths_N - WINDOW_SAMPLES).clamp_min(0) // HOP_SAMPLES + 1
        for _ in self.subsampling:
            frames_N = (frames_N - 1) // 2 + 1
        return frames_N

    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor,
        before_layer: BeforeLayer | None = None,
        hide_NT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute hidden frames [N, T', D] and their mask [N, T'].

        `before_layer` may change what each layer sees. Frames where `hide_NT` [N, T'] is true are
        replaced by the mask embedding.
        """
        features_NTF, frames_N = self.features(inputs, lengths)
        features_NTF = (features_NTF - self.feature_mean) / self.feature_std
        hidden_NTD, frames_N = self._embed(features_NTF.to(self.norm.weight.dtype), frames_N)

        mask_NT = frame_mask(frames_N, hidden_NTD.shape[1])
        if hide_NT is not None:
            hidden_NTD = torch.where(hide_NT.unsqueeze(-1), self.mask_embedding, hidden_NTD)
        hidden_NTD = self.dropout(clear_padding(hidden_NTD, mask_NT))
        hidden_NTD = hidden_NTD + F.gelu(self.position(hidden_NTD.transpose(1, 2)).transpose(1, 2))

        for number, layer in enumerate(self.layers):
            seen = LayerInput(hidden_NTD, mask_NT)
            if before_layer is not None:
                seen = before_layer(number, hidden_NTD, mask_NT)
            hidden_NTD = layer(seen.hidden_NTD, seen.mask_NT)[:, seen.num_prefix :]
            mask_NT = seen.mask_NT[:, seen.num_prefix :]

        return self.norm(hidden_NTD), mask_NT

    def _embed(self, features_NTF: Tensor, frames_N: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.front_end == "face":
            return self.projection(features_NTF), frames_N

        for convolution in self.subsampling:
            features_NTF, frames_N = convolution(features_NTF, frames_N)
        return features_NTF, frames_N
