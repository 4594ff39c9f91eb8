"""Reading a CSV or TSV file: what separates its cells, and that no row swallows another.

A cell in quotes may hold line breaks. So one lost quote makes a single cell of everything up to the
next quote, and its row goes on with the cells of another row. A table with such a cell is refused,
unless line breaks are said to be meant; even then a lost quote shows itself where a quote closes in
the middle of a cell. Arrow's reader of CSV was left out: it is four times as fast, but it accepts
text behind a closing quote, and it does not tell at which line a row begins.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from shards.config import ConfigError
from shards.importing.config import TextFormat
from shards.importing.decoding import open_text
from shards.importing.table import FILE_COLUMNS, KEY_COLUMNS, TRANSCRIPT_COLUMN, ReadRows
from shards.samples.keys import printable

_DELIMITERS = (",", ";", "\t")
_BATCH_ROWS = 10_000
# The first line of a file that tells Excel what separates its cells.
_SEPARATOR_LINE = re.compile('"?sep=([^"])"?', re.IGNORECASE)
# What Python's csv module says when the file ends within quotes, and what we say for its words.
_OPEN_AT_THE_END = "unexpected end of data"
_FAULTS = (
    (
        "expected after",
        "text follows the quote that closes a cell (--quoting none reads quotes as text)",
    ),
    ("new-line character", "a carriage return stands outside of quotes"),
)


def read_delimited(url: str, text_format: TextFormat) -> ReadRows:
    """Read the CSV or TSV file at `url`; every cell is text or null, and blank lines are no rows.

    Raises ConfigError when the file is not text, when nothing that separates its cells is
    recognized, and when a cell goes on over several lines although `text_format` does not allow it.
    """
    with open_text(url, text_format.encoding) as lines:
        begin, told = _lines_to_header(url, lines)
        delimiter = text_format.delimiter_character or told or _recognized(url, begin[-1])
        # The header is looked at as a line, and read again as a row.
        rows = _Rows(url, chain(begin, lines), delimiter, text_format)
        table = _arrow_table(rows)

    table, null_cells = _with_nulls(table, text_format.null_values)
    return ReadRows(_without_margin(table), tuple(rows.unreadable), null_cells, is_text=True)


def _lines_to_header(url: str, lines: Iterable[str]) -> tuple[list[str], str | None]:
    """The lines to the header's, and the delimiter that a line for spreadsheets tells, if any.

    In place of that line, and of those that are blank, stand blank lines.
    """
    begin: list[str] = []
    told = None
    for line in lines:
        separator = _SEPARATOR_LINE.fullmatch(line.strip())
        if line.strip() and (separator is None or told is not None):
            begin.append(line)
            break
        begin.append("\n")
        told = separator[1] if separator is not None else told

    if not begin or not begin[-1].strip():
        raise ConfigError(f"{url}: the file has only blank lines, expected a table with a header")
    if "\0" in begin[-1]:
        raise ConfigError(
            f"{url}: the header holds NUL characters; say the encoding of the file, such as "
            "--encoding utf-16-le, or save the table as UTF-8"
        )
    return begin, told


def _recognized(url: str, header: str) -> str:
    """The delimiter that makes the header one of a table of utterances."""
    found = {delimiter: _names(header, delimiter) for delimiter in _DELIMITERS}

    fitting = [
        delimiter
        for delimiter, names in found.items()
        if names & {*KEY_COLUMNS} and names & {*FILE_COLUMNS, TRANSCRIPT_COLUMN}
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ConfigError(
            f"{url}: several characters may separate the cells of the header; say which one it is "
            "by --delimiter comma, semicolon or tab"
        )

    # Of a header that lacks a column, the delimiter is told by the number of names: what is lacking
    # is then told better than here; so is why there are no names at all. With one name there is
    # nothing to separate.
    best = max(_DELIMITERS, key=lambda delimiter: len(found[delimiter]))
    if len(found[best]) != 1:
        return best
    raise ConfigError(
        f"{url}: got the header '{printable(header.strip())}', expected the names of at least two "
        f"columns (in a table of utterances {' or '.join(KEY_COLUMNS)}, and one of "
        f"{', '.join((*FILE_COLUMNS, TRANSCRIPT_COLUMN))}), separated by a comma, a semicolon or a "
        "tab; say another character by --delimiter"
    )


def _names(header: str, delimiter: str) -> set[str]:
    try:
        return {name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])}
    except csv.Error:
        # Whoever reads the header as a row says what is wrong with it.
        return set()


class _Rows:
    """The rows of a CSV file that have as many cells as its header; the others are noted.

    `names` is the header. `unreadable` has (place, reason) of the other rows, and is complete when
    an iteration over the rows has ended.
    """

    def __init__(
        self, url: str, lines: Iterable[str], delimiter: str, text_format: TextFormat
    ) -> None:
        self._url = url
        self._reader = csv.reader(
            lines,
            delimiter=delimiter,
            quoting=csv.QUOTE_NONE if text_format.quoting == "none" else csv.QUOTE_MINIMAL,
            strict=True,
        )
        self._delimiter = delimiter
        self._is_multiline = text_format.multiline_cells
        self.names = self._header()
        self.unreadable: list[tuple[int, str]] = []

    def _header(self) -> list[str]:
        names, fault = next(self._records())
        if fault is not None:
            raise ConfigError(f"{self._url}: the header cannot be read: {fault}; mend its quotes")
        return [name.strip() for name in names]

    def __iter__(self) -> Iterator[list[str]]:
        width = len(self.names)

        for place, (cells, fault) in enumerate(self._records()):
            if fault is None and len(cells) == width:
                yield cells
                continue
            if fault is None:
                shown = printable(self._delimiter.join(cells), 80)
                fault = f"{len(cells)} cells, expected {width}: {shown}"
            self.unreadable.append((place, f"bad_row: {fault}"))

    def _records(self) -> Iterator[tuple[list[str], str | None]]:
        """(cells, None) of each record, or ([], what is wrong) of one that is not CSV."""
        reader = self._reader
        while True:
            begun = reader.line_num
            fault = None
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                cells, fault = [], str(error)

            if fault is not None or reader.line_num != begun + 1:
                fault = self._judged(fault, begun + 1)
            # Blank lines are no rows, not even unreadable ones.
            is_blank = not cells or (len(cells) == 1 and not cells[0].strip())
            if fault is not None or not is_blank:
                yield cells, fault

    def _judged(self, fault: str | None, line: int) -> str | None:
        """What is wrong with the one record that begins at `line`; None when it may be used.

        Raises ConfigError when others may be a part of it.
        """
        spans = self._reader.line_num != line or fault == _OPEN_AT_THE_END
        if fault is None and self._is_multiline:
            return None
        if fault is None or (spans and not self._is_multiline):
            self._refuse(
                line,
                "a quote opens a cell and is not closed in the same line",
                "close the quote, or give --multiline-cells if cells may hold line breaks, or "
                "--quoting none if quotes are a part of the text",
            )

        said = next((ours for theirs, ours in _FAULTS if theirs in fault), fault)
        if self._is_multiline:
            # Where the next row begins is not known any more.
            self._refuse(line, f"in the row that begins there, {said}", "mend its quotes")
        return f"line {line}: {said}"

    def _refuse(self, line: int, what: str, remedy: str) -> NoReturn:
        raise ConfigError(f"{self._url}: line {line}: {what}; {remedy}")


def _arrow_table(rows: _Rows) -> pa.Table:
    schema = pa.schema([pa.field(name, pa.string()) for name in rows.names])
    batches = []

    cells = iter(rows)
    while block := list(islice(cells, _BATCH_ROWS)):
        columns = [pa.array(column, pa.string()) for column in zip(*block, strict=True)]
        batches.append(pa.record_batch(columns, schema=schema))

    return pa.Table.from_batches(batches, schema)


def _with_nulls(table: pa.Table, words: Iterable[str]) -> tuple[pa.Table, dict[str, int]]:
    """`table` with null for blank cells and for `words`, and how many of these each column has."""
    values = pa.array(["", *words], pa.string())
    columns, counts = [], dict[str, int]()

    for name, column in zip(table.schema.names, table.columns, strict=True):
        # The place of each cell among `values`; null for a cell that is none of them.
        found = pc.index_in(pc.utf8_trim_whitespace(column), value_set=values)
        columns.append(pc.if_else(pc.is_valid(found), pa.scalar(None, pa.string()), column))
        if number := pc.sum(pc.greater(found, 0)).as_py():
            counts[name] = number

    return pa.Table.from_arrays(columns, table.schema.names), counts


def _without_margin(table: pa.Table) -> pa.Table:
    """`table` without the empty columns that spreadsheets leave behind its last one."""
    kept = [
        number
        for number, name in enumerate(table.schema.names)
        if name or table.column(number).null_count < table.num_rows
    ]
    return table.select(kept)
