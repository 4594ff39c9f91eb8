"""From utterances to a speaker table, in two passes over chunks: first means, then spreads.

One pass over sums of squares was left out: it loses digits where the spread is small
against the mean, for example where one speaker's ratings are all about 5. Nothing is kept of
earlier results, so that a table made of old and new chunks is the very one that all chunks at once
give.

Shapes: S speakers, N utterances, D numbers a vector, V label dimensions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.grouping import group_rows
from shards.speakers.table import SpeakerTable

# Speakers [N], features [N, D] and labels [N, V] (NaN: not known) of some utterances.
Chunk = tuple[NDArray[np.object_], NDArray[np.float32], NDArray[np.floating[Any]]]
FIRST_ROOM = 1024


def build_speakers(
    chunks: Callable[[], Iterable[Chunk]], dimensions: Sequence[str], **encoder: str
) -> SpeakerTable:
    """The table of the utterances in the chunks, with sorted speakers.

    `chunks` yields the same chunks each time it is called. The result is a function of the chunks
    and their order.
    """
    sums = _Sums(len(dimensions))
    for speakers, features, labels in chunks():
        sums.add(speakers, features, labels)

    means = sums.label_means()
    # Why a second pass: squares of distances are exact only about a mean that is known.
    for speakers, _, labels in chunks():
        sums.add_spread(speakers, labels, means)
    return sums.table(means, tuple(dimensions), encoder)


@dataclass(slots=True)
class _Sums:
    """Sums that grow by speaker, in the order in which speakers appear."""

    num_dimensions: int
    rows: dict[str, int] = field(default_factory=dict)
    _columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def add(
        self, speakers: NDArray[np.object_], features: NDArray[np.float32], labels: NDArray[Any]
    ) -> None:
        """Count and add up one chunk's vectors and labels."""
        ones = np.ones((len(speakers), 1))
        parts = {
            "vectors": features,
            "numbers": ones,
            "labels": _or_zero(labels),
            "counts": np.isfinite(labels),
        }
        self._add(speakers, parts)

    def add_spread(
        self, speakers: NDArray[np.object_], labels: NDArray[Any], means: NDArray[np.float64]
    ) -> None:
        """Add up one chunk's squared distances to the means [S, V]."""
        own_means = means[[self.rows[speaker] for speaker in speakers]]
        self._add(speakers, {"squares": _or_zero(labels - own_means) ** 2})

    def _add(self, speakers: NDArray[np.object_], parts: Mapping[str, NDArray[Any]]) -> None:
        """Add each part's rows [N, W] to the sums of their speakers."""
        groups = group_rows(speakers)
        if not groups:
            return

        rows = np.asarray([self.rows.setdefault(name, len(self.rows)) for name in groups])
        # Why: reduceat sums runs of rows, so each speaker's rows have to lie together.
        order = np.concatenate(list(groups.values()))
        starts = np.cumsum([0, *(len(mine) for mine in groups.values())])[:-1]
        for name, values in parts.items():
            sums = np.add.reduceat(values[order].astype(np.float64), starts, axis=0)
            self._column(name, int(rows.max()), values.shape[1])[rows] += sums

    def label_means(self) -> NDArray[np.float64]:
        """Each speaker's mean label [S, V]; NaN where no label is known."""
        counts = self._found("counts", self.num_dimensions)
        return _divided(self._found("labels", self.num_dimensions), counts)

    def table(
        self, means: NDArray[np.float64], dimensions: tuple[str, ...], encoder: Mapping[str, str]
    ) -> SpeakerTable:
        """The finished table, with sorted speakers."""
        names = sorted(self.rows)
        order = np.asarray([self.rows[name] for name in names], dtype=np.int64)

        numbers = self._found("numbers", 1)
        counts = self._found("counts", self.num_dimensions)
        spread = np.sqrt(_divided(self._found("squares", self.num_dimensions), counts))
        vectors = self._columns.get("vectors", np.empty((0, 0)))[: len(names)] / numbers

        return SpeakerTable(
            speakers=names,
            vectors=vectors[order].astype(np.float32),
            num_utterances=numbers[order, 0].astype(np.int64),
            dimensions=dimensions,
            label_mean=means[order],
            label_std=spread[order],
            label_count=counts[order].astype(np.int64),
            metadata=[{}] * len(names),
            **encoder,
        )

    def _found(self, name: str, width: int) -> NDArray[np.float64]:
        return self._columns.get(name, np.zeros((len(self.rows), width)))[: len(self.rows)]

    def _column(self, name: str, row: int, width: int) -> NDArray[np.float64]:
        """The column `name`, grown until it has room for `row`."""
        found = self._columns.setdefault(name, np.zeros((FIRST_ROOM, width)))
        while row >= len(found):
            found = self._columns[name] = np.concatenate([found, np.zeros_like(found)])
        return found


def _or_zero(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, 0.0)


def _divided(total: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)
