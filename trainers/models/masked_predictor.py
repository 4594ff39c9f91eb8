"""Masked prediction of pseudo-labels, as HuBERT is pre-trained, with or without speaker embeddings.

Without embeddings it is task-adaptive pre-training (TAPT), with them personalized adaptive
pre-training (PAPT; papt-pldc, section 4, Eq. 1). The logits of a hidden frame are the cosines
between its projection and each pseudo-label's embedding, divided by a temperature. The module of
the label embeddings is called, and its weight is never read directly, because ZeRO 3 gathers a
weight only for calls of its module.

Shapes: N utterances, S samples, T frames, D width, P width of the projection, L pseudo-labels, H
hidden frames.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.personal.speaker_embedding import SpeakerEmbedding

FRONT_END_GRADIENT = 0.1  # HuBERT's share of the gradient that reaches the convolutions


@dataclass(frozen=True)  # no slots: ZeRO looks for tensors in __dict__
class MaskedPrediction:
    """What one pass predicts.

    `logits_HL` [H, L] are those of the hidden frames, utterance by utterance, and
    `front_end_square` is the mean square of the front end's output.
    """

    logits_HL: Tensor
    front_end_square: Tensor


class MaskedPredictor(nn.Module):
    """An encoder that predicts the pseudo-labels of frames it cannot hear."""

    def __init__(
        self,
        encoder: LayerwiseEncoder,
        num_labels: int,
        *,
        projection_size: int,
        temperature: float,
        speakers: SpeakerEmbedding | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.speakers, self._temperature = encoder, speakers, temperature
        encoder.learn_mask()
        self.project = nn.Linear(encoder.width, projection_size)
        self.labels = nn.Embedding(num_labels, projection_size)
        nn.init.uniform_(self.labels.weight)
        self._front_end_square = torch.zeros(())
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

        return MaskedPrediction(logits_HL, self._front_end_square)

    def _watch_front_end(self, _: nn.Module, __: Any, output: Any) -> None:
        features = output[0] if isinstance(output, tuple) else output
        if features.requires_grad:
            features.register_hook(lambda gradient: gradient * FRONT_END_GRADIENT)
        self._front_end_square = features.float().square().mean()
