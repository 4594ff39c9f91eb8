"""Masked prediction of pseudo-labels, as HuBERT is pre-trained, with or without speaker embeddings.

Without embeddings it is task-adaptive pre-training (TAPT), with them personalized adaptive
pre-training (PAPT; papt-pldc, section 4, Eq. 1). The logits of a hidden frame are the cosines
between its projection and each pseudo-label's embedding, divided by a temperature. The module of
the label embeddings is called, and its weight is never read directly, because ZeRO 3 gathers a
weight only for calls of its module.

Shapes: N utterances, S samples, T frames, C channels of the front end, D width, P width of the
projection, L pseudo-labels, H hidden frames.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.parts.layers import frame_mask
from trainers.models.personal.speaker_embedding import SpeakerEmbedding


@dataclass(frozen=True)  # no slots: ZeRO looks for tensors in __dict__
class MaskedPrediction:
    """What one pass predicts.

    `logits_HL` [H, L] are those of the hidden frames, utterance by utterance. `front_end_square` is
    the mean square of the front end's output over the frames of the utterances, without padding.
    """

    logits_HL: Tensor
    front_end_square: Tensor


class MaskedPredictor(nn.Module):
    """An encoder that predicts the pseudo-labels of frames it cannot hear.

    `front_end_gradient` is the share of the gradient that reaches the convolutions.
    """

    def __init__(
        self,
        encoder: LayerwiseEncoder,
        num_labels: int,
        *,
        projection_size: int,
        temperature: float,
        front_end_gradient: float,
        speakers: SpeakerEmbedding | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.speakers, self._temperature = encoder, speakers, temperature
        self.front_end_gradient = front_end_gradient
        encoder.learn_mask()
        self.project = nn.Linear(encoder.width, projection_size)
        self.labels = nn.Embedding(num_labels, projection_size)
        nn.init.uniform_(self.labels.weight)
        self._front_end_square_NT = torch.zeros(0, 0)
        encoder.front_end.register_forward_hook(self._watch_front_end)

    def forward(
        self,
        samples_NS: Tensor,
        lengths_N: Tensor,
        hide_NT: Tensor,
        speakers_N: Tensor | None = None,
    ) -> MaskedPrediction:
        """Hide the frames where `hide_NT` is true and predict their pseudo-labels.

        With speaker embeddings, `speakers_N` is the number of each utterance's speaker.
        """
        before_layer = None
        if self.speakers is not None and speakers_N is not None:
            before_layer = self.speakers.before_layer(speakers_N)

        frames_NTD, mask_NT = self.encoder(samples_NS, lengths_N, before_layer, hide_NT)
        if self.speakers is not None and speakers_N is not None:
            frames_NTD, mask_NT = self.speakers.after_layers(frames_NTD, mask_NT, speakers_N)

        projected_HP = F.normalize(self.project(frames_NTD[hide_NT]).float(), dim=-1)
        labels_LP = self.labels(
            torch.arange(self.labels.num_embeddings, device=projected_HP.device)
        )
        logits_HL = projected_HP @ F.normalize(labels_LP.float(), dim=-1).T / self._temperature

        # Padding is left out: the penalty of an utterance must not depend on its batchmates.
        square_NT = self._front_end_square_NT
        heard_NT = frame_mask(self.encoder.num_frames(lengths_N), square_NT.shape[1])
        front_end_square = square_NT.masked_fill(~heard_NT, 0.0).sum() / heard_NT.sum()

        return MaskedPrediction(logits_HL, front_end_square)

    @torch.no_grad()
    def take_head(self, weight_PD: Tensor, bias_P: Tensor, labels_LP: Tensor) -> None:
        """Take over a trained projection and label embeddings, which must have the same shapes."""
        self.project.weight.copy_(weight_PD)
        self.project.bias.copy_(bias_P)
        self.labels.weight.copy_(labels_LP)

    def _watch_front_end(self, _: nn.Module, __: Any, output: Any) -> None:
        """Scale the gradient of the front end's output, and keep the mean square of each frame."""
        features = output[0] if isinstance(output, tuple) else output
        share = self.front_end_gradient
        if features.requires_grad and share != 1.0:
            features.register_hook(lambda gradient: share * gradient)

        # Convolutions of transformers give [N, C, T]; the small encoder's give ([N, T, C], frames).
        features_NTC = features if isinstance(output, tuple) else features.transpose(1, 2)
        self._front_end_square_NT = features_NTC.float().square().mean(dim=2)
