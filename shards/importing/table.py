"""The table that an import starts from: its rows, what its columns mean, and each sample's json.

A CSV file has no types, and guessing them would turn the speaker "007" into 7 and the session "1e5"
into 100000.0. So the cells of a CSV file stay text, except in the three columns to which the
contract of a sample gives another type. The columns of a Parquet file keep their types. A cell that
is empty, null or NaN is left out of the json. pandas was left out: it is one more dependency, holds
text as Python objects, and turns a column of whole numbers with a gap into floats.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.errors import BadSample
from shards.samples.keys import printable
from shards.storage.files import exists, is_remote, read_bytes
from shards.storage.urls import local_path

KEY_COLUMNS = ("key", "clip")
FILE_COLUMNS = ("audio", "video", "face")
TRANSCRIPT_COLUMN = "transcript"

_MAX_REMOTE_TABLE_BYTES = 8 << 30
# Arrow reads a CSV file in blocks, and a row has to fit into one of them.
_CSV_BLOCK_BYTES = 16 << 20
# The columns of a CSV file that are not text in the sample's json.
_TEXT_PARSERS: Mapping[str, Callable[[str], object]] = {
    "duration_seconds": float,
    "ratings": json.loads,
    "demographics": json.loads,
}


@dataclass(frozen=True, slots=True)
class SourceTable:
    """The rows that could be read, and the place of each in the file.

    `unreadable` has (place, reason) of each row that could not be read. Places count from 0,
    without the header. `key_column` is the one of KEY_COLUMNS that the keys are made from.
    `is_text` says that the cells have no types, as in a CSV file.
    """

    rows: pa.Table
    places: NDArray[np.int64]
    unreadable: tuple[tuple[int, str], ...]
    key_column: str
    is_text: bool

    @property
    def num_rows(self) -> int:
        """Number of rows in the file, including those that could not be read."""
        return self.rows.num_rows + len(self.unreadable)


def read_table(url: str) -> SourceTable:
    """Read the `.csv` or `.parquet` file at `url`, local or remote.

    Raises ConfigError when it is not a table of utterances.
    """
    if not exists(url):
        raise ConfigError(f"{url}: no such file, expected a table (.csv or .parquet)")

    try:
        if url.lower().endswith(".parquet"):
            return _source_table(url, pq.read_table(_open(url)), [], is_text=False)
        if url.lower().endswith(".csv"):
            return _source_table(url, *_read_csv(url), is_text=True)
    except pa.ArrowInvalid as error:
        raise ConfigError(
            f"{url}: cannot be read as a table ({error}); expected CSV in UTF-8, or Parquet"
        ) from error

    raise ConfigError(f"{url}: got an unknown kind of table, expected .csv or .parquet")


def metadata_of(
    row: Mapping[str, Any], key_column: str, key: str, *, is_text: bool
) -> dict[str, object]:
    """The json of a row's sample: every column that does not become a field of the sample itself.

    The name in the key column is added to the json when `key` differs from it. Raises BadSample for
    a cell that JSON cannot hold.
    """
    metadata: dict[str, object] = {}

    for column, cell in row.items():
        if column in FILE_COLUMNS or column in (TRANSCRIPT_COLUMN, key_column):
            continue
        value = (
            _parse_text(column, cell) if is_text and cell is not None else _json_value(column, cell)
        )
        if value is not None:
            metadata[column] = value

    if str(row[key_column]) != key:
        metadata[key_column] = str(row[key_column])

    return metadata


def text_cell(row: Mapping[str, Any], column: str) -> str | None:
    """The stripped text in `column`; None where the cell is missing, empty or NaN.

    Raises BadSample when the cell is not text.
    """
    cell = row.get(column)
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if not isinstance(cell, str):
        raise BadSample("bad_cell", f"{column} holds a {type(cell).__name__}, expected text")
    return cell.strip() or None


def _open(url: str) -> pa.NativeFile:
    if is_remote(url):
        return pa.BufferReader(read_bytes(url, max_bytes=_MAX_REMOTE_TABLE_BYTES))
    return pa.memory_map(local_path(url))


def _read_csv(url: str) -> tuple[pa.Table, list[tuple[int, str]]]:
    unreadable: list[tuple[int, str]] = []

    def note_bad_row(row: pa_csv.InvalidRow) -> str:
        cells = f"{row.actual_columns} cells, expected {row.expected_columns}"
        # Arrow counts rows from 1, and the header is the first row.
        unreadable.append((row.number - 2, f"bad_row: {cells}: {printable(row.text, 80)}"))
        return "skip"

    # Arrow numbers the rows only when it reads them in one thread.
    read_options = pa_csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES)

    # The names of the columns are needed before the file is read, to declare every column as text.
    with pa_csv.open_csv(
        _open(url),
        read_options=read_options,
        parse_options=pa_csv.ParseOptions(
            newlines_in_values=True, invalid_row_handler=lambda _: "skip"
        ),
    ) as header:
        names = header.schema.names

    table = pa_csv.read_csv(
        _open(url),
        read_options=read_options,
        parse_options=pa_csv.ParseOptions(
            newlines_in_values=True, invalid_row_handler=note_bad_row
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )

    return table.rename_columns([name.strip() for name in names]), unreadable


def _source_table(
    url: str, rows: pa.Table, unreadable: list[tuple[int, str]], *, is_text: bool
) -> SourceTable:
    rows.validate(full=True)

    names = rows.schema.names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(
            f"{url}: columns share a name ({', '.join(repeated)}); rename all but one"
        )

    key_column = next((name for name in KEY_COLUMNS if name in names), None)
    if key_column is None:
        raise ConfigError(
            f"{url}: got the columns {', '.join(names)}, expected one called key or clip"
        )

    if not {*FILE_COLUMNS, TRANSCRIPT_COLUMN} & set(names):
        expected = f"at least one of {', '.join(FILE_COLUMNS)}, {TRANSCRIPT_COLUMN}"
        raise ConfigError(f"{url}: got the columns {', '.join(names)}, expected {expected}")

    # A corpus may be numbered; as text, a number is a key like any other.
    if pa.types.is_integer(rows.schema.field(key_column).type):
        rows = rows.set_column(
            names.index(key_column), key_column, rows[key_column].cast(pa.string())
        )

    # `rows` has gaps where rows of the file could not be read: with row 1 of 4 unreadable, the
    # places are 0, 2, 3.
    places = np.delete(
        np.arange(rows.num_rows + len(unreadable)), [place for place, _ in unreadable]
    )

    return SourceTable(rows, places, tuple(unreadable), key_column, is_text)


def _parse_text(column: str, cell: str) -> object:
    if not cell.strip():
        return None
    if column not in _TEXT_PARSERS:
        return cell.strip()

    try:
        return _json_value(column, _TEXT_PARSERS[column](cell))
    except ValueError as error:
        kind = "seconds" if column == "duration_seconds" else "a JSON object"
        raise BadSample(
            "bad_metadata", f"{column} is '{printable(cell, 80)}', expected {kind}"
        ) from error


def _json_value(column: str, cell: object) -> object:
    """`cell` in a form that JSON can hold; None when the json leaves it out.

    Of a struct, every field that is null is left out.
    """
    if isinstance(cell, dict):
        inner = {str(name): _json_value(column, value) for name, value in cell.items()}
        return {name: value for name, value in inner.items() if value is not None}
    if isinstance(cell, list):
        return [_json_value(column, item) for item in cell]

    if isinstance(cell, Decimal):
        cell = float(cell)
    if isinstance(cell, float):
        if math.isinf(cell):
            raise BadSample("bad_metadata", f"{column} is infinite, expected a finite number")
        return None if math.isnan(cell) else cell

    if isinstance(cell, datetime | date | time):
        return cell.isoformat()
    if isinstance(cell, timedelta):
        return cell.total_seconds()
    if cell is None or isinstance(cell, str | int):
        return cell if cell != "" else None

    raise BadSample(
        "bad_metadata", f"{column} holds a {type(cell).__name__}, which JSON cannot represent"
    )
