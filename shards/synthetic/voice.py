"""Synthetic voices: a source-filter synthesizer turns voice cues into a waveform.

A glottal pulse train follows a pitch contour, breath noise rides on it, a formant filter per
syllable gives it vowels and the length of a vocal tract, and a syllable rhythm shapes it. Emotion
reaches the sound only through the seven cues below, whose directions follow the literature on vocal
expression (Juslin and Laukka 2003). It babbles; it does not speak the transcript. One
utterance takes about 2 ms.

Rejected: sums of harmonics (80 sines a sample at 100 Hz, ten times the cost of a pulse train),
recorded speech (a license, and no truth), and a raw noise-plus-tone signal (a log-mel encoder
learns it, a speech model does not).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter, sosfilt

from shards.media.sound_format import SAMPLE_RATE_HZ

VOICE_CUES = ("pitch", "pitch_range", "energy", "rate", "effort", "breath", "rise")
NUM_VOICE_CUES = len(VOICE_CUES)

SHOWN_BY_VOICE: NDArray[np.float64] = np.array(
    # pitch, range, energy, rate, effort, breath, rise
    [
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],  # neutral
        [0.5, 0.5, 1.4, 0.6, 1.3, -0.6, -0.6],  # anger
        [-0.6, -0.3, -0.2, -0.9, 0.4, 0.7, -0.5],  # disgust
        [1.3, -0.7, -0.3, 1.1, -0.3, 0.8, 0.2],  # fear
        [1.1, 1.2, 0.7, 0.4, 0.3, -0.2, 0.3],  # happiness
        [-0.9, -1.0, -1.2, -0.9, -1.0, 1.0, -0.4],  # sadness
        [1.2, 0.9, 0.1, -0.5, -0.2, 0.5, 1.5],  # surprise
    ]
)
"""[emotion, cue], relative to the speaker's habit and in cue units."""

_SEMITONES_PER_CUE = 2.0
_CUE_LIMIT = 4.0
_CONTROL_RATE_HZ = 200
VOWEL_FORMANTS_HZ: NDArray[np.float64] = np.array(
    # Peterson and Barney 1952, men: i, e, a, o, u; the fourth formant is held.
    [
        [270, 2290, 3010, 3700],
        [530, 1840, 2480, 3600],
        [730, 1090, 2440, 3500],
        [570, 840, 2410, 3400],
        [300, 870, 2240, 3400],
    ],
    dtype=np.float64,
)
_FORMANT_BANDWIDTHS_HZ = np.array([60.0, 90.0, 130.0, 190.0])
_OPEN_PHASE, _CLOSED_FROM = 0.4, 0.58


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """What does not change with emotion: where the pitch lies, and how long the vocal tract is."""

    f0_center_hz: float
    tract_scale: float

    def f0_hz(self, pitch_cue: float) -> float:
        """The mean pitch at a level of the pitch cue."""
        return float(
            self.f0_center_hz
            * 2.0 ** (_SEMITONES_PER_CUE * np.clip(pitch_cue, -_CUE_LIMIT, _CUE_LIMIT) / 12.0)
        )


def synthesize(
    voice: Voice,
    cues: NDArray[np.float64],
    duration_seconds: float,
    signal_to_noise_db: float,
    rng: np.random.Generator,
    vowels_hz: NDArray[np.float64] = VOWEL_FORMANTS_HZ,
) -> NDArray[np.float32]:
    """A mono waveform `[num_samples]` at 16 kHz, within -1 to 1.

    Its level carries the energy cue; `vowels_hz` [vowel, formant] are those of the language.
    """
    pitch, pitch_range, energy, rate, effort, breath, rise = np.clip(cues, -_CUE_LIMIT, _CUE_LIMIT)
    num_samples = round(duration_seconds * SAMPLE_RATE_HZ)

    bounds = _syllable_bounds(num_samples, 4.2 * 2.0 ** (0.3 * rate), rng)
    f0 = _pitch_contour(voice.f0_hz(pitch), pitch_range, rise, num_samples, rng)
    pulses = _glottal_pulses(f0)
    aspiration = rng.standard_normal(num_samples) * 0.03 * 2.0**breath * (0.3 + np.abs(pulses))
    source = _tilt(pulses + aspiration, effort)
    speech = _articulate(source, bounds, vowels_hz * voice.tract_scale, rng)

    rms = 10.0 ** ((-27.0 + 3.5 * energy) / 20.0)
    speech *= rms / np.sqrt(np.mean(speech**2))

    noise = rng.standard_normal(num_samples) * 10.0 ** ((-27.0 - signal_to_noise_db) / 20.0)

    return np.clip(speech + noise, -0.99, 0.99).astype(np.float32)


def _syllable_bounds(
    num_samples: int, syllables_per_second: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Sample positions `[num_syllables + 1]` of syllables that cover the utterance.

    Syllables are of uneven length.
    """
    num_syllables = max(2, round(syllables_per_second * num_samples / SAMPLE_RATE_HZ))
    lengths = rng.uniform(0.7, 1.3, num_syllables)
    ends = np.cumsum(lengths) / lengths.sum() * num_samples
    return np.concatenate([[0], np.round(ends)]).astype(np.int64)


def _pitch_contour(
    f0_hz: float, pitch_range: float, rise: float, num_samples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Pitch in Hz for every sample.

    The pitch has slow accents, falls or rises toward the end, and jitters from cycle to cycle.
    """
    num_points = num_samples * _CONTROL_RATE_HZ // SAMPLE_RATE_HZ + 2
    seconds = np.arange(num_points) / _CONTROL_RATE_HZ
    position = seconds / seconds[-1]

    rates_hz, sizes = np.array([[0.9], [2.1], [3.7]]), np.array([0.6, 1.0, 0.5])
    accents = sizes @ np.sin(2.0 * np.pi * (rates_hz * seconds + rng.random((3, 1))))
    accents = (accents - accents.mean()) / accents.std()
    ending = np.clip((position - 0.6) / 0.4, 0.0, 1.0)

    semitones = 1.1 * 2.0 ** (0.7 * pitch_range) * accents + (1.8 * rise - 1.0) * ending
    semitones += 0.15 * rng.standard_normal(num_points)
    contour = f0_hz * 2.0 ** ((semitones - np.median(semitones)) / 12.0)

    return np.interp(
        np.arange(num_samples) * (_CONTROL_RATE_HZ / SAMPLE_RATE_HZ), np.arange(num_points), contour
    )


def _glottal_pulses(f0_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """The derivative of a glottal flow along a pitch contour, 1 at its steepest.

    The flow is trigonometric (Rosenberg 1971).
    """
    phase = np.cumsum(f0_hz / SAMPLE_RATE_HZ) % 1.0
    opening = 0.5 * (1.0 - np.cos(np.pi / _OPEN_PHASE * phase))
    closing = np.cos(0.5 * np.pi / (_CLOSED_FROM - _OPEN_PHASE) * (phase - _OPEN_PHASE))
    flow = np.where(phase < _OPEN_PHASE, opening, np.where(phase < _CLOSED_FROM, closing, 0.0))
    steepness = np.diff(flow, prepend=0.0)
    return steepness / np.abs(steepness).max()


def _tilt(source: NDArray[np.float64], effort: float) -> NDArray[np.float64]:
    """Vocal effort as spectral tilt.

    A relaxed voice loses its high harmonics, a pressed voice keeps them.
    """
    pole = 1.0 / (1.0 + np.exp(0.2 + 0.9 * effort))
    tilted: NDArray[np.float64] = lfilter([1.0 - pole], [1.0, -pole], source)
    return tilted


def _articulate(
    source: NDArray[np.float64],
    bounds: NDArray[np.int64],
    vowels_hz: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """A vowel for every syllable, under an envelope that opens and closes.

    Now and then a hiss comes before the vowel.
    """
    speech = np.empty_like(source)
    vowels = rng.integers(len(vowels_hz), size=len(bounds) - 1)
    hisses = rng.random(len(vowels)) < 0.4

    for start, stop, vowel, hiss in zip(bounds[:-1], bounds[1:], vowels, hisses, strict=True):
        position = (np.arange(stop - start) + 0.5) / (stop - start)
        envelope = np.sin(np.pi * position) ** 0.6
        syllable = sosfilt(_formant_filter(vowels_hz[vowel]), source[start:stop]) * envelope

        if hiss:
            burst = np.diff(rng.standard_normal(stop - start), prepend=0.0) * np.clip(
                1.0 - position / 0.25, 0.0, 1.0
            )
            syllable += 0.1 * np.sqrt(np.mean(syllable**2)) * burst

        speech[start:stop] = syllable

    return speech


def _formant_filter(formants_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two-pole resonators in cascade, as second-order sections.

    Each has unit gain at 0 Hz (Klatt 1980).
    """
    radius = np.exp(-np.pi * _FORMANT_BANDWIDTHS_HZ / SAMPLE_RATE_HZ)
    first = -2.0 * radius * np.cos(2.0 * np.pi * formants_hz / SAMPLE_RATE_HZ)
    second = radius**2
    zeros, ones = np.zeros_like(radius), np.ones_like(radius)
    return np.stack([1.0 + first + second, zeros, zeros, ones, first, second], axis=1)
