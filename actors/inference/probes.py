"""Inputs on which models are tried when they are loaded.

They are made from a seed, so that every worker measures the same.
"""

import numpy as np

from shards.media.sound_format import SAMPLE_RATE_HZ, Waveform


def probe_waveforms() -> list[Waveform]:
    """Fixed speech-like sounds from a seed: 1 to 3 s, quiet to loud.

    Each is voiced harmonics with syllables, over noise.
    """
    generator = np.random.default_rng(20_240_601)
    waveforms = []

    for seconds, pitch_hz, level in (
        (1.0, 110.0, 0.05),
        (3.0, 220.0, 0.1),
        (2.0, 160.0, 0.3),
        (1.5, 300.0, 0.02),
    ):
        time = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
        phase = 2 * np.pi * pitch_hz * (time + 0.002 * np.sin(2 * np.pi * 5 * time))
        voice = sum(np.sin(number * phase) / number for number in range(1, 20))
        syllables = np.clip(np.sin(2 * np.pi * 4 * time), 0, None)
        noise = generator.normal(0, 0.05, len(time))
        waveforms.append((level * (voice * syllables + noise)).astype(np.float32))

    return waveforms
