"""The text of a table: its bytes become characters, or an error names the option that reads them.

A byte order mark says what a file is encoded in; without one it is UTF-8, which nearly all other
text fails to be, or UTF-16, where every second byte of a header is zero. Guessing among the
encodings of one byte a character was left out: each of them reads every file, so a wrong guess
changes names without an error.
"""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, TextIO

from shards.config import ConfigError
from shards.storage.files import is_remote, read_bytes
from shards.storage.urls import local_path

MAX_REMOTE_TABLE_BYTES = 8 << 30

# The mark of UTF-32 comes first, because it begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NO_TEXT = (
    (b"\x1f\x8b", "a gzip file", "unpack it"),
    (b"PK\x03\x04", "a zip file or a spreadsheet", "unpack it, or save it as CSV"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet", "save it as CSV"),
    (b"PAR1", "a Parquet file", "let its name end in .parquet"),
)


def open_bytes(url: str) -> BinaryIO:
    """The bytes of the table at `url`; a remote table is read into memory.

    Raises ConfigError for a remote table of more than `MAX_REMOTE_TABLE_BYTES`.
    """
    if not is_remote(url):
        return open(local_path(url), "rb")
    try:
        return io.BytesIO(read_bytes(url, max_bytes=MAX_REMOTE_TABLE_BYTES))
    except ValueError as error:
        raise ConfigError(str(error)) from error


@contextmanager
def open_text(url: str, encoding: str | None) -> Iterator[TextIO]:
    """The lines of the table at `url`, with their ends, and without a byte order mark.

    With `encoding` None, the encoding is recognized. Raises ConfigError, inside the block too, when
    the bytes are not text in this encoding.
    """
    with open_bytes(url) as stream:
        begin = stream.read(4)
        stream.seek(0)
        _refuse_other_files(url, begin)
        used = encoding or _recognized(begin)

        try:
            with _lines(stream, used) as lines:
                yield lines
        except UnicodeError as error:
            raise ConfigError(_undecodable(url, used, error)) from error


def _lines(stream: BinaryIO, encoding: str) -> TextIO:
    """Lines as the first one ends: a carriage return alone ends them only in files of old Macs."""
    first = io.TextIOWrapper(stream, encoding=encoding, newline="")
    newline = "" if first.readline().endswith("\r") else "\n"
    first.detach()
    stream.seek(0)

    lines = io.TextIOWrapper(stream, encoding=encoding, newline=newline)
    # An encoding that was given leaves the byte order mark in the text.
    if lines.read(1) != "\ufeff":
        lines.seek(0)
    return lines


def _recognized(begin: bytes) -> str:
    marked = [name for mark, name in _BYTE_ORDER_MARKS if begin.startswith(mark)]
    is_zero = [byte == 0 for byte in begin]
    if marked:
        return marked[0]
    if is_zero == [False, True, False, True]:
        return "utf-16-le"
    return "utf-16-be" if is_zero == [True, False, True, False] else "utf-8"


def _refuse_other_files(url: str, begin: bytes) -> None:
    if not begin:
        raise ConfigError(f"{url}: the file is empty, expected a table with a header")
    for magic, kind, remedy in _NO_TEXT:
        if begin.startswith(magic):
            raise ConfigError(f"{url}: got {kind}, expected text; {remedy}")


def _undecodable(url: str, encoding: str, error: UnicodeError) -> str:
    """What is wrong with a table that is not text in `encoding`, where, and what helps."""
    place = ""
    # The error counts bytes from somewhere inside the file. Counting lines again is exact, except
    # in UTF-16 and UTF-32, where a line end has several bytes.
    if isinstance(error, UnicodeDecodeError) and "16" not in encoding and "32" not in encoding:
        with open_bytes(url) as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    line.decode(encoding)
                except UnicodeDecodeError as found:
                    place = f"line {number} holds the byte 0x{line[found.start]:02x}, which "
                    break

    why = f"{place}is not {encoding}" if place else f"the file is not {encoding} ({error})"
    return (
        f"{url}: {why}; say the encoding of the file, such as --encoding cp1252 for files of "
        "Windows programs in Western Europe, or save the table as UTF-8"
    )
