"""Draws which frames the student does not hear: spans, of an exact number of frames in all.

An encoder from which hidden frames leave needs equally many of each utterance. `span_mask` of
`models/parts` draws HuBERT's spans, whose number of frames varies.

Shapes: N utterances, T frames.
"""

import numpy as np
from numpy.typing import NDArray


def exact_span_masks(
    num_utterances: int,
    num_frames: int,
    *,
    share: float,
    adjust: float,
    span_length: int,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Draw a mask [N, T] that is true in exactly `int(share * T)` frames of each row.

    Centers of spans are drawn with replacement, `int(T * (share + adjust) / span_length)` of them.
    A span at an edge is not moved: its frames beyond the edge fall on the frame at the edge. Then
    single frames are taken out or added at random until the number is right (data2vec 2.0).
    """
    mask = np.zeros((num_utterances, num_frames), dtype=bool)
    num_spans = int(num_frames * (share + adjust) / span_length)
    centers = rng.integers(num_frames, size=(num_utterances, num_spans, 1))

    offsets = np.arange(span_length) - span_length // 2
    places = np.clip(centers + offsets, 0, num_frames - 1).reshape(num_utterances, -1)
    np.put_along_axis(mask, places, values=True, axis=1)

    wanted = int(share * num_frames)
    for row in mask:
        surplus = int(row.sum()) - wanted
        changed = rng.choice(np.flatnonzero(row == (surplus > 0)), abs(surplus), replace=False)
        row[changed] = surplus < 0

    return mask
