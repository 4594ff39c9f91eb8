"""Parquet files by URL, with their page checksums verified and damage reported.

The footer of each of the project's tables says under METADATA_KEY what the table is.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shards.config import ConfigError
from shards.errors import count_reasons
from shards.storage.files import RangedReader, open_ranged

METADATA_KEY = b"emostream"


@contextmanager
def open_parquet(url: str, *, remedy: str) -> Iterator[pq.ParquetFile]:
    """Open the table at `url`.

    Raises ConfigError for damage that is found while the table is opened or read; the message names
    the table and ends with the `remedy`. An OSError of the storage stays an OSError.
    """
    with open_ranged(url) as reader, _SeekableReader(reader) as source:
        try:
            with pa.PythonFile(source, mode="r") as stream:
                yield pq.ParquetFile(stream, page_checksum_verification=True)
        except ConfigError:
            raise
        # These three cover all errors of Arrow, and the errors of the JSON and texts in a table.
        except (OSError, ValueError, NotImplementedError) as error:
            # The storage has failed, which says nothing about the table.
            if source.failed:
                raise
            raise ConfigError(f"{url}: not a readable Parquet file ({error}); {remedy}") from error


def count_errors(url: str, *, remedy: str) -> tuple[dict[str, int], float]:
    """The number of rows with each reason code in a table, and the table's seconds of sound."""
    with open_parquet(url, remedy=remedy) as file:
        table = file.read(columns=["error", "duration_seconds"])

    return count_reasons(table["error"].to_pylist()), pc.sum(
        table["duration_seconds"]
    ).as_py() or 0.0


class _SeekableReader(io.RawIOBase):
    """A RangedReader as the file object that Arrow wants, for local and remote tables alike.

    `failed` becomes True when the storage fails. Without it, a storage that fails and a table that
    is damaged would look the same, because Arrow raises OSError for both.
    """

    def __init__(self, reader: RangedReader) -> None:
        self._reader = reader
        self._position = 0
        self.failed = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._reader.size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self._reader.size if size is None or size < 0 else size
        try:
            data = self._reader.read_at(self._position, wanted)
        except OSError:
            self.failed = True
            raise
        self._position += len(data)
        return data
