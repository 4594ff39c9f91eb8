"""The adapter of SEW, whose transformer layers see two frames as one.

What SEW puts out has all frames again; a last odd one is zero there, as in transformers. A frame
that is half padding is no frame of a layer, so that an utterance is the same alone and in a batch.

A prefix before each layer is one more position there, and is cut off behind it. A prefix that
stays through all layers cannot be: it would be unsqueezed into frames.

Shapes: N utterances, T frames, D width.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from shards.config import ConfigError
from trainers.models.encoders.seams import BeforeLayer, LayerInput, attention_bias, seams
from trainers.models.encoders.speech.waveform import WaveformAdapter, receptive_field
from trainers.models.parts.layers import clear_padding, frame_mask


class SqueezedAdapter(WaveformAdapter):
    """SEW."""

    @property
    def projected(self) -> nn.Module:
        found: nn.Module = self.model.feature_dropout
        return found

    def at_frame_rate(self, state_NTD: Tensor, num_frames: int) -> Tensor:
        repeated_NTD = state_NTD.repeat_interleave(self._factor, dim=1)
        missing = num_frames - repeated_NTD.shape[1]
        return torch.cat([repeated_NTD, repeated_NTD[:, -1:].expand(-1, missing, -1)], dim=1)

    @property
    def _factor(self) -> int:
        return int(self.model.config.squeeze_factor)

    @property
    def _shortest(self) -> int:
        return receptive_field(self.model.config) + (self._factor - 1) * self.hop_samples

    def _seams(
        self, before_layer: BeforeLayer | None, mask_NT: Tensor
    ) -> AbstractContextManager[list[Tensor]]:
        return seams(self.layers, before_layer, self._squeezed(mask_NT), _masked)

    def _finished(
        self, last_NTD: Tensor, mask_NT: Tensor, layers_mask_NT: Tensor
    ) -> tuple[Tensor, Tensor]:
        squeezed_NT = self._squeezed(mask_NT)
        if layers_mask_NT.shape != squeezed_NT.shape:
            raise ConfigError(
                "encoder.checkpoint: got a sew model for a prefix that stays through all layers, "
                "as model.fusion=prefix of papt has it; SEW squeezes its frames and cannot tell "
                "the prefix from them afterwards. It works with finetune, setpeer, weighting and "
                "tapt, and with papt by model.fusion=last or first"
            )

        whole_N = squeezed_NT.sum(dim=1) * self._factor
        return clear_padding(last_NTD, frame_mask(whole_N, last_NTD.shape[1])), mask_NT

    def _squeezed(self, mask_NT: Tensor) -> Tensor:
        length = mask_NT.shape[1] // self._factor
        return frame_mask(mask_NT.sum(dim=1) // self._factor, length)


def _masked(named: dict[str, Any], seen: LayerInput) -> dict[str, Any]:
    """Give a layer its mask also where transformers left one out.

    It does so when no frame is all padding, although one may be half padding.
    """
    return named | {"attention_mask": attention_bias(seen.mask_NT, seen.hidden_NTD.dtype)}
