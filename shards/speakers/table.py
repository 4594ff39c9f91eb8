"""Speakers as vectors with the statistics of their labels, and who is most alike.

A speaker's vector is the mean over utterances of mean-pooled features (papt-pldc, Eq. 2). Speakers
are alike by the cosine of their vectors.

Shapes: S speakers, D numbers a vector, V label dimensions, P queries, k neighbors.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics.pairwise import cosine_similarity

from shards.config import ConfigError
from shards.samples.keys import printable, speaker_problem

MAX_WIDTH, MAX_DIMENSIONS = 1 << 14, 64
_ARRAYS = ("vectors", "num_utterances", "label_mean", "label_std", "label_count")
MAX_METADATA_ENTRIES, MAX_METADATA_CHARACTERS = 64, 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerTable:
    """Speakers with their vectors, label statistics and metadata.

    `vectors` [S, D], `num_utterances` [S]. `label_mean` and `label_std` (of the population) [S, V]
    are those of `label_count` [S, V] labels, and NaN where that is 0. `encoder` names what made the
    vectors, for people; only the very same encoder has the same `fingerprint`.
    """

    speakers: Sequence[str]
    vectors: NDArray[np.float32]
    num_utterances: NDArray[np.int64]
    dimensions: tuple[str, ...]
    label_mean: NDArray[np.float64]
    label_std: NDArray[np.float64]
    label_count: NDArray[np.int64]
    metadata: Sequence[Mapping[str, str]]
    encoder: str = ""
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.speakers)

    def take(self, rows: NDArray[np.integer[Any]]) -> "SpeakerTable":
        """The speakers at `rows`, in that order."""
        places = rows.tolist()
        arrays: dict[str, Any] = {name: getattr(self, name)[rows] for name in _ARRAYS}
        names, metadata = (
            [column[place] for place in places] for column in (self.speakers, self.metadata)
        )
        return replace(self, speakers=names, metadata=metadata, **arrays)

    def nearest(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The k speakers most like each query, the most alike first.

        Returns their rows [P, k] and cosine similarities [P, k].
        """
        return nearest(self.vectors, queries, k)

    def check(self, where: str) -> None:
        """Raise ConfigError, naming `where`, when no speaker index could use the table."""
        problem = _problem(self)
        if problem is not None:
            raise ConfigError(f"{where}: {problem}; write it again with `emostream embed`")


def concatenate(tables: Sequence[SpeakerTable]) -> SpeakerTable:
    """The speakers of all tables (at least one), one table after the other.

    The tables share encoder and dimensions.
    """
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(table, name) for table in tables]) for name in _ARRAYS
    }
    names = [speaker for table in tables for speaker in table.speakers]
    metadata = [entry for table in tables for entry in table.metadata]
    return replace(tables[0], speakers=names, metadata=metadata, **arrays)


def nearest(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which k of `vectors` [S, D] are most like each of `queries` [P, D], the most alike first.

    Returns places [P, k] and cosines [P, k]. Where k is more than S, all S are taken; vectors that
    are equally similar keep their order. Raises ConfigError for k < 1 and for queries that are not
    finite.
    """
    if k < 1:
        raise ConfigError(f"neighbors: got {k}, expected at least 1")
    if not np.isfinite(queries).all():
        raise ConfigError(
            "a speaker's vector has numbers that are not finite; its features cannot be compared"
        )

    similarity = cosine_similarity(queries, vectors)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarity, order, axis=1)


def metadata_problem(metadata: Mapping[str, str]) -> str | None:
    """What is wrong with a speaker's metadata, in words, or None."""
    if len(metadata) > MAX_METADATA_ENTRIES:
        return f"metadata has {len(metadata)} entries, expected at most {MAX_METADATA_ENTRIES}"
    longest = max((len(text) for pair in metadata.items() for text in pair), default=0)
    if longest > MAX_METADATA_CHARACTERS:
        return (
            f"metadata holds a text of {longest} characters, expected at most "
            f"{MAX_METADATA_CHARACTERS}"
        )
    return None


def _problem(table: SpeakerTable) -> str | None:
    """The first thing that is wrong with a table, in words, or None."""
    width, num_dimensions = table.vectors.shape[1], len(table.dimensions)
    if len(table.speakers) and not 0 < width <= MAX_WIDTH:
        return f"its vectors have {width} numbers, expected 1 to {MAX_WIDTH}"

    if num_dimensions > MAX_DIMENSIONS or len(set(table.dimensions)) != num_dimensions:
        return (
            f"it has the label dimensions {', '.join(table.dimensions)}; expected at most "
            f"{MAX_DIMENSIONS}, each once"
        )

    shapes = {part.shape for part in (table.label_mean, table.label_std, table.label_count)}
    if shapes != {(len(table.speakers), num_dimensions)}:
        return (
            f"its statistics have the shapes {sorted(shapes)}, expected "
            f"{(len(table.speakers), num_dimensions)}"
        )

    return _speaker_problem(table) or _number_problem(table)


def _speaker_problem(table: SpeakerTable) -> str | None:
    for speaker, metadata in zip(table.speakers, table.metadata, strict=True):
        if problem := (None if speaker is None else speaker_problem(speaker)) or metadata_problem(
            metadata
        ):
            return problem
        if speaker is None:
            return "it has a speaker without a name"
    name, number = next(iter(Counter(table.speakers).most_common(1)), ("", 0))
    return f"speaker '{printable(name, 80)}' is there {number} times" if number > 1 else None


def _number_problem(table: SpeakerTable) -> str | None:
    finite = np.isfinite(table.vectors).all(axis=1)
    usable = finite & (np.abs(table.vectors).max(axis=1, initial=0.0) > 0)
    if not usable.all():
        culprit = printable(table.speakers[int(np.argmin(usable))], 80)
        return (
            f"the vector of speaker '{culprit}' is zero or not finite and has no direction to "
            "compare"
        )

    counted = table.label_count > 0
    statistics = (
        np.isfinite(table.label_mean) & (table.label_std >= 0) & np.isfinite(table.label_std)
    )
    if (
        (counted & ~statistics).any()
        or (table.label_count < 0).any()
        or (table.num_utterances < 0).any()
    ):
        return "it has a label statistic that is not finite, or a negative spread or count"
    return None
