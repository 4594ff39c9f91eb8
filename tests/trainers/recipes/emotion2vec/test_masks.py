"""Exactly half of an utterance's frames are hidden, in spans as data2vec 2.0 draws them."""

from collections import Counter
from itertools import groupby

import numpy as np
import pytest
from numpy.typing import NDArray

from trainers.recipes.emotion2vec.masks import exact_span_masks

SETTING = {"share": 0.5, "adjust": 0.05, "span_length": 5}


def test_exactly_half_of_the_frames_are_hidden() -> None:
    """The count is int(T / 2) in every row, for every length from 10 to 1,000 frames."""
    rng = np.random.default_rng(0)
    for num_frames in range(10, 1001):
        masks = exact_span_masks(3, num_frames, **SETTING, rng=rng)
        assert masks.shape == (3, num_frames)
        assert set(masks.sum(axis=1).tolist()) == {num_frames // 2}


def simulated(num_frames: int, rng: np.random.Generator) -> list[bool]:
    """Draw a row frame by frame, as the definition says in words."""
    hidden: set[int] = set()
    for _ in range(int(num_frames * 0.55 / 5)):
        center = int(rng.integers(num_frames))
        hidden |= {min(max(place, 0), num_frames - 1) for place in range(center - 2, center + 3)}

    wanted = num_frames // 2
    while len(hidden) > wanted:
        hidden.remove(sorted(hidden)[int(rng.integers(len(hidden)))])
    while len(hidden) < wanted:
        heard = [place for place in range(num_frames) if place not in hidden]
        hidden.add(heard[int(rng.integers(len(heard)))])
    return [place in hidden for place in range(num_frames)]


def lengths_of_spans(rows: NDArray[np.bool_]) -> dict[int, float]:
    """Count runs of hidden frames by their length, as shares of all runs."""
    counts = Counter(
        min(12, len(list(run))) for row in rows for hidden, run in groupby(row.tolist()) if hidden
    )
    return {length: counts[length] / counts.total() for length in range(1, 13)}


@pytest.mark.parametrize("num_frames", [40, 250])
def test_spans_are_as_long_as_in_a_simulation(num_frames: int) -> None:
    """The shares of spans of each length are those of rows drawn frame by frame."""
    ours = exact_span_masks(2000, num_frames, **SETTING, rng=np.random.default_rng(1))
    rng = np.random.default_rng(2)
    theirs = np.asarray([simulated(num_frames, rng) for _ in range(500)])

    found, expected = lengths_of_spans(ours), lengths_of_spans(theirs)
    assert found == pytest.approx(expected, abs=0.02)
    assert found[5] > 0.1
    # Frames at the edges are hidden oftener than others, because spans end there.
    assert ours.mean(axis=0)[0] == pytest.approx(theirs.mean(axis=0)[0], abs=0.07)
