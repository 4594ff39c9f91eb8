"""Reading the table of an import: the file by its kind, and whether it is a table of utterances."""

import os
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from shards.config import ConfigError
from shards.importing.config import TextFormat
from shards.importing.delimited import read_delimited
from shards.importing.embedded import take_out_media
from shards.importing.json_lines import read_json_lines
from shards.importing.parquet import read_parquet
from shards.importing.table import (
    FILE_COLUMNS,
    KEY_COLUMNS,
    TRANSCRIPT_COLUMN,
    ReadRows,
    SourceTable,
)
from shards.samples.keys import printable
from shards.storage.files import exists, is_remote
from shards.storage.urls import local_path

KINDS = ".csv, .tsv, .jsonl, .ndjson or .parquet"


def read_table(url: str, text_format: TextFormat | None = None) -> SourceTable:
    """Read the table at `url`, local or remote, whose name ends as in `KINDS`.

    Raises ConfigError when the file cannot be read, or is not a table of utterances.
    """
    read = read_rows(url, text_format or TextFormat())

    names = read.rows.schema.names
    _require_columns(url, names)
    key_column = next(name for name in KEY_COLUMNS if name in names)
    rows, embedded = take_out_media(_with_plain_names(read.rows, key_column))

    return SourceTable(
        rows, read.places, read.unreadable, key_column, read.is_text, read.null_cells, embedded
    )


def read_rows(url: str, text_format: TextFormat) -> ReadRows:
    """Read a table of anything, whose name ends as in `KINDS`; its columns have distinct names.

    Raises ConfigError when the file cannot be read as a table.
    """
    if not exists(url):
        raise ConfigError(f"{url}: no such file, expected a table ({KINDS})")
    if not is_remote(url) and os.path.isdir(local_path(url)):
        raise ConfigError(f"{url}: got a folder, expected a table ({KINDS})")
    read = _read_by_name(url, text_format)

    names = read.rows.schema.names
    repeated = sorted({printable(name) for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(
            f"{url}: columns share a name ({', '.join(repeated)}); rename all but one"
        )
    return read


def _read_by_name(url: str, text_format: TextFormat) -> ReadRows:
    name = url.lower()
    if name.endswith(".parquet"):
        return read_parquet(url)
    if name.endswith((".csv", ".tsv")):
        return read_delimited(url, text_format)
    if name.endswith((".jsonl", ".ndjson")):
        return read_json_lines(url, text_format)
    raise ConfigError(f"{url}: got an unknown kind of table, expected {KINDS}")


def _require_columns(url: str, names: Sequence[str]) -> None:
    """Raise ConfigError unless the columns that a table of utterances needs are there."""
    shown = ", ".join(printable(name) for name in names)

    if not set(KEY_COLUMNS) & set(names):
        raise ConfigError(
            f"{url}: got the columns {shown}, expected one called {' or '.join(KEY_COLUMNS)}"
        )
    if not {*FILE_COLUMNS, TRANSCRIPT_COLUMN} & set(names):
        expected = f"at least one of {', '.join(FILE_COLUMNS)}, {TRANSCRIPT_COLUMN}"
        raise ConfigError(f"{url}: got the columns {shown}, expected {expected}")


def _with_plain_names(rows: pa.Table, key_column: str) -> pa.Table:
    """`rows` with keys and speakers that are compared by what they look like.

    A corpus may be numbered; as text, a number is a key like any other. An accented letter has two
    spellings in Unicode, one of them with the accent apart (NFD), which the file names of a Mac
    have: the composed one (NFC) makes one speaker of both.
    """
    for name in {key_column, "speaker"} & set(rows.schema.names):
        column = rows[name]
        if name == key_column and pa.types.is_integer(column.type):
            column = column.cast(pa.string())
        if pa.types.is_string(column.type):
            column = pc.utf8_normalize(column, form="NFC")
        rows = rows.set_column(rows.schema.names.index(name), name, column)
    return rows
