"""The table that an import starts from: its rows, what its columns mean, and each sample's json.

A CSV file has no types, and guessing them would turn the speaker "007" into 7 and the session "1e5"
into 100000.0. So the cells of a CSV file stay text, except in the three columns to which the
contract of a sample gives another type. The columns of other tables keep their types. A cell that
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
from numpy.typing import NDArray

from shards.errors import BadSample
from shards.samples.keys import printable

KEY_COLUMNS = ("key", "clip")
MEDIA_COLUMNS = ("audio", "video")
FILE_COLUMNS = (*MEDIA_COLUMNS, "face")
TRANSCRIPT_COLUMN = "transcript"

# The columns of a CSV file that are not text in the sample's json.
_TEXT_PARSERS: Mapping[str, Callable[[str], object]] = {
    "duration_seconds": float,
    "ratings": json.loads,
    "demographics": json.loads,
}


@dataclass(frozen=True, slots=True)
class ReadRows:
    """What a file holds, before anybody has asked whether it is a table of utterances.

    `unreadable` has (place, reason) of each row that could not be read. Places count from 0,
    without the header. `null_cells` counts, by column, the cells with a word that stands for an
    empty cell. `is_text` says that the cells have no types, as in a CSV file.
    """

    rows: pa.Table
    unreadable: tuple[tuple[int, str], ...]
    null_cells: Mapping[str, int]
    is_text: bool

    @property
    def places(self) -> NDArray[np.int64]:
        """The place in the file of each row that could be read.

        With row 1 of 4 unreadable, the places are 0, 2, 3.
        """
        every = np.arange(self.rows.num_rows + len(self.unreadable))
        return np.delete(every, [place for place, _ in self.unreadable])


@dataclass(frozen=True, slots=True)
class SourceTable:
    """The rows that could be read, and the place of each in the file.

    `unreadable`, `null_cells` and `is_text` are those of `ReadRows`. `key_column` is the one of
    KEY_COLUMNS that the keys are made from. `embedded` has, by column, the media that lie in the
    table itself; the cells of `rows` then refer to them by row. `joined` names the columns that
    came from other tables; their cells are JSON texts.
    """

    rows: pa.Table
    places: NDArray[np.int64]
    unreadable: tuple[tuple[int, str], ...]
    key_column: str
    is_text: bool
    null_cells: Mapping[str, int]
    embedded: Mapping[str, pa.ChunkedArray]
    joined: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        """Number of rows in the file, including those that could not be read."""
        return self.rows.num_rows + len(self.unreadable)


def metadata_of(row: Mapping[str, Any], source: SourceTable, key: str) -> dict[str, object]:
    """The json of the sample of a row of `source`: every column that is no field of the sample.

    The name in the key column is added to the json when `key` differs from it. Raises BadSample for
    a cell that JSON cannot hold.
    """
    metadata: dict[str, object] = {}
    key_column = source.key_column

    for column, cell in row.items():
        if column in FILE_COLUMNS or column in (TRANSCRIPT_COLUMN, key_column):
            continue
        value = _value(column, cell, source)
        if value is not None:
            metadata[column] = value

    if str(row[key_column]) != key:
        metadata[key_column] = str(row[key_column])

    return metadata


def _value(column: str, cell: object, source: SourceTable) -> object:
    if cell is not None and column in source.joined:
        return json.loads(str(cell))
    if source.is_text and isinstance(cell, str):
        return _parse_text(column, cell)
    return json_value(column, cell)


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


def _parse_text(column: str, cell: str) -> object:
    if not cell.strip():
        return None
    if column not in _TEXT_PARSERS:
        return cell.strip()

    try:
        return json_value(column, _TEXT_PARSERS[column](cell))
    except ValueError as error:
        kind = "seconds" if column == "duration_seconds" else "a JSON object"
        raise BadSample(
            "bad_metadata", f"{column} is '{printable(cell, 80)}', expected {kind}"
        ) from error


def json_value(column: str, cell: object) -> object:
    """`cell` in a form that JSON can hold; None when the json leaves it out.

    Of a struct, every field that is null is left out.
    """
    if isinstance(cell, dict):
        inner = {str(name): json_value(column, value) for name, value in cell.items()}
        return {name: value for name, value in inner.items() if value is not None}
    if isinstance(cell, list):
        return [json_value(column, item) for item in cell]

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
