"""What k-means clusters into pseudo-labels: MFCCs, or what a layer of an encoder makes of the sound.

MFCCs are HuBERT's first iteration (13 coefficients with their first and second differences, every 10 ms); the features
of a middle layer are its second (layer 9 of HuBERT base, for the published quantiser).

Shapes: N utterances, S samples, T frames, F features, D width.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.signal import savgol_filter
from torch import Tensor

from shards.config import ConfigError
from trainers.models.encoder import LayerwiseEncoder
from trainers.models.mel import HOP_SAMPLES, WINDOW_SAMPLES, frame_mask, log_mel, mel_filters, num_frames
from trainers.models.sequence_encoder import LayerInput

NUM_MEL_BANDS = 40
NUM_COEFFICIENTS = 13
DELTA_FRAMES = 5  # the regression runs over two frames on either side


class FrameFeatures(Protocol):
    """Turns waveforms into features, one row every `hop_samples`."""

    hop_samples: int

    def __call__(self, samples_NS: Tensor, lengths_N: Tensor) -> Sequence[NDArray[np.float32]]:
        """Features [T, F] of each utterance, without its padding."""


class Mfcc:
    """13 cepstral coefficients of 40 log-mel bands with their first and second differences: 39 numbers every 10 ms."""

    hop_samples = HOP_SAMPLES

    def __init__(self) -> None:
        self._window, self._filters = torch.hann_window(WINDOW_SAMPLES), mel_filters(NUM_MEL_BANDS)

    def __call__(self, samples_NS: Tensor, lengths_N: Tensor) -> Sequence[NDArray[np.float32]]:
        """[T, 39] of each utterance."""
        valid_NS = frame_mask(lengths_N, samples_NS.shape[1])
        bands = log_mel(samples_NS.masked_fill(~valid_NS, 0.0), self._window, self._filters).numpy()
        lengths = num_frames(samples_NS, valid_NS).tolist()
        return [_with_differences(row[:length]) for row, length in zip(bands, lengths, strict=True)]


class LayerFeatures:
    """The output of transformer layer number `layer` (from 1) of a frozen encoder."""

    def __init__(self, encoder: LayerwiseEncoder, layer: int) -> None:
        if not 1 <= layer <= len(encoder.layers):
            raise ConfigError(f"label_layer: got {layer}, expected 1 to {len(encoder.layers)}, the encoder's layers")
        self._encoder, self._layer = encoder.eval(), layer
        self.hop_samples = encoder.hop_samples

    @torch.inference_mode()
    def __call__(self, samples_NS: Tensor, lengths_N: Tensor) -> Sequence[NDArray[np.float32]]:
        """[T, D] of each utterance."""
        seen: dict[int, Tensor] = {}

        def keep(number: int, hidden_NTD: Tensor, mask_NT: Tensor) -> LayerInput:
            seen[number] = hidden_NTD
            return LayerInput(hidden_NTD, mask_NT)

        device = next(self._encoder.parameters()).device
        last_NTD, mask_NT = self._encoder(samples_NS.to(device), lengths_N.to(device), keep)
        found_NTD = seen.get(self._layer, last_NTD).float().cpu().numpy()
        return [row[:length] for row, length in zip(found_NTD, mask_NT.sum(dim=1).tolist(), strict=True)]


def _with_differences(bands: NDArray[np.float32]) -> NDArray[np.float32]:
    cepstra = dct(bands, type=2, norm="ortho", axis=1)[:, :NUM_COEFFICIENTS]
    first = _differences(cepstra)
    return np.concatenate([cepstra, first, _differences(first)], axis=1).astype(np.float32)


def _differences(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The slope of a straight line through five frames; the first and last frame are repeated beyond the ends."""
    slopes: NDArray[np.float32] = savgol_filter(rows, DELTA_FRAMES, polyorder=1, deriv=1, axis=0, mode="nearest")
    return slopes
