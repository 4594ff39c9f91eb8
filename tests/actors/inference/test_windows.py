import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.inference.outcomes import Missing
from actors.inference.windows import MIN_SAMPLES, cut_windows, windowed_rows


@given(st.integers(1, 10_000), st.integers(1, 3_000))
def test_windows_cover_everything_once_in_equal_parts(num_samples: int, max_samples: int) -> None:
    """Windows are as few as can be, cover all samples end to end, and differ by one at most."""
    windows = cut_windows(num_samples, max_samples)
    lengths = [window.stop - window.start for window in windows]

    assert windows[0].start == 0
    assert windows[-1].stop == num_samples
    assert all(left.stop == right.start for left, right in itertools.pairwise(windows))
    assert max(lengths) <= max_samples
    assert max(lengths) - min(lengths) <= 1
    assert len(windows) == -(-num_samples // max_samples)


def test_a_long_recording_is_the_mean_of_its_windows() -> None:
    """A recording in three windows is their rows' mean, and another recording is not mixed in."""
    waveforms = [
        np.repeat([1.0, 2.0, 6.0], 2_000).astype(np.float32),
        np.full(1_700, 5.0, dtype=np.float32),
    ]

    rows = windowed_rows(
        waveforms, forward_means, max_samples=2_571, budget=4_000, equal_lengths=False
    )

    np.testing.assert_allclose(rows[0], [3.0, 2_000])
    np.testing.assert_allclose(rows[1], [5.0, 1_700])


def test_windows_count_by_their_length() -> None:
    """Windows of unequal length are weighted by it, so the recording's mean comes out exactly."""
    waveform = np.random.default_rng(0).normal(size=5_003).astype(np.float32)

    (row,) = windowed_rows(
        [waveform], forward_means, max_samples=2_000, budget=0, equal_lengths=False
    )

    assert isinstance(row, np.ndarray)
    np.testing.assert_allclose(row[0], waveform.astype(np.float64).mean(), rtol=1e-6)


def test_less_than_a_tenth_of_a_second_is_missing() -> None:
    """A waveform too short for a convolution gets a reason and does not crash the model."""
    rows = windowed_rows(
        [
            np.zeros(MIN_SAMPLES - 1, np.float32),
            np.zeros(MIN_SAMPLES, np.float32),
            np.zeros(0, np.float32),
        ],
        forward_means,
        max_samples=10_000,
        budget=100_000,
        equal_lengths=False,
    )

    assert isinstance(rows[0], Missing)
    assert rows[0].reason.startswith("audio_too_short: ")
    assert isinstance(rows[1], np.ndarray)
    assert isinstance(rows[2], Missing)


def forward_means(batch: list[np.ndarray]) -> torch.Tensor:
    """A stand-in for a model whose answer is known: each window's mean and length."""
    return torch.tensor([[float(window.mean()), float(len(window))] for window in batch])
