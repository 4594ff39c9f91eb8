"""Speakers as vectors with the statistics of their labels, and who is most alike.

A speaker's vector is the mean over utterances of mean-pooled features (papt-pldc, Eq. 2); likeness is the cosine.

Shapes: S speakers, N utterances, D numbers a vector, V label dimensions, P queries, k neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics.pairwise import cosine_similarity

from shards.config import ConfigError


@dataclass(frozen=True, slots=True)
class SpeakerTable:
    """`vectors` [S, D], `label_mean` and `label_std` (population) [S, V], `counts` [S]; speakers sorted."""

    speakers: Sequence[str]
    vectors: NDArray[np.float32]
    label_mean: NDArray[np.float64]
    label_std: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def build(
        cls, speakers: NDArray[np.object_], features: NDArray[np.float32], labels: NDArray[np.floating]
    ) -> "SpeakerTable":
        """From utterances: their speakers [N], pooled features [N, D] and labels [N, V]."""
        names, places = np.unique(speakers.astype(str), return_inverse=True)
        groups = [places == number for number in range(len(names))]
        return cls(
            speakers=names.tolist(),
            vectors=np.stack([features[mine].mean(axis=0, dtype=np.float64) for mine in groups]).astype(np.float32),
            label_mean=np.stack([labels[mine].mean(axis=0, dtype=np.float64) for mine in groups]),
            label_std=np.stack([labels[mine].std(axis=0, dtype=np.float64) for mine in groups]),
            counts=np.asarray([int(mine.sum()) for mine in groups]),
        )

    def nearest(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Places [P, k] and cosine similarities [P, k] of the most alike speakers, the most alike first."""
        return nearest(self.vectors, queries, k)


def nearest(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which `vectors` [S, D] are most like each of `queries` [P, D]: places and cosines [P, k], the most alike first.

    A k beyond the vectors takes all of them; equal similarities keep their order. Raises ConfigError for k < 1 and for
    vectors that are not finite.
    """
    if k < 1:
        raise ConfigError(f"neighbours: got {k}, expected at least 1")
    if not np.isfinite(queries).all():
        raise ConfigError("a speaker's vector has numbers that are not finite; its features cannot be compared")
    similarity = cosine_similarity(queries, vectors)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarity, order, axis=1)
