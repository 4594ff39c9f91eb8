"""Sequences of different lengths as one array.

Shapes: N sequences, L the length of the longest.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pad(arrays: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The sequences as one array [N, L, ...], with zeros behind each end, and their lengths [N]."""
    lengths = np.asarray([len(array) for array in arrays], dtype=np.int64)
    padded = np.zeros((len(arrays), int(lengths.max()), *arrays[0].shape[1:]), dtype=np.float32)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array

    return padded, lengths
