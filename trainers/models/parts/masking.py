"""Draws which frames are hidden from an encoder: to predict them, or to do without (SpecAugment).

Hidden frames come in spans, as wav2vec 2.0 and HuBERT draw them. transformers'
`_compute_mask_indices` draws the same spans, but from numpy's global generator, which no seed or
resume of ours reaches. A test compares the two.

Shapes: N utterances, T frames, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecAugment:
    """Which frames and channels training does without (Park et al. 2019, on projected features).

    Probabilities are the shares that the spans would cover if they did not overlap.
    """

    time_probability: float
    time_length: int
    channel_probability: float
    channel_length: int

    def frames(self, num_frames: Sequence[int], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Draw the frames [N, T] to hide."""
        return span_mask(
            num_frames,
            probability=self.time_probability,
            span_length=self.time_length,
            min_spans=0,
            rng=rng,
        )

    def channels(
        self, num_utterances: int, width: int, rng: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Draw the channels [N, D] to hide in all frames of an utterance."""
        return span_mask(
            [width] * num_utterances,
            probability=self.channel_probability,
            span_length=self.channel_length,
            min_spans=0,
            rng=rng,
        )
