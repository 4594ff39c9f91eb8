"""The frame features that k-means clusters into pseudo-labels.

They are MFCCs or the output of an encoder's layer. MFCCs are HuBERT's first iteration (13
coefficients with their first and second differences, every 10 ms). The features of a middle layer
are its second (layer 9 of HuBERT base, for the published quantizer).

Shapes: N utterances, S samples, T frames, F features, D width.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.config import ConfigError
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.parts.cepstra import Cepstra, slopes
from trainers.models.parts.layers import frame_mask
from trainers.models.parts.log_mel import HOP_SAMPLES, num_frames

NUM_COEFFICIENTS = 13


class FrameFeatures(Protocol):
    """Turns waveforms into features, one row every `hop_samples`."""

    hop_samples: int

    def __call__(self, samples_NS: Tensor, lengths_N: Tensor) -> Sequence[NDArray[np.float32]]:
        """Features [T, F] of each utterance, without its padding."""


class Mfcc:
    """13 cepstral coefficients of 40 log-mel bands with their first and second differences.

    They are 39 numbers every 10 ms.
    """

    hop_samples = HOP_SAMPLES

    def __init__(self) -> None:
        self._cepstra = Cepstra(NUM_COEFFICIENTS)

    def __call__(self, samples_NS: Tensor, lengths_N: Tensor) -> Sequence[NDArray[np.float32]]:
        """Compute the features [T, 39] of each utterance."""
        valid_NS = frame_mask(lengths_N, samples_NS.shape[1])
        cepstra_NTF = self._cepstra(samples_NS.masked_fill(~valid_NS, 0.0))
        lengths = num_frames(samples_NS, valid_NS).tolist()
        return [
            _with_slopes(row[:length]) for row, length in zip(cepstra_NTF, lengths, strict=True)
        ]


class LayerFeatures:
    """The output of transformer layer number `layer` (from 1) of a frozen encoder."""

    def __init__(self, encoder: LayerwiseEncoder, layer: int) -> None:
        if not 1 <= layer <= len(encoder.layers):
            raise ConfigError(
                f"label_layer: got {layer}, expected 1 to {len(encoder.layers)}, the encoder's "
                "layers"
            )
        self._encoder, self._layer = encoder.eval(), layer
        self.hop_samples = encoder.hop_samples

    @torch.inference_mode()
    def __call__(self, samples_NS: Tensor, lengths_N: Tensor) -> Sequence[NDArray[np.float32]]:
        """Compute the features [T, D] of each utterance."""
        device = next(self._encoder.parameters()).device
        states, mask_NT = self._encoder.hidden_states(samples_NS.to(device), lengths_N.to(device))
        found_NTD = states[self._layer].float().cpu().numpy()

        return [
            row[:length] for row, length in zip(found_NTD, mask_NT.sum(dim=1).tolist(), strict=True)
        ]


def _with_slopes(cepstra_TF: NDArray[np.float32]) -> NDArray[np.float32]:
    first = slopes(cepstra_TF)
    return np.concatenate([cepstra_TF, first, slopes(first)], axis=1).astype(np.float32)
