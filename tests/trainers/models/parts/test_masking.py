"""Hidden spans equal those of transformers, drawn with the same random numbers."""

from typing import Any, cast

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from trainers.models.parts.masking import span_mask


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=5),
    st.floats(0.0, 1.0),
    st.integers(1, 12),
    st.integers(0, 3),
    st.integers(0, 2**31),
)
@settings(max_examples=150, deadline=None)
def test_spans_are_those_of_transformers(
    lengths: list[int], probability: float, span_length: int, min_spans: int, seed: int
) -> None:
    """Every frame is hidden as in transformers, which also marks padding of rows without a span."""
    lengths = [max(lengths[0], span_length), *lengths[1:]]
    # Why the old generator: transformers draws from it.
    same = cast(Any, np.random.RandomState(seed))

    ours = span_mask(
        lengths, probability=probability, span_length=span_length, min_spans=min_spans, rng=same
    )

    np.random.seed(seed)
    shape = (len(lengths), max(lengths))
    valid = torch.arange(shape[1]) < torch.tensor(lengths).unsqueeze(1)
    theirs = _compute_mask_indices(
        shape, probability, span_length, valid.long(), min_masks=min_spans
    )

    for row, expected, length in zip(ours, theirs, lengths, strict=True):
        if length >= span_length:
            np.testing.assert_array_equal(row[:length], expected[:length])
        assert not row[length:].any()


def test_huberts_setting_hides_57_percent() -> None:
    """Spans overlap, so that 0.8 of the frames are drawn but only 0.57 are hidden."""
    mask = span_mask(
        [2000] * 50, probability=0.8, span_length=10, min_spans=2, rng=np.random.default_rng(0)
    )
    assert abs(mask.mean() - 0.57) < 0.02


def test_an_utterance_shorter_than_a_span_is_heard() -> None:
    """A short utterance gets no span, and its batchmates get theirs."""
    mask = span_mask(
        [40, 9], probability=0.8, span_length=10, min_spans=2, rng=np.random.default_rng(0)
    )
    assert mask[0].any()
    assert not mask[1].any()
