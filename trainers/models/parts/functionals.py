"""Measures an utterance by a fixed number of functionals over time, without weights.

They are means and standard deviations of cepstra (or of face features) and of their slopes.

Shapes: S samples, T frames, D features a frame.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.models.parts.cepstra import Cepstra, slopes

NUM_CEPSTRA = 20
PER_FEATURE = 4  # mean and deviation of a feature, mean and deviation of its slope


class CepstralFunctionals:
    """Measures means and deviations of 20 mel cepstra and their deltas [80]."""

    def __init__(self) -> None:
        self._cepstra = Cepstra(NUM_CEPSTRA)

    def __call__(self, media: Tensor) -> NDArray[np.float32]:
        return over_time(torch.from_numpy(self._cepstra(media[None])[0]))


def over_time(media: Tensor) -> NDArray[np.float32]:
    """Compute means and deviations over time of features [T, D] and of their deltas: [4 D]."""
    frames_TD = media.numpy().astype(np.float64)
    parts = [
        part
        for rows in (frames_TD, slopes(frames_TD))
        for part in (rows.mean(axis=0), rows.std(axis=0))
    ]
    return np.concatenate(parts).astype(np.float32)
