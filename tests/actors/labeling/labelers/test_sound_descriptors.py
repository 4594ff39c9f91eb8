"""The descriptors of sound are right for sounds whose descriptors are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from actors.labeling.labelers.sound_descriptors import NAMES, SoundDescriptors
from shards.media.sound_format import SAMPLE_RATE_HZ

DESCRIBE = SoundDescriptors()


def tone(*frequencies_hz: float, seconds: float = 1.0, size: float = 0.1) -> NDArray[np.float32]:
    time = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    waves = [size * np.sin(2 * np.pi * frequency * time) for frequency in frequencies_hz]
    return np.sum(waves, axis=0).astype(np.float32)


def means(waveform: NDArray[np.float32]) -> dict[str, float]:
    return dict(zip(NAMES, DESCRIBE.means(waveform, voiced_only=True).tolist(), strict=True))


@settings(max_examples=30, deadline=None)
@given(st.floats(70.0, 450.0))
def test_the_pitch_of_a_harmonic_tone_is_its_fundamental(pitch_hz: float) -> None:
    """Within a twentieth of a semitone from 70 to 450 Hz, and in every frame."""
    sound = tone(*(pitch_hz * number for number in range(1, 6)))
    frames_TX, voiced_T = DESCRIBE(sound)

    assert voiced_T.all()
    expected = 12 * np.log2(pitch_hz / 27.5)
    assert frames_TX[:, NAMES.index("pitch_semitones")] == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("ratio_db", [0.0, 10.0, 20.0])
def test_the_harmonics_to_noise_ratio_is_that_of_the_mixture(ratio_db: float) -> None:
    """A tone in white noise of known power gives the ratio of their powers."""
    sound = tone(200.0, seconds=4.0)
    noise = np.random.default_rng(3).standard_normal(len(sound))
    noise *= np.sqrt(np.mean(sound**2) / np.mean(noise**2)) * 10 ** (-ratio_db / 20)

    found = means((sound + noise).astype(np.float32))["harmonics_to_noise_db"]
    assert found == pytest.approx(ratio_db, abs=1.5)


def test_level_crossings_and_centroid_of_a_sine() -> None:
    """A sine of amplitude a has the level of a / sqrt(2) and crosses zero twice a period."""
    found = means(tone(400.0, size=0.1))

    assert found["level_db"] == pytest.approx(20 * np.log10(0.1 / np.sqrt(2)), abs=0.01)
    assert found["zero_crossings_per_second"] == pytest.approx(800, rel=0.02)
    assert found["centroid_hz"] == pytest.approx(400, rel=0.02)
    assert found["rolloff_hz"] == pytest.approx(400, abs=30)
    assert found["bandwidth_hz"] < 40


def test_noise_is_flat_and_a_tone_is_not() -> None:
    """The flatness of white noise is that of its chi-squared spectrum, -2.5 dB."""
    noise = 0.1 * np.random.default_rng(5).standard_normal(4 * SAMPLE_RATE_HZ).astype(np.float32)

    assert means(noise)["flatness_db"] == pytest.approx(-2.51, abs=0.3)
    assert means(noise)["slope_500_1500_db_per_khz"] == pytest.approx(0.0, abs=0.5)
    assert means(tone(400.0))["flatness_db"] < -20


def test_the_alpha_ratio_compares_the_bands_above_and_below_1_khz() -> None:
    """Tones of 500 and 3000 Hz with amplitudes 1 and 1/2 differ by 6 dB."""
    found = means(tone(500.0, size=0.1) + tone(3000.0, size=0.05))

    assert found["alpha_ratio_db"] == pytest.approx(20 * np.log10(0.5), abs=0.1)
    assert found["hammarberg_index_db"] == pytest.approx(20 * np.log10(2), abs=0.1)


def test_long_sound_is_described_as_its_parts_are() -> None:
    """Working in blocks changes no frame but the first, which has no frame before it."""
    long = np.tile(tone(150.0, 300.0, seconds=1.0), 25)
    frames_TX, _ = DESCRIBE(long)
    part_TX, _ = DESCRIBE(long[: 2 * SAMPLE_RATE_HZ])

    np.testing.assert_allclose(frames_TX[1 : len(part_TX)], part_TX[1:], atol=1e-9)


@pytest.mark.parametrize("waveform", [np.zeros(4000), np.full(4000, 0.5), np.ones(1601) * -1])
def test_silence_gives_numbers_and_no_voice(waveform: NDArray[np.float64]) -> None:
    """Digital silence and a constant have no pitch and otherwise finite descriptors."""
    values = DESCRIBE.means(waveform.astype(np.float32), voiced_only=True)

    assert np.isnan(values[:2]).all()
    assert np.isfinite(values[2:]).all()
