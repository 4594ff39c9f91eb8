"""Parquet files by URL: opened with their page checksums verified, damage named.

The project's tables say in their footer, under METADATA_KEY, what they are.
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
    """The table at `url`; damage found while it is opened or read is a ConfigError that names it
    and the `remedy`.
    """
    with open_ranged(url) as reader, _SeekableReader(reader) as source:
        try:
            with pa.PythonFile(source, mode="r") as stream:
                yield pq.ParquetFile(stream, page_checksum_verification=True)
        except ConfigError:
            raise
        except (
            OSError,
            ValueError,
            NotImplementedError,
        ) as error:  # all of Arrow's, those of its JSON and texts too
            if source.failed:
                raise
            raise ConfigError(f"{url}: not a readable Parquet file ({error}); {remedy}") from error


def count_errors(url: str, *, remedy: str) -> tuple[dict[str, int], float]:
    """How many rows of a table carry each reason code, and its seconds of sound."""
    with open_parquet(url, remedy=remedy) as file:
        table = file.read(columns=["error", "duration_seconds"])
    return count_reasons(table["error"].to_pylist()), pc.sum(
        table["duration_seconds"]
    ).as_py() or 0.0


class _SeekableReader(io.RawIOBase):
    """A RangedReader as the file object Arrow wants: local and remote tables are read by the same
    code.

    `failed` tells a storage that does not answer from a table that is damaged; Arrow calls both
    OSError.
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
