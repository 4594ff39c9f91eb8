"""The Odyssey 2024 challenge baseline for categorical speech emotion, without code from the hub.

`3loi/SER-Odyssey-Baseline-WavLM-Categorical` is the audio labeler of EmoCeleb (setpeer-emoceleb,
section III): WavLM large, attentive statistics pooling (Okabe et al. 2018) and one dense layer. Its
repository loads only with `trust_remote_code`, which this project never enables. The modules below
have the names of its published weights (`ssl_model.*`, `pool_model.*`, `ser_model.*`) and of its
configuration fields (model type `ser`), so the published files load unchanged.

Two things differ from the published code on purpose. This model standardizes the waveform itself,
by the configuration's `mean` and `std`; the published code leaves that to the caller. And pooling
covers exactly the frames that an utterance has. The published code rounds their number up, which
in a batch lets one frame of padding in; for an utterance alone both agree.

Shapes: B batch, S samples, T frames, D width, C classes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, WavLMConfig, WavLMModel
from transformers.modeling_outputs import SequenceClassifierOutput

from trainers.models.parts.pooling import AttentiveStatisticsPooling

WAVLM_LARGE = "microsoft/wavlm-large"


class OdysseyConfig(PretrainedConfig):
    """The fields of the published configuration; `num_classes` equals the size of `id2label`."""

    model_type = "ser"

    def __init__(
        self,
        num_classes: int = 8,
        hidden_size: int = 1024,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 16,
        classifier_hidden_layers: int = 1,
        classifier_dropout_prob: float = 0.5,
        ssl_type: str = WAVLM_LARGE,
        mean: float = 0.0,
        std: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.num_classes = num_classes
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.classifier_hidden_layers = classifier_hidden_layers
        self.classifier_dropout_prob = classifier_dropout_prob
        self.ssl_type = ssl_type
        self.mean = mean
        self.std = std

        kwargs.setdefault("num_labels", num_classes)
        super().__init__(**kwargs)

    def backbone(self) -> WavLMConfig:
        """The published configuration of WavLM large, at this model's sizes.

        Raises ValueError when `ssl_type` names another model.
        """
        if self.ssl_type != WAVLM_LARGE:
            raise ValueError(
                f"ssl_type: got {self.ssl_type!r}, expected {WAVLM_LARGE!r}, which is the only "
                "published backbone"
            )

        return WavLMConfig(
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=4 * self.hidden_size,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            num_buckets=320,
            max_bucket_distance=800,
        )


class OdysseyClassifier(PreTrainedModel):
    """Computes the emotion logits of 16 kHz waveforms."""

    config_class = OdysseyConfig
    main_input_name = "input_values"

    def __init__(self, config: OdysseyConfig) -> None:
        super().__init__(config)
        self.ssl_model = WavLMModel(config.backbone())
        self.pool_model = AttentiveStatisticsPooling(config.hidden_size)
        self.ser_model = _DenseHead(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep each layer's own initialization, because a checkpoint replaces all weights."""

    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Logits [B, C] of `input_values` [B, S]; `attention_mask` [B, S] is 0 in the padding."""
        standardized_BS = (input_values - self.config.mean) / (self.config.std + 1e-6)
        if attention_mask is not None:
            # Standardizing has moved the padding away from 0.
            standardized_BS = standardized_BS.masked_fill(attention_mask == 0, 0.0)

        frames_BTD = self.ssl_model(
            standardized_BS.to(self.dtype), attention_mask=attention_mask
        ).last_hidden_state
        mask_BT = self._frame_mask(frames_BTD, attention_mask)

        return SequenceClassifierOutput(logits=self.ser_model(self.pool_model(frames_BTD, mask_BT)))

    def _frame_mask(self, frames_BTD: Tensor, attention_mask: Tensor | None) -> Tensor:
        if attention_mask is None:
            return torch.ones_like(frames_BTD[..., 0], dtype=torch.bool)

        # Counting through the convolutions, one after another, leaves out every frame that sees
        # padding. The published code divides once and rounds up.
        frames_B = attention_mask.sum(dim=-1).long()
        for kernel, stride in zip(
            self.ssl_model.config.conv_kernel, self.ssl_model.config.conv_stride, strict=True
        ):
            frames_B = (frames_B - kernel) // stride + 1

        return torch.arange(frames_BTD.shape[1], device=frames_B.device) < frames_B.unsqueeze(-1)


class _DenseHead(nn.Module):
    """The head of the published model, whose weights are called `fc` and `out`."""

    def __init__(self, config: OdysseyConfig) -> None:
        super().__init__()
        width, dropout = config.hidden_size, config.classifier_dropout_prob

        self.inp_drop = nn.Dropout(dropout)
        self.fc = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * width if layer == 0 else width, width),
                nn.LayerNorm(width),
                nn.ReLU(),
                nn.Dropout(dropout),
            )
            for layer in range(config.classifier_hidden_layers)
        )
        self.out = nn.Sequential(nn.Linear(width, config.num_classes))

    def forward(self, pooled_BD: Tensor) -> Tensor:
        hidden_BD = self.inp_drop(pooled_BD)
        for layer in self.fc:
            hidden_BD = layer(hidden_BD)
        return self.out(hidden_BD)
