"""Speaker vectors for benchmarks, like those of encoders.

They are drawn around many centers, with a spectrum that falls. Independent normal numbers would be
the hardest case for any index but an exact one, and no encoder makes such vectors.
"""

import numpy as np
from numpy.typing import NDArray

from shards.speakers.files import write_speakers
from shards.speakers.table import SpeakerTable

WIDTH = 192
FINGERPRINT = "benchmark:1"
NUM_CENTERS, CENTER_SEED = 2000, 1
OWN_SHARE = 0.7  # of the spread of centers
BLOCK = 100_000


def make_vectors(number: int, seed: int) -> NDArray[np.float32]:
    """Make vectors [number, 192], float32."""
    scale = (np.arange(1, WIDTH + 1) ** -0.5).astype(np.float32)
    centers = np.random.default_rng(CENTER_SEED).standard_normal(
        (NUM_CENTERS, WIDTH), dtype=np.float32
    )

    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, number, BLOCK):
        rows = min(BLOCK, number - start)
        own = rng.standard_normal((rows, WIDTH), dtype=np.float32)
        parts.append((centers[rng.integers(0, NUM_CENTERS, rows)] + OWN_SHARE * own) * scale)

    return np.concatenate(parts)


def write_table(url: str, number: int) -> None:
    """Write a table of `number` speakers with two label dimensions."""
    rng = np.random.default_rng(2)
    table = SpeakerTable(
        speakers=[f"speaker-{row:07d}" for row in range(number)],
        vectors=make_vectors(number, 3),
        num_utterances=np.full(number, 30),
        dimensions=("arousal", "valence"),
        label_mean=rng.random((number, 2)),
        label_std=rng.random((number, 2)),
        label_count=np.full((number, 2), 30),
        metadata=[{}] * number,
        encoder="benchmark",
        fingerprint=FINGERPRINT,
    )

    write_speakers(url, table)
