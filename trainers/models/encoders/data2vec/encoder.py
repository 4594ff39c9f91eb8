"""The encoders data2vec and data2vec 2.0, with or without emotion2vec's extra tokens.

transformers has data2vec 1 only. Both are written here as one model with three switches, because
they differ in no more: whether attention falls off with distance, whether hidden frames leave, and
how they are predicted. A test holds data2vec to transformers' own.

Shapes: N utterances, S samples, T frames, D width, C classes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from trainers.models.encoders.data2vec.body import Body
from trainers.models.encoders.data2vec.configuration import Data2VecConfig
from trainers.models.encoders.data2vec.front_end import make_front_end
from trainers.models.encoders.seams import BeforeLayer
from trainers.models.parts.layers import frame_mask
from trainers.models.parts.pooling import masked_mean


class Data2VecEncoder(PreTrainedModel):
    """Computes frames [N, T, D] of waveforms [N, S], without the extra tokens.

    Waveforms are expected as `config.normalize` says; `LayerwiseEncoder` sees to that.
    """

    config_class = Data2VecConfig
    base_model_prefix = "encoder"  # under which a classifier's checkpoint has its weights
    main_input_name = "inputs"

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        self.front_end = make_front_end(config)
        self.body = Body(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep each part's own initialization."""

    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor,
        before_layer: BeforeLayer | None = None,
        hide_NT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute frames [N, T, D] and their mask [N, T].

        `before_layer` may change what each layer sees. Frames where `hide_NT` is true are hidden
        from the layers, but stay in the output.
        """
        frames_NTD = self.front_end(inputs, lengths)
        mask_NT = frame_mask(self.front_end.num_frames(lengths), frames_NTD.shape[1])
        found = self.body(frames_NTD, mask_NT, hide_NT, before_layer)
        return found.frames_NTD, found.mask_NT


class Data2VecForAudioClassification(PreTrainedModel):
    """The encoder with a projection of each frame, their mean, and a classifier.

    It is called as transformers' audio classifiers are, with waveforms that its
    `preprocessor_config.json` describes.
    """

    config_class = Data2VecConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        size = getattr(config, "classifier_proj_size", config.hidden_size)
        self.encoder = Data2VecEncoder(config)
        self.projector = nn.Linear(config.hidden_size, size)
        self.classifier = nn.Linear(size, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep each part's own initialization."""

    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Logits [N, C] of `input_values` [N, S]; `attention_mask` [N, S] is 0 in the padding."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_values, dtype=torch.long)

        lengths_N = attention_mask.sum(dim=1)
        samples_NS = F.pad(input_values, (0, 1))[:, : int(lengths_N.max())]
        pooled_ND = masked_mean(*self.encoder(samples_NS, lengths_N))
        # The mean of projected frames is the projection of their mean.
        return SequenceClassifierOutput(logits=self.classifier(self.projector(pooled_ND)))
