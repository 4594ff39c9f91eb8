"""One state of the speaker index, which never changes: readers hold on to it while the next is made
beside it.

A generation is a large indexed part, a small part of what was written since (searched exactly), and
which speakers of the large part are no longer there. So a write costs what it writes and not what
is stored. Speakers are numbered within a generation: first the large part's, then the small one's.

Who must not be found is dropped from a longer list of neighbors, and where that leaves too few, the
allowed ones are searched exactly. FAISS' selectors were left out: a flat index searches seven times
slower with one, and GPUs have none.

Shapes: N speakers, D numbers a vector, P queries, k neighbors.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from actors.speaker_index.search.vector_index import VectorIndex, exact_search, unit
from shards.speakers.table import SpeakerTable, concatenate

MAX_LIST = 2048  # neighbors FAISS finds at once on a GPU
SPARE = 16  # neighbors beyond what should do
FEW_ALLOWED = 20_000  # so few are searched exactly at once

# Numbers [P, k] of the most alike speakers, the most alike first (-1: none left), and their cosines
# [P, k].
Neighbors = tuple[NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Part:
    """Speakers that are searched together: with an index, or exactly over their unit vectors.

    `encoded` keeps what `wire` has encoded of each row.
    """

    table: SpeakerTable
    row_of: Mapping[str, int]
    postings: Mapping[tuple[str, str], NDArray[np.int64]]
    index: VectorIndex | None
    units: NDArray[np.float32] | None
    encoded: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def indexed(cls, table: SpeakerTable, index: VectorIndex) -> "Part":
        """With an index over all of `table`."""
        return cls(table, _rows(table), _postings(table), index, None)

    @classmethod
    def scanned(cls, table: SpeakerTable) -> "Part":
        """Without."""
        return cls(table, _rows(table), _postings(table), None, unit(table.vectors))

    def having(self, metadata_equals: Mapping[str, str]) -> NDArray[np.bool_]:
        """Which rows' metadata has all these entries."""
        mask = np.ones(len(self.table), dtype=bool)
        for entry in metadata_equals.items():
            has_it = np.zeros(len(self.table), dtype=bool)
            has_it[self.postings.get(entry, [])] = True
            mask &= has_it
        return mask

    def search(self, queries: NDArray[np.float32], k: int) -> Neighbors:
        """Of unit `queries` [P, D], among at least k speakers."""
        if self.index is not None:
            return self.index.search(queries, k)
        assert self.units is not None  # noqa: S101 (a part has one or the other)
        return exact_search(self.units, queries, k)

    def search_among(
        self, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64]
    ) -> Neighbors:
        """Exactly, among some rows: as many neighbors as there are, at most k."""
        if not len(rows):
            return _nobody(len(queries))
        units = unit(self.table.vectors[rows]) if self.units is None else self.units[rows]
        places, similarities = exact_search(units, queries, min(k, len(rows)))
        return rows[places], similarities


@dataclass(frozen=True, slots=True)
class Generation:
    """`gone` [N of base] marks speakers of `base` that were deleted or are in `recent` now."""

    number: int
    base: Part
    recent: Part
    gone: NDArray[np.bool_]
    num_gone: int

    @classmethod
    def start(cls, number: int, table: SpeakerTable, index: VectorIndex) -> "Generation":
        """Nothing written since the index was built."""
        nothing = Part.scanned(table.take(np.empty(0, dtype=np.int64)))
        return cls(number, Part.indexed(table, index), nothing, np.zeros(len(table), dtype=bool), 0)

    def __len__(self) -> int:
        return len(self.base.table) - self.num_gone + len(self.recent.table)

    @property
    def num_unindexed(self) -> int:
        """What makes searching slower than it need be: recent speakers and those gone."""
        return len(self.recent.table) + self.num_gone

    def find(self, speaker: str) -> int | None:
        """The number of a speaker, None when there is none of this name."""
        row = self.recent.row_of.get(speaker)
        if row is not None:
            return len(self.base.table) + row
        row = self.base.row_of.get(speaker)
        return None if row is None or self.gone[row] else row

    def locate(self, number: int) -> tuple[SpeakerTable, int]:
        """The table and the row of a speaker's number."""
        split = len(self.base.table)
        return (self.base.table, number) if number < split else (self.recent.table, number - split)

    def numbers(self) -> NDArray[np.int64]:
        """Of every speaker there is."""
        split = len(self.base.table)
        return np.concatenate(
            [np.flatnonzero(~self.gone), split + np.arange(len(self.recent.table))]
        )

    def table(self) -> SpeakerTable:
        """All speakers."""
        return concatenate([self.base.table.take(np.flatnonzero(~self.gone)), self.recent.table])

    def changed(self, number: int, removed: Iterable[str], added: SpeakerTable) -> "Generation":
        """A later generation: without those of `removed` there are, then with `added`, none of whom
        is left.
        """
        names = list(removed)
        gone = self.gone.copy()
        gone[[row for row in map(self.base.row_of.get, names) if row is not None]] = True
        left = [row for row in map(self.recent.row_of.get, names) if row is not None]
        stay = np.delete(np.arange(len(self.recent.table)), left)
        recent = concatenate([self.recent.table.take(stay), added])
        return Generation(
            number, self.base, Part.scanned(recent), gone, int(np.count_nonzero(gone))
        )

    def search(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> Neighbors:
        """Numbers [P, k] and cosines [P, k] of the most alike speakers to unit `queries` [P, D],
        the most alike first.

        Number -1 where there are fewer than k. With `allowed` [numbers] only those are found.
        """
        split, num_recent = len(self.base.table), len(self.recent.table)
        found = self._search_base(
            queries, k, None if allowed is None else allowed[:split] & ~self.gone
        )
        if not num_recent:
            return found
        if allowed is None:
            rows, similarities = self.recent.search(queries, min(k, num_recent))
        else:
            rows, similarities = self.recent.search_among(
                queries, k, np.flatnonzero(allowed[split:])
            )
        return _best(
            np.concatenate([found[0], rows + split], axis=1),
            np.concatenate([found[1], similarities], axis=1),
            k,
        )

    def allowed(
        self, excluded: Iterable[int], metadata_equals: Mapping[str, str]
    ) -> NDArray[np.bool_]:
        """Which numbers a search may find: those whose metadata has all the entries asked for, and
        not excluded.
        """
        masks = [part.having(metadata_equals) for part in (self.base, self.recent)]
        allowed = np.concatenate(masks)
        allowed[list(excluded)] = False
        return allowed

    def labeled(self, dimensions: Sequence[int]) -> NDArray[np.bool_]:
        """Which numbers have statistics of all these label dimensions."""
        counts = [part.table.label_count[:, dimensions] for part in (self.base, self.recent)]
        return np.concatenate([(count > 0).all(axis=1) for count in counts])

    def _search_base(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
    ) -> Neighbors:
        """Rows of the large part, without those gone."""
        if not len(self.base.table):
            return _best(*_nobody(len(queries)), k)
        if allowed is None and not self.num_gone:
            return _best(*self.base.search(queries, min(k, len(self.base.table))), k)
        mask = ~self.gone if allowed is None else allowed
        num_allowed = int(np.count_nonzero(mask))
        if not num_allowed or (num_allowed <= FEW_ALLOWED and num_allowed < len(mask) // 2):
            return _best(*self.base.search_among(queries, k, np.flatnonzero(mask)), k)
        wanted = min(k, num_allowed)
        length = min(len(mask), MAX_LIST, -(-wanted * len(mask) // num_allowed) + SPARE)
        rows, similarities = self.base.search(queries, length)
        found = (rows >= 0) & mask[rows]
        short = found.sum(axis=1) < wanted
        rows, similarities = _best(rows, np.where(found, similarities, np.float32(-np.inf)), k)
        if short.any():
            among = self.base.search_among(queries[short], k, np.flatnonzero(mask))
            rows[short], similarities[short] = _best(*among, k)
        return rows, similarities


def _nobody(num_queries: int) -> Neighbors:
    return np.empty((num_queries, 0), dtype=np.int64), np.empty((num_queries, 0), dtype=np.float32)


def _best(rows: NDArray[np.int64], similarities: NDArray[np.float32], k: int) -> Neighbors:
    """The k most alike of each query, and -1 in place of those there are not; equal ones keep their
    order.
    """
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    rows, similarities = (
        np.take_along_axis(rows, order, axis=1),
        np.take_along_axis(similarities, order, axis=1),
    )
    missing = ((0, 0), (0, k - rows.shape[1]))
    similarities = np.pad(similarities, missing, constant_values=-np.inf)
    return np.where(np.isfinite(similarities), np.pad(rows, missing), -1), similarities


def _postings(table: SpeakerTable) -> dict[tuple[str, str], NDArray[np.int64]]:
    """The rows that have each entry in their metadata."""
    rows: dict[tuple[str, str], list[int]] = {}
    for row, metadata in enumerate(table.metadata):
        for entry in metadata.items():
            rows.setdefault(entry, []).append(row)
    return {entry: np.asarray(found, dtype=np.int64) for entry, found in rows.items()}


def _rows(table: SpeakerTable) -> dict[str, int]:
    return {speaker: row for row, speaker in enumerate(table.speakers)}
