"""25 descriptors of sound that need no license: the `builtin` targets of acoustic pre-training.

They take the place of openSMILE's eGeMAPS for those who may not use it, and cover the same ground:
pitch and harmonics-to-noise ratio by the autocorrelation of Boersma (1993), level, spectral shape,
and mel cepstra. Every one is a mean over frames of 40 ms, 10 ms apart.

Rejected: librosa, whose pitch is compiled anew in every new environment (31 s before the first
utterance) or takes a seventh of real time (pYIN); and Praat, whose license a service could not
accept.

Shapes: S samples, T frames, W samples of a frame, F frequencies, X descriptors.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal.windows import hann

from shards.media.sound_format import SAMPLE_RATE_HZ, Waveform
from trainers.models.parts.cepstra import Cepstra

FRAME_SAMPLES, HOP_SAMPLES = 640, 160
MIN_PITCH_HZ, MAX_PITCH_HZ = 60.0, 500.0
_REFERENCE_HZ = 27.5  # of semitones, as in eGeMAPS
_MIN_STRENGTH = 0.45  # of the autocorrelation's peak, as in Praat: below it a frame has no voice
_SILENCE_DB = 30.0  # below the loudest frame, as in Praat (a level of .03): no voice either
_OCTAVE_COST = 0.01  # as in Praat: of equal peaks, the one at the higher pitch is taken
_FLOOR = 1e-8  # -80 dB: below it a recording holds nothing but its own rounding
_NUM_CEPSTRA = 12
_FRAMES_PER_BLOCK = 2048
_VOICED_NAMES = ("pitch_semitones", "harmonics_to_noise_db")
NAMES = (
    *_VOICED_NAMES,
    "level_db",
    "zero_crossings_per_second",
    "centroid_hz",
    "bandwidth_hz",
    "rolloff_hz",
    "flatness_db",
    "flux",
    "alpha_ratio_db",
    "hammarberg_index_db",
    "slope_0_500_db_per_khz",
    "slope_500_1500_db_per_khz",
    *(f"cepstrum_{number}" for number in range(1, _NUM_CEPSTRA + 1)),
)
LEVEL_NAME = "level_db"

_LENGTH = next_fast_len(2 * FRAME_SAMPLES, real=True)
_FREQUENCIES_HZ = np.fft.rfftfreq(_LENGTH, 1 / SAMPLE_RATE_HZ)
_WINDOW = hann(FRAME_SAMPLES, sym=False)
_LAGS = np.arange(int(SAMPLE_RATE_HZ / MAX_PITCH_HZ), int(SAMPLE_RATE_HZ / MIN_PITCH_HZ) + 1)


class SoundDescriptors:
    """Measures a waveform; cheap to make."""

    def __init__(self) -> None:
        self._cepstra = Cepstra(_NUM_CEPSTRA + 1)

    def __call__(self, waveform: Waveform) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The descriptors of every frame [T, 13], in the order of NAMES, and which have a voice.

        Where no voice is, pitch and harmonics-to-noise ratio are 0. `waveform` has a frame at
        least.
        """
        samples = waveform.astype(np.float64)
        frames_TW = np.lib.stride_tricks.sliding_window_view(samples, FRAME_SAMPLES)[::HOP_SAMPLES]

        # Blocks bound the memory: an hour of sound has 360,000 frames of 640 numbers.
        blocks = [
            _describe(frames_TW[start : start + _FRAMES_PER_BLOCK])
            for start in range(0, len(frames_TW), _FRAMES_PER_BLOCK)
        ]
        spectral_TX = np.concatenate([spectral for spectral, _ in blocks])
        pitch_T, strength_T = np.concatenate([pitch for _, pitch in blocks]).T

        level_T = spectral_TX[:, 0]
        voiced_T = (strength_T >= _MIN_STRENGTH) & (level_T > level_T.max() - _SILENCE_DB)
        voice_TX = np.where(
            voiced_T[:, None], np.stack([_semitones(pitch_T), _ratio_db(strength_T)], axis=1), 0.0
        )
        return np.concatenate([voice_TX, spectral_TX], axis=1), voiced_T

    def means(self, waveform: Waveform, *, voiced_only: bool) -> NDArray[np.float64]:
        """The mean of every descriptor [25].

        Pitch and harmonics-to-noise ratio are averaged over frames with a voice, NaN where there is
        none; with `voiced_only` off, over all frames, where the others count as 0.
        """
        frames_TX, voiced_T = self(waveform)
        means_X = frames_TX.mean(axis=0)

        if voiced_only:
            num_voiced, num_values = voiced_T.sum(), len(_VOICED_NAMES)
            sums_X = frames_TX[:, :num_values].sum(axis=0)
            means_X[:num_values] = sums_X / num_voiced if num_voiced else np.nan

        cepstra_TX = self._cepstra(torch.from_numpy(waveform.copy())[None])[0]
        return np.concatenate([means_X, cepstra_TX[:, 1:].mean(axis=0, dtype=np.float64)])


def _describe(frames_TW: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Level and spectral shape [T, 11], and pitch in Hz with its strength [T, 2]."""
    centered_TW = frames_TW - frames_TW.mean(axis=1, keepdims=True)
    spectrum_TF = rfft(centered_TW * _WINDOW, _LENGTH, axis=1)
    power_TF = np.square(np.abs(spectrum_TF)) + _FLOOR

    level_T = 10.0 * np.log10(np.square(centered_TW).mean(axis=1) + _FLOOR)
    crossings_T = (np.diff(np.signbit(centered_TW), axis=1)).mean(axis=1) * SAMPLE_RATE_HZ

    shape = np.column_stack([level_T, crossings_T, *_moments(power_TF), *_balances(power_TF)])
    return shape, _pitch(power_TF)


def _moments(power_TF: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Centroid, bandwidth, roll-off (85 %), flatness and flux of each frame's power spectrum."""
    share_TF = power_TF / power_TF.sum(axis=1, keepdims=True)
    centroid_T = share_TF @ _FREQUENCIES_HZ
    variance_T = share_TF @ np.square(_FREQUENCIES_HZ) - np.square(centroid_T)
    rolloff_T = _FREQUENCIES_HZ[(share_TF.cumsum(axis=1) < 0.85).sum(axis=1)]

    logs_TF = 10.0 * np.log10(power_TF)
    flatness_T = logs_TF.mean(axis=1) - 10.0 * np.log10(power_TF.mean(axis=1))
    # Of spectra that sum to 1, so that flux says how the sound changes and not how loud it is.
    flux_T = np.abs(np.diff(share_TF, axis=0, prepend=share_TF[:1])).sum(axis=1)

    bandwidth_T = np.sqrt(np.maximum(variance_T, 0.0))
    return [centroid_T, bandwidth_T, rolloff_T, flatness_T, flux_T]


def _balances(power_TF: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Alpha ratio, Hammarberg index and two slopes, as eGeMAPS has them (Eyben et al. 2016).

    The alpha ratio is that of the high band to the low one, which is what openSMILE computes.
    """
    logs_TF = 10.0 * np.log10(power_TF)
    alpha_T = 10.0 * np.log10(
        power_TF[:, _band(1000, 5000)].sum(axis=1) / power_TF[:, _band(50, 1000)].sum(axis=1)
    )
    hammarberg_T = logs_TF[:, _band(0, 2000)].max(axis=1) - logs_TF[:, _band(2000, 5000)].max(
        axis=1
    )

    slopes = []
    for low_hz, high_hz in ((0, 500), (500, 1500)):
        band = _band(low_hz, high_hz)
        slopes.append(np.polyfit(_FREQUENCIES_HZ[band] / 1000.0, logs_TF[:, band].T, 1)[0])

    return [alpha_T, hammarberg_T, *slopes]


def _pitch(power_TF: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pitch in Hz and strength of each frame [T, 2]: the autocorrelation's peak (Boersma 1993)."""
    correlation = irfft(power_TF, _LENGTH, axis=1)[:, : _LAGS[-1] + 2]
    of_window = irfft(np.square(np.abs(rfft(_WINDOW, _LENGTH))), _LENGTH)[: _LAGS[-1] + 2]
    # Divided by that of the window, the autocorrelation of a periodic sound comes back to 1.
    normal = correlation / correlation[:, :1] / (of_window / of_window[0])

    before, here, after = (normal[:, _LAGS + step] for step in (-1, 0, 1))
    is_peak = (here > before) & (here >= after)
    # A parabola through each peak and its neighbors. Peaks are compared at its top: at a whole lag,
    # the peak of the octave below may lie nearer to a sample, and look higher.
    curve = before - 2.0 * here + after
    shift = np.divide(0.5 * (before - after), curve, out=np.zeros_like(here), where=is_peak)
    top = np.where(is_peak, here - 0.25 * (before - after) * shift, 0.0)

    best = (top - _OCTAVE_COST * np.log2(_LAGS / _LAGS[0])).argmax(axis=1)
    rows = np.arange(len(best))
    lag, strength = _LAGS[best] + shift[rows, best], top[rows, best]

    return np.column_stack([SAMPLE_RATE_HZ / lag, strength])


def _semitones(pitch_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    return 12.0 * np.log2(pitch_hz / _REFERENCE_HZ)


def _ratio_db(strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Harmonics-to-noise ratio of an autocorrelation peak, at most 60 dB (Boersma 1993, Eq. 4)."""
    share = np.clip(strength, 1e-6, 1.0 - 1e-6)
    return 10.0 * np.log10(share / (1.0 - share))


def _band(low_hz: float, high_hz: float) -> slice:
    start, stop = np.searchsorted(_FREQUENCIES_HZ, (low_hz, high_hz))
    return slice(int(start), int(stop))
