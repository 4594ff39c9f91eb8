"""Cuts long recordings into equal windows, and averages what a model says of them.

Windows bound the memory, and their length is their weight in the mean. They are cut evenly (61 s
makes three of 20.3 s, not two of 30 s and one of 1 s): a tail of a second would say little and,
unweighted, count as much as the rest.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from actors.inference.batching import plan_batches
from actors.inference.outcomes import Missing, run_batches
from shards.media.sound_format import Waveform

# 0.1 s: less is shorter than some models' receptive field, and than any emotion.
MIN_SAMPLES = 1_600


def cut_windows(num_samples: int, max_samples: int) -> list[slice]:
    """The fewest windows of at most `max_samples` that cover `num_samples`.

    Their lengths differ by one sample at most.
    """
    count = max(1, -(-num_samples // max_samples))
    edges = [index * num_samples // count for index in range(count + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(edges)]


def windowed_rows(
    waveforms: Sequence[Waveform],
    forward: Callable[[Sequence[Waveform]], Tensor],
    *,
    max_samples: int,
    budget: int,
    equal_lengths: bool,
) -> list[NDArray[np.float64] | Missing]:
    """For each waveform the mean of `forward`'s rows over its windows, in float64.

    `budget` and `equal_lengths` bound the batches (see `plan_batches`); a waveform under 0.1 s is
    Missing.
    """
    windows: list[Waveform] = []
    spans: list[range] = []

    for waveform in waveforms:
        first = len(windows)
        if len(waveform) >= MIN_SAMPLES:
            windows += [waveform[part] for part in cut_windows(len(waveform), max_samples)]
        spans.append(range(first, len(windows)))

    batches = plan_batches(
        [len(window) for window in windows], budget=budget, equal_lengths=equal_lengths
    )
    rows = run_batches(batches, lambda batch: forward([windows[index] for index in batch]))

    return [
        _mean([len(windows[index]) for index in span], [rows[index] for index in span])
        for span in spans
    ]


def _mean(lengths: list[int], rows: list[Tensor]) -> NDArray[np.float64] | Missing:
    if not rows:
        return Missing(f"audio_too_short: under {MIN_SAMPLES} samples (0.1 s)")
    stacked = np.stack([row.numpy().astype(np.float64) for row in rows])
    return np.average(stacked, axis=0, weights=lengths)
