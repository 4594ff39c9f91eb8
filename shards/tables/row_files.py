"""Tables as files for people: Parquet, CSV or JSON lines, written piece by piece.

The pieces of a file that is larger than memory go through here one after another. The format
follows from the end of the file's name.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from shards.storage.files import atomic_write

KINDS = (".parquet", ".csv", ".jsonl")

Write = Callable[[pa.Table], None]


@contextmanager
def row_file(url: str, schema: pa.Schema, footer: Mapping[bytes, str]) -> Iterator[Write]:
    """A function that appends a table of `schema` to the file, which appears when the block ends.

    Nothing appears when the block raises. The `footer` is kept in a Parquet file only; the other
    formats have no place for one.
    """
    with atomic_write(url) as stream:
        if url.endswith(".csv"):
            with pyarrow.csv.CSVWriter(stream, schema) as writer:
                yield writer.write_table
        elif url.endswith(".jsonl"):
            yield lambda table: _write_json_lines(stream, table)
        else:
            described = schema.with_metadata(dict(footer))
            with pq.ParquetWriter(
                stream, described, compression="zstd", write_page_checksum=True
            ) as rows:
                yield lambda table: rows.write_table(
                    table.replace_schema_metadata(described.metadata)
                )


def write_row_file(url: str, table: pa.Table, footer: Mapping[bytes, str]) -> None:
    """Write one table; it appears whole or not at all."""
    with row_file(url, table.schema, footer) as write:
        write(table)


def _write_json_lines(stream: BinaryIO, table: pa.Table) -> None:
    for row in table.to_pylist():
        stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
