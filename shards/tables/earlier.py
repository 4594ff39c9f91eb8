"""Results that need not be made again: which rows of earlier tables hold which content.

A table of predictions or of embeddings tells of each row what it was made from (its `content`). A
shard that has changed is read again, but a sample whose content is in an earlier table takes over
the row that is there, and no model sees it. The digests of all earlier tables are one sorted array,
24 bytes a row, which all readers of a node share. Their rows are read when they are asked for, a
table at a time: neighbors in a changed shard were neighbors before. A database of results lost: it
would be a second truth beside the tables.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.samples.content import CONTENT_BYTES
from shards.storage.parquet import open_parquet

CONTENT_COLUMN = "content"
CONTENT_TYPE = pa.binary(CONTENT_BYTES)
READ_THREADS = 16
CACHE_BYTES = 64 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EarlierResults:
    """The place of every result that can be taken over, sorted by content.

    Result i has the content `contents[i]`, and lies in row `rows[i]` of the table
    `tables[table_numbers[i]]`. All arrays have the shape [N].
    """

    tables: tuple[str, ...]
    contents: NDArray[np.bytes_]
    table_numbers: NDArray[np.int32]
    rows: NDArray[np.int32]

    def find(self, content: bytes) -> tuple[str, int] | None:
        """The URL of a table and the row in it; None when no result has that content."""
        wanted = np.frombuffer(content, self.contents.dtype)
        place = int(np.searchsorted(self.contents, wanted)[0])
        if place == len(self.contents) or self.contents[place] != wanted[0]:
            return None

        return self.tables[self.table_numbers[place]], int(self.rows[place])


def index_results(urls: Sequence[str]) -> EarlierResults | None:
    """The results in the tables at `urls`; None when there is none.

    Of results with the same content, the first in the order of the tables' URLs and rows counts. A
    table that cannot be read, or that an earlier release wrote without contents, has no results.
    """
    ordered = sorted(urls)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        columns = list(pool.map(_contents, ordered))

    rows = [np.flatnonzero(column.is_valid()) for column in columns]
    contents = np.concatenate([_fixed_bytes(column) for column in columns] or [_fixed_bytes()])
    if not len(contents):
        return None

    order = np.argsort(contents, kind="stable")
    numbers = np.repeat(np.arange(len(ordered)), [len(found) for found in rows])
    return EarlierResults(
        tables=tuple(ordered),
        contents=contents[order],
        table_numbers=numbers[order].astype(np.int32),
        rows=np.concatenate(rows)[order].astype(np.int32),
    )


class EarlierRows:
    """Reads the rows that `results` knows of, and keeps the tables that were read last."""

    def __init__(self, results: EarlierResults) -> None:
        self._results = results
        self._tables: OrderedDict[str, pa.Table | None] = OrderedDict()

    def find(self, content: bytes) -> dict[str, Any] | None:
        """The row with that content, by column; None when it must be made anew."""
        place = self._results.find(content)
        table = None if place is None else self._table(place[0])
        if place is None or table is None or place[1] >= table.num_rows:
            return None

        row: dict[str, Any] = table.slice(place[1], 1).to_pylist()[0]
        # The table may have been replaced since it was indexed.
        return row if row[CONTENT_COLUMN] == content else None

    def _table(self, url: str) -> pa.Table | None:
        if url not in self._tables:
            self._tables[url] = _read_table(url)
        self._tables.move_to_end(url)

        while len(self._tables) > 1 and self._num_bytes() > CACHE_BYTES:
            self._tables.popitem(last=False)
        return self._tables[url]

    def _num_bytes(self) -> int:
        return sum(table.nbytes for table in self._tables.values() if table is not None)


def _read_table(url: str) -> pa.Table | None:
    try:
        with open_parquet(url, remedy="its utterances are done again") as file:
            return file.read(use_threads=False).combine_chunks()
    except (ConfigError, FileNotFoundError) as error:
        log.warning("nothing is taken over from an earlier table: %s", error)
        return None


def _contents(url: str) -> pa.Array:
    try:
        with open_parquet(url, remedy="its utterances are done again") as file:
            if CONTENT_COLUMN not in file.schema_arrow.names:
                return pa.array([], CONTENT_TYPE)
            column = file.read(columns=[CONTENT_COLUMN], use_threads=False)[CONTENT_COLUMN]
    except (ConfigError, FileNotFoundError) as error:
        log.warning("nothing is taken over from an earlier table: %s", error)
        return pa.array([], CONTENT_TYPE)

    return pa.concat_arrays([pa.array([], CONTENT_TYPE), *column.cast(CONTENT_TYPE).chunks])


def _fixed_bytes(column: pa.Array | None = None) -> NDArray[np.bytes_]:
    """The values of a column of contents that are not null, [N] of 16 bytes."""
    dtype = np.dtype(f"S{CONTENT_BYTES}")
    if column is None or column.null_count == len(column):
        return np.empty(0, dtype)

    values = column.drop_null()
    found: NDArray[np.bytes_] = np.frombuffer(values.buffers()[1], dtype)
    return found[values.offset : values.offset + len(values)]
