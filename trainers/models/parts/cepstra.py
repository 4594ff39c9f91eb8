"""Mel cepstra of a waveform and their slopes over time.

Pseudo-labels and speaker functionals are made of them.

Shapes: N utterances, S samples, T frames, M mel bands, F coefficients.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.signal import savgol_filter
from torch import Tensor

from trainers.models.parts.log_mel import WINDOW_SAMPLES, log_mel, mel_filters

NUM_MEL_BANDS = 40
SLOPE_FRAMES = 5  # a straight line through two frames on either side


class Cepstra:
    """The first `num_coefficients` of the cosine transform of 40 log-mel bands, every 10 ms."""

    def __init__(self, num_coefficients: int) -> None:
        self._num_coefficients = num_coefficients
        self._window, self._filters = torch.hann_window(WINDOW_SAMPLES), mel_filters(NUM_MEL_BANDS)

    def __call__(self, samples_NS: Tensor) -> NDArray[np.float32]:
        """Cepstra [N, T, F] of `samples_NS`, where T = (S - 400) // 160 + 1."""
        bands_NTM = log_mel(samples_NS, self._window, self._filters).numpy()
        found: NDArray[np.float32] = dct(bands_NTM, norm="ortho", axis=-1)[
            ..., : self._num_coefficients
        ]
        return found


def slopes(rows_TF: NDArray[np.floating]) -> NDArray[np.floating]:
    """The slope at every frame [T, F]; the first and last frame are repeated beyond the ends."""
    found: NDArray[np.floating] = savgol_filter(
        rows_TF, SLOPE_FRAMES, polyorder=1, deriv=1, axis=0, mode="nearest"
    )
    return found
