"""A small classifier of speech by log-mel energies: the voice teacher of the embedded corpus.

It trains in a minute on one core. HuBERT-type front ends normalize each waveform, which removes the
loudness of the speaker, and loudness carries emotion. This classifier keeps the level of the sound:
it standardizes log-mel energies by fixed statistics of the training set, never by those of the
utterance. Two strided convolutions, three transformer layers, the mean and standard deviation over
time and a linear layer have 0.18 million parameters. A convolution stack on the raw waveform was
measured 8 to 50 times slower for the same work.

Padding has no influence on the logits: see `trainers.models.parts.layers` and `log_mel`.

Shapes: B batch, S samples, T frames, M mel bands, D width, C classes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from trainers.models.parts.layers import EncoderLayer, StridedConvolution, clear_padding, frame_mask
from trainers.models.parts.log_mel import WINDOW_SAMPLES, log_mel, mel_filters, num_frames
from trainers.models.parts.pooling import masked_mean_and_std


class MelClassifierConfig(PretrainedConfig):
    """Sizes of the classifier.

    `num_labels`, `id2label` and `label2id` are those of every transformers configuration.
    """

    model_type = "emostream_mel"

    def __init__(
        self,
        num_mel_bands: int = 80,
        hidden_size: int = 64,
        num_hidden_layers: int = 3,
        num_attention_heads: int = 4,
        intermediate_size: int = 256,
        dropout_probability: float = 0.1,
        **kwargs: Any,
    ) -> None:
        self.num_mel_bands = num_mel_bands
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.dropout_probability = dropout_probability
        super().__init__(**kwargs)


class MelClassifier(PreTrainedModel):
    """Computes the emotion logits of 16 kHz waveforms."""

    config_class = MelClassifierConfig
    main_input_name = "input_values"

    def __init__(self, config: MelClassifierConfig) -> None:
        super().__init__(config)
        width = config.hidden_size

        # Window and filters could be computed anew, but are saved in the checkpoint: loading then
        # sets them in whatever way transformers builds the empty model.
        self.register_buffer("window", torch.hann_window(WINDOW_SAMPLES))
        self.register_buffer("filters", mel_filters(config.num_mel_bands))
        self.register_buffer("feature_mean", torch.full((config.num_mel_bands,), -10.0))
        self.register_buffer("feature_std", torch.full((config.num_mel_bands,), 4.0))

        self.subsampling = nn.ModuleList([StridedConvolution(config.num_mel_bands, width)])
        self.subsampling.append(StridedConvolution(width, width))
        self.position = nn.Conv1d(width, width, kernel_size=31, padding=15, groups=width)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout_probability)
        self.head = nn.Linear(2 * width, config.num_labels)

        self.post_init()

    def set_statistics(self, mean_M: Tensor, std_M: Tensor) -> None:
        """Standardize log-mel bands by the mean and standard deviation of the training set.

        Both are saved with the weights.
        """
        # A band that never changes has a deviation of 0, and dividing by 0 is no use.
        self.feature_mean.copy_(mean_M)
        self.feature_std.copy_(std_M.clamp_min(1e-3))

    def log_mel(self, input_values: Tensor) -> Tensor:
        """Log energies [B, T, M] of `input_values` [B, S]; T = (S - 400) // 160 + 1.

        They are float32 whatever the precision of the weights.
        """
        return log_mel(input_values, self.window, self.filters)

    def _init_weights(self, module: nn.Module) -> None:
        """Keep each layer's own initialization; transformers' normal(0, 0.02) suits wider ones."""

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Logits [B, C] of `input_values` [B, S], and the loss when `labels` [B] are given.

        `attention_mask` [B, S] is 0 in the padding.
        """
        if attention_mask is not None:
            input_values = input_values.masked_fill(attention_mask == 0, 0.0)
        features_BTM = (
            self.log_mel(input_values) - self.feature_mean.float()
        ) / self.feature_std.float()

        hidden_BTD, mask_BT = self.encode(features_BTM, num_frames(input_values, attention_mask))
        logits_BC = self.head(self.dropout(masked_mean_and_std(hidden_BTD, mask_BT)))

        loss = None if labels is None else F.cross_entropy(logits_BC, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits_BC)

    def encode(self, features_BTM: Tensor, frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden frames [B, T', D] and their mask [B, T'] of standardized features [B, T, M].

        `frames_B` counts the frames of each utterance that are no padding.
        """
        hidden_BTD = features_BTM.to(self.head.weight.dtype)
        for convolution in self.subsampling:
            hidden_BTD, frames_B = convolution(hidden_BTD, frames_B)

        # The convolution of positions looks 15 frames ahead, so the padding has to be 0 before it.
        mask_BT = frame_mask(frames_B, hidden_BTD.shape[1])
        hidden_BTD = self.dropout(clear_padding(hidden_BTD, mask_BT))
        position_BTD = self.position(hidden_BTD.transpose(1, 2)).transpose(1, 2)
        hidden_BTD = hidden_BTD + F.gelu(position_BTD)

        for layer in self.layers:
            hidden_BTD = layer(hidden_BTD, mask_BT)

        return self.norm(hidden_BTD), mask_BT
