"""Subsets of training utterances keep the shares of classes, and are nested."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.config import ConfigError
from shards.loading.subsets import draw_subset


@given(st.integers(0, 5), st.lists(st.integers(1, 40), min_size=2, max_size=5))
def test_subsets_keep_shares_and_are_nested(seed: int, sizes: list[int]) -> None:
    """Whatever the classes, a subset has each in its share, and is part of every larger one."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows, keys = np.arange(len(labels)), [f"k{number}" for number in range(len(labels))]

    smaller: set[int] = set()
    for number in range(1, len(rows) + 1):
        mine = draw_subset(rows, labels, keys, number, seed)
        assert len(set(mine.tolist())) == number
        assert smaller <= set(mine.tolist())
        smaller = set(mine.tolist())

        counts = Counter(labels[mine].tolist())
        for label, size in enumerate(sizes):
            share = size / len(rows)
            # Each class may be half an utterance off its place on the line, and so may the end.
            assert abs(counts[label] - number * share) <= 1.0 + share * len(sizes) / 2


@pytest.mark.parametrize(
    "sizes", [(96, 192, 192, 192, 192, 192, 192, 192), (5531, 1103, 1636, 1084), (40, 1, 7)]
)
def test_the_classes_of_corpora_keep_their_shares(sizes: tuple[int, ...]) -> None:
    """RAVDESS' classes, IEMOCAP's, and rare ones: each is within one utterance of its share."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows, keys = np.arange(len(labels)), [f"k{number}" for number in range(len(labels))]

    for number in range(1, len(rows) + 1, max(1, len(rows) // 20)):
        mine = draw_subset(rows, labels, keys, number, 3)
        counts = np.bincount(labels[mine], minlength=len(sizes))
        assert np.abs(counts - number * np.asarray(sizes) / len(rows)).max() <= 1.0
        np.testing.assert_array_equal(mine, draw_subset(rows, labels, keys, number, 3))


def test_resamplings_differ_and_too_large_ones_are_refused() -> None:
    """Another seed draws others; more than there are is an error that says how many there are."""
    labels, keys = np.zeros(30, dtype=np.int64), [f"k{number}" for number in range(30)]
    drawn = [draw_subset(np.arange(30), labels, keys, 10, seed).tolist() for seed in (0, 1)]
    assert drawn[0] != drawn[1]
    with pytest.raises(ConfigError, match="got 31, but there are 30"):
        draw_subset(np.arange(30), labels, keys, 31, 0)
