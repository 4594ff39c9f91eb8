"""One state of the speaker index, which never changes.

Readers keep the generation they have begun with, while the writer makes the next one beside it.

A generation has two parts. `base` is large and has an index, `recent` holds the speakers written
since that index was built and is searched exactly. A mask, `gone`, marks the speakers of `base`
that were deleted or replaced. So a write costs as much as it writes, and not as much as is stored.

Every speaker of a generation has a number: row r of `base` has the number r, and row r of `recent`
the number N + r, where N is the length of `base`.

A filtered search asks the index for more than k neighbors, and drops those that must not be found.
Where that leaves fewer than k, it searches the allowed speakers exactly. The selectors of FAISS
were left out: a flat index searches seven times slower with one, and FAISS has none on GPUs.

Shapes: N speakers, D numbers a vector, P queries, k neighbors.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from actors.speaker_index.search.vector_index import VectorIndex, exact_search, unit
from shards.speakers.table import SpeakerTable, concatenate

# FAISS finds at most this many neighbors at once on a GPU.
MAX_LIST = 2048
# Neighbors asked for beyond the number that should be enough.
SPARE = 16
# Up to this many allowed speakers are searched exactly, without trying the index first.
FEW_ALLOWED = 20_000

# Numbers [P, k] of the most alike speakers, the most alike first (-1: there is no further one), and
# their cosines [P, k].
Neighbors = tuple[NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Part:
    """Speakers that are searched together, by an index or exactly over their unit vectors.

    Either `index` or `units` [N, D] is None. `row_of` gives the row of each name, `postings` the
    rows that have each entry in their metadata. `encoded` keeps the bytes that `wire` has made of a
    row.
    """

    table: SpeakerTable
    row_of: Mapping[str, int]
    postings: Mapping[tuple[str, str], NDArray[np.int64]]
    index: VectorIndex | None
    units: NDArray[np.float32] | None
    encoded: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def indexed(cls, table: SpeakerTable, index: VectorIndex) -> "Part":
        """A part with an index, which covers all of `table`."""
        return cls(table, _rows(table), _postings(table), index, None)

    @classmethod
    def scanned(cls, table: SpeakerTable) -> "Part":
        """A part without an index, which is searched exactly."""
        return cls(table, _rows(table), _postings(table), None, unit(table.vectors))

    def having(self, metadata_equals: Mapping[str, str]) -> NDArray[np.bool_]:
        """A mask of the rows whose metadata has all these entries."""
        mask = np.ones(len(self.table), dtype=bool)

        for entry in metadata_equals.items():
            has_it = np.zeros(len(self.table), dtype=bool)
            has_it[self.postings.get(entry, [])] = True
            mask &= has_it

        return mask

    def search(self, queries: NDArray[np.float32], k: int) -> Neighbors:
        """The neighbors of unit `queries` [P, D]; the part must have at least k speakers."""
        if self.index is not None:
            return self.index.search(queries, k)
        assert self.units is not None  # noqa: S101 (a part has one or the other)
        return exact_search(self.units, queries, k)

    def search_among(
        self, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64]
    ) -> Neighbors:
        """The neighbors of unit `queries` among `rows`, exactly: k, or all if they are fewer."""
        if not len(rows):
            return _nobody(len(queries))

        units = unit(self.table.vectors[rows]) if self.units is None else self.units[rows]
        places, similarities = exact_search(units, queries, min(k, len(rows)))
        # `exact_search` numbers the vectors that it was given: place p stands for row rows[p].
        return rows[places], similarities


@dataclass(frozen=True, slots=True)
class Generation:
    """Two parts, and which speakers of the larger one have left.

    `gone` [N of base] marks speakers of `base` that were deleted, or that are in `recent` now.
    `num_gone` counts them.
    """

    number: int
    base: Part
    recent: Part
    gone: NDArray[np.bool_]
    num_gone: int

    @classmethod
    def start(cls, number: int, table: SpeakerTable, index: VectorIndex) -> "Generation":
        """A generation in which nothing has been written since `index` was built."""
        nothing = Part.scanned(table.take(np.empty(0, dtype=np.int64)))
        return cls(number, Part.indexed(table, index), nothing, np.zeros(len(table), dtype=bool), 0)

    def __len__(self) -> int:
        return len(self.base.table) - self.num_gone + len(self.recent.table)

    @property
    def num_unindexed(self) -> int:
        """Number of speakers, recent and gone, that slow a search down until the next rebuild."""
        return len(self.recent.table) + self.num_gone

    def find(self, speaker: str) -> int | None:
        """The number of a speaker, or None when the index has no speaker of this name."""
        # `recent` comes first: a speaker that was replaced has a row in both parts.
        row = self.recent.row_of.get(speaker)
        if row is not None:
            return len(self.base.table) + row

        row = self.base.row_of.get(speaker)
        return None if row is None or self.gone[row] else row

    def locate(self, number: int) -> tuple[SpeakerTable, int]:
        """The table in which the speaker of this number is, and its row there."""
        split = len(self.base.table)
        return (self.base.table, number) if number < split else (self.recent.table, number - split)

    def numbers(self) -> NDArray[np.int64]:
        """The numbers of all speakers."""
        split = len(self.base.table)
        return np.concatenate(
            [np.flatnonzero(~self.gone), split + np.arange(len(self.recent.table))]
        )

    def table(self) -> SpeakerTable:
        """All speakers in one table, in the order of their numbers."""
        return concatenate([self.base.table.take(np.flatnonzero(~self.gone)), self.recent.table])

    def changed(self, number: int, removed: Iterable[str], added: SpeakerTable) -> "Generation":
        """The later generation that `removed` and then `added` make of this one.

        Names in `removed` that are not here are ignored. A speaker of `added` that is already here
        must be in `removed` too.
        """
        names = list(removed)

        gone = self.gone.copy()
        gone[[row for row in map(self.base.row_of.get, names) if row is not None]] = True
        # `recent` is small, so that it is copied without the removed rows. `base` only gets marks.
        left = [row for row in map(self.recent.row_of.get, names) if row is not None]
        stay = np.delete(np.arange(len(self.recent.table)), left)
        recent = concatenate([self.recent.table.take(stay), added])

        return Generation(
            number, self.base, Part.scanned(recent), gone, int(np.count_nonzero(gone))
        )

    def search(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> Neighbors:
        """Numbers [P, k] and cosines [P, k] of the speakers most like unit `queries` [P, D].

        The most alike come first, and -1 stands where there are fewer than k. With `allowed`, a
        mask over all numbers, no other speakers are found.
        """
        split, num_recent = len(self.base.table), len(self.recent.table)
        # The mask goes over the numbers of both parts, and so is cut at `split`. Only `base` has
        # speakers that are gone.
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

        # Rows of `recent` become numbers. `_best` merges the columns of both parts: a -1 of `base`
        # has the similarity -inf, and so stays behind every speaker found.
        return _best(
            np.concatenate([found[0], rows + split], axis=1),
            np.concatenate([found[1], similarities], axis=1),
            k,
        )

    def allowed(
        self, excluded: Iterable[int], metadata_equals: Mapping[str, str]
    ) -> NDArray[np.bool_]:
        """A mask of the numbers that a search may find.

        These are the speakers whose metadata has all the entries asked for, without `excluded`.
        """
        masks = [part.having(metadata_equals) for part in (self.base, self.recent)]
        allowed = np.concatenate(masks)
        allowed[list(excluded)] = False

        return allowed

    def labeled(self, dimensions: Sequence[int]) -> NDArray[np.bool_]:
        """A mask of the numbers that have statistics of all these label dimensions."""
        counts = [part.table.label_count[:, dimensions] for part in (self.base, self.recent)]
        return np.concatenate([(count > 0).all(axis=1) for count in counts])

    def _search_base(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
    ) -> Neighbors:
        """Rows [P, k] of `base` and their cosines, without the rows that are gone.

        With `allowed` [N of base], only the rows that it marks are found; it marks no row that is
        gone. The neighbors come in one of three ways: straight from the index when every row may be
        found, by exact comparison when few rows may be found, and otherwise from a longer list of
        the index, from which the rows that must not be found are dropped.
        """
        if not len(self.base.table):
            return _best(*_nobody(len(queries)), k)

        # Every row may be found, so that nothing has to be dropped from the answer of the index.
        if allowed is None and not self.num_gone:
            return _best(*self.base.search(queries, min(k, len(self.base.table))), k)

        mask = ~self.gone if allowed is None else allowed
        num_allowed = int(np.count_nonzero(mask))
        # With no row allowed, the division below would fail. With few rows allowed, only a very
        # long list would hold k of them, and comparing these few rows exactly is cheaper. But where
        # about half of the rows or more are allowed, a list of 2 * k + SPARE rows should do, and
        # the index is asked even if it holds few rows.
        if not num_allowed or (num_allowed <= FEW_ALLOWED and num_allowed < len(mask) // 2):
            return _best(*self.base.search_among(queries, k, np.flatnonzero(mask)), k)

        # If allowed rows were spread evenly among all N rows, a list of wanted * N / num_allowed
        # rows (rounded up, as `-(-a // b)` does) would hold `wanted` allowed ones. The spread is
        # never that even, hence SPARE. For example, with k = 5 and 100 speakers of whom 40 are
        # gone, the list has ceil(5 * 100 / 60) + 16 = 25 rows.
        wanted = min(k, num_allowed)
        length = min(len(mask), MAX_LIST, -(-wanted * len(mask) // num_allowed) + SPARE)

        rows, similarities = self.base.search(queries, length)
        # [P, length]: which rows of the lists may be found. An approximate index answers row -1
        # where it has found too few rows. `mask[-1]` is then the mask of the last row, which means
        # nothing here, hence the first condition.
        found = (rows >= 0) & mask[rows]
        # [P]: which queries have fewer allowed rows than `wanted` in their list, for example
        # because the 25 rows nearest to a query are all gone.
        short = found.sum(axis=1) < wanted
        # A similarity of -inf moves a dropped row behind all others, where `_best` makes it -1.
        rows, similarities = _best(rows, np.where(found, similarities, np.float32(-np.inf)), k)

        # Only the short queries are searched again, exactly. `_best` has filled both results up to
        # k columns, so that the lines of the short queries can be replaced.
        if short.any():
            among = self.base.search_among(queries[short], k, np.flatnonzero(mask))
            rows[short], similarities[short] = _best(*among, k)

        return rows, similarities


def _nobody(num_queries: int) -> Neighbors:
    return np.empty((num_queries, 0), dtype=np.int64), np.empty((num_queries, 0), dtype=np.float32)


def _best(rows: NDArray[np.int64], similarities: NDArray[np.float32], k: int) -> Neighbors:
    """The first k columns by similarity, for each query; -1 and -inf where there are fewer than k.

    A column with similarity -inf counts as missing. Equal similarities keep their order.
    """
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    rows, similarities = (
        np.take_along_axis(rows, order, axis=1),
        np.take_along_axis(similarities, order, axis=1),
    )

    missing = ((0, 0), (0, k - rows.shape[1]))
    similarities = np.pad(similarities, missing, constant_values=-np.inf)
    # Missing columns are padded with row 0, which is a real row: only the -inf beside it says that
    # nobody was found there.
    return np.where(np.isfinite(similarities), np.pad(rows, missing), -1), similarities


def _postings(table: SpeakerTable) -> dict[tuple[str, str], NDArray[np.int64]]:
    """The rows that have each entry, such as ("sex", "female"), in their metadata."""
    rows: dict[tuple[str, str], list[int]] = {}
    for row, metadata in enumerate(table.metadata):
        for entry in metadata.items():
            rows.setdefault(entry, []).append(row)

    return {entry: np.asarray(found, dtype=np.int64) for entry, found in rows.items()}


def _rows(table: SpeakerTable) -> dict[str, int]:
    return {speaker: row for row, speaker in enumerate(table.speakers)}
