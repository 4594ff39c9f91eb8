"""A small classifier of visual features that are computed beforehand (`face.npy`).

It is the vision teacher of the embedded corpus. Features such as facial action units are expressive
already, so the classifier learns only which features matter and how they move. Each frame goes
through an MLP, the frames are pooled to their mean and standard deviation, and a linear layer
decides. A recurrent or attention layer over time was left out: pooling cannot depend on padding,
and a few hundred speakers are too few to train a larger model.

Shapes: B batch, T frames, D features, H hidden, C classes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from trainers.models.parts.pooling import masked_mean_and_std


class FaceSequenceConfig(PretrainedConfig):
    """Sizes of the classifier; `feature_size` is D, the number of features of a frame.

    `num_labels`, `id2label` and `label2id` are those of every transformers configuration.
    """

    model_type = "emostream_face_sequence"

    def __init__(
        self,
        feature_size: int = 32,
        hidden_size: int = 64,
        dropout_probability: float = 0.1,
        **kwargs: Any,
    ) -> None:
        self.feature_size = feature_size
        self.hidden_size = hidden_size
        self.dropout_probability = dropout_probability
        super().__init__(**kwargs)


class FaceSequenceClassifier(PreTrainedModel):
    """Computes emotion logits from the features of a face over time.

    Frames where `attention_mask` is 0 have no influence.
    """

    config_class = FaceSequenceConfig
    main_input_name = "face_features"

    def __init__(self, config: FaceSequenceConfig) -> None:
        super().__init__(config)
        self.register_buffer("feature_mean", torch.zeros(config.feature_size))
        self.register_buffer("feature_std", torch.ones(config.feature_size))

        self.frame_layers = nn.Sequential(
            nn.Linear(config.feature_size, config.hidden_size),
            nn.GELU(),
            nn.Dropout(config.dropout_probability),
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.GELU(),
        )
        self.head = nn.Sequential(
            nn.LayerNorm(2 * config.hidden_size),
            nn.Dropout(config.dropout_probability),
            nn.Linear(2 * config.hidden_size, config.num_labels),
        )

        self.post_init()

    def set_statistics(self, mean_D: Tensor, std_D: Tensor) -> None:
        """Standardize features by the mean and standard deviation of the training set.

        Both are saved with the weights.
        """
        # A feature that never changes has a deviation of 0, and dividing by 0 is no use.
        self.feature_mean.copy_(mean_D)
        self.feature_std.copy_(std_D.clamp_min(1e-3))

    def _init_weights(self, module: nn.Module) -> None:
        """Keep each layer's own initialization; transformers' normal(0, 0.02) suits wider ones."""

    def forward(
        self,
        face_features: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Logits [B, C] of `face_features` [B, T, D], and the loss when `labels` [B] are given.

        `attention_mask` [B, T] is 0 in the padding.
        """
        mask_BT = (
            torch.ones_like(face_features[..., 0]) if attention_mask is None else attention_mask
        )
        features_BTD = (face_features - self.feature_mean) / self.feature_std

        hidden_BTH = self.frame_layers(features_BTD.to(self.head[-1].weight.dtype))
        logits_BC = self.head(masked_mean_and_std(hidden_BTH, mask_BT))

        loss = None if labels is None else nn.functional.cross_entropy(logits_BC, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits_BC)
