"""Long utterances are cut to what a batch can hold, at a place that the seed decides."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shards.loading.batch_plan import PlannedBatch
from shards.loading.crop import Crop
from shards.loading.index import CorpusIndex, read_index
from shards.loading.loader import Batch, BatchReader
from tests.worlds.training import write_training_world

ROWS = np.asarray([3, 0, 8])
MAX_SECONDS = 0.25


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> CorpusIndex:
    return read_index(write_training_world(tmp_path_factory.mktemp("packed"))).split("train")


def batch(corpus: CorpusIndex, crop: Crop | None, number: int = 0, size: int = 0) -> Batch:
    reader = BatchReader(corpus, ["sound"], cache_bytes=size, crop=crop)
    return reader[number, PlannedBatch(ROWS, np.arange(len(ROWS)))]


@given(st.integers(1, 2000), st.floats(0.01, 0.2), st.integers(0, 5), st.integers(-1, 5))
def test_a_cut_is_a_stretch_of_the_utterance(
    length: int, longest: float, seed: int, number: int
) -> None:
    """Sound and face are cut to the same part of the time, and what is short enough stays whole."""
    sound, face = np.arange(length), np.arange(-(-length // 16))
    crop = Crop(max_seconds=longest, seed=seed)
    found = crop.of(
        {"sound": sound, "face": face}, seconds=length / 16_000, batch_number=number, row=7
    )

    cut, seen = found["sound"], found["face"]
    assert cut is not None
    assert seen is not None
    assert len(cut) == min(length, max(1, round(longest * 16_000)))
    np.testing.assert_array_equal(cut, np.arange(cut[0], cut[0] + len(cut)))
    np.testing.assert_array_equal(seen, np.arange(seen[0], seen[0] + len(seen)))
    assert abs(int(seen[0]) * 16 - int(cut[0])) <= 32


def test_a_batch_is_no_longer_than_the_limit(corpus: CorpusIndex) -> None:
    """Every utterance of a batch is a stretch of its own sound; evaluation hears the beginning."""
    whole = batch(corpus, None).inputs["sound"]
    assert whole.values.shape[1] > MAX_SECONDS * 16_000

    for seed in (None, 0):
        cut = batch(corpus, Crop(max_seconds=MAX_SECONDS, seed=seed)).inputs["sound"]
        assert cut.values.shape[1] == MAX_SECONDS * 16_000
        for mine, length, own, uncut in zip(
            cut.values, cut.lengths.tolist(), whole.values, whole.lengths.tolist(), strict=True
        ):
            assert length == min(uncut, 4000)
            starts = [0] if seed is None else range(uncut - length + 1)
            assert any(torch.equal(mine[:length], own[s : s + length]) for s in starts)


def test_the_place_follows_from_seed_batch_and_row_alone(corpus: CorpusIndex) -> None:
    """Another batch number or seed moves the cut; another reader or a cache does not."""
    crop = Crop(max_seconds=MAX_SECONDS, seed=5)
    first = batch(corpus, crop, number=2).inputs["sound"].values
    assert torch.equal(first, batch(corpus, crop, number=2, size=10**7).inputs["sound"].values)
    assert not torch.equal(first, batch(corpus, crop, number=3).inputs["sound"].values)

    other = Crop(max_seconds=MAX_SECONDS, seed=6)
    assert not torch.equal(first, batch(corpus, other, number=2).inputs["sound"].values)


def test_a_cut_does_not_change_what_is_kept_in_memory(corpus: CorpusIndex) -> None:
    """A second epoch cuts the whole utterance anew, elsewhere."""
    reader = BatchReader(
        corpus, ["sound"], cache_bytes=10**7, crop=Crop(max_seconds=MAX_SECONDS, seed=0)
    )
    planned = PlannedBatch(ROWS, np.arange(len(ROWS)))
    again = [reader[number, planned].inputs["sound"].values for number in (0, 40, 0)]
    assert torch.equal(again[0], again[2])
    assert not torch.equal(again[0], again[1])


def test_a_clip_is_left_alone() -> None:
    """A clip has as many pictures whatever the length of its utterance is."""
    clip = np.zeros((4, 3, 2, 2))
    found = Crop(max_seconds=0.1).of({"clip": clip}, seconds=9.0, batch_number=0, row=0)
    assert found["clip"] is not None
    assert found["clip"].shape == clip.shape
