"""Draws which frames are hidden from an encoder that is to predict them.

Hidden frames come in spans, as wav2vec 2.0 and HuBERT draw them. transformers'
`_compute_mask_indices` draws the same spans, but from numpy's global generator, which no seed or
resume of ours reaches. A test compares the two.

Shapes: N utterances, T frames.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def span_mask(
    num_frames: Sequence[int],
    *,
    probability: float,
    span_length: int,
    min_spans: int,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Draw a mask [N, T] that is true where a frame is hidden; T is the largest of `num_frames`.

    Each utterance gets about `probability * frames / span_length` spans, at least `min_spans`, at
    distinct random places. Spans may overlap: 0.8 and 10 hide about 57 % (HuBERT's setting). An
    utterance shorter than a span gets none.
    """
    longest = max(num_frames)
    mask = np.zeros((len(num_frames), longest), dtype=bool)
    # Why one draw for the whole batch: a share of a span is rounded up as often as it is large.
    rounding = rng.random()

    for row, length in zip(mask, num_frames, strict=True):
        num_starts = max(0, length - span_length + 1)
        wanted = max(int(probability * length / span_length + rounding), min_spans)
        starts = rng.choice(
            num_starts, min(wanted, longest // span_length, num_starts), replace=False
        )
        row[(starts[:, None] + np.arange(span_length)).ravel()] = True

    return mask
