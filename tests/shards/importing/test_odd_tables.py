"""The tables that people really have: each is read with the cells it holds, or refused by an error
that names the remedy. The expected cells were written down by hand.
"""

import codecs
import csv
import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.config import ConfigError
from shards.importing.config import TextFormat
from shards.importing.reading import read_table

LOST_QUOTE = (
    b"clip,audio,transcript,speaker\n"
    b'a1,plain.mp3,"oh no,s1\n'
    b"a2,padded.mp3,fine,s2\n"
    b'a3,plain.flac,"ok",s3\n'
    b'a4,sound.m4a,"yes",s4\n'
)
TWO_LINES = b'clip,audio,transcript\na,1.flac,"oh\nno"\nb,2.flac,yes\n'
NAMES = "clip,audio,speaker\na,1.flac,Zoë\n"

# What the file holds, its name, the options, and the rows: (cells of the first columns).
READ: dict[str, tuple[bytes, str, dict[str, Any], list[tuple[str | None, ...]]]] = {
    "commas": (NAMES.encode(), "t.csv", {}, [("a", "1.flac", "Zoë")]),
    "a byte order mark": (NAMES.encode("utf-8-sig"), "t.csv", {}, [("a", "1.flac", "Zoë")]),
    "a mark and its encoding": (
        NAMES.encode("utf-8-sig"),
        "t.csv",
        {"encoding": "utf-8"},
        [("a", "1.flac", "Zoë")],
    ),
    "UTF-16": (NAMES.encode("utf-16"), "t.csv", {}, [("a", "1.flac", "Zoë")]),
    "UTF-16, big end first": (
        codecs.BOM_UTF16_BE + NAMES.encode("utf-16-be"),
        "t.csv",
        {},
        [("a", "1.flac", "Zoë")],
    ),
    "UTF-16 without a mark": (NAMES.encode("utf-16-le"), "t.csv", {}, [("a", "1.flac", "Zoë")]),
    "UTF-16 without a mark, big end first": (
        NAMES.encode("utf-16-be"),
        "t.csv",
        {},
        [("a", "1.flac", "Zoë")],
    ),
    "UTF-16 without a mark, named": (
        NAMES.encode("utf-16-le"),
        "t.csv",
        {"encoding": "utf-16-le"},
        [("a", "1.flac", "Zoë")],
    ),
    "UTF-32": (NAMES.encode("utf-32"), "t.csv", {}, [("a", "1.flac", "Zoë")]),
    "cp1252, named": (
        NAMES.encode("cp1252"),
        "t.csv",
        {"encoding": "cp1252"},
        [("a", "1.flac", "Zoë")],
    ),
    "semicolons": (
        b"clip;audio;speaker\na;1,5.flac;007\n",
        "t.csv",
        {},
        [("a", "1,5.flac", "007")],
    ),
    "tabs": (b"clip\taudio\tspeaker\na\t1.flac\t1e5\n", "t.tsv", {}, [("a", "1.flac", "1e5")]),
    "tabs in a .csv": (b"clip\taudio\na\tx,y.flac\n", "t.csv", {}, [("a", "x,y.flac")]),
    "bars, named": (b"clip|audio\na|1.flac\n", "t.csv", {"delimiter": "|"}, [("a", "1.flac")]),
    "a tab, named": (b"clip\taudio\na\t1.flac\n", "t.csv", {"delimiter": "tab"}, [("a", "1.flac")]),
    "a line for spreadsheets": (b"sep=|\nclip|audio\na|1.flac\n", "t.csv", {}, [("a", "1.flac")]),
    "a name with a comma": (
        b'clip,audio,"note, by hand"\na,1.flac,x\n',
        "t.csv",
        {},
        [("a", "1.flac", "x")],
    ),
    "line ends of Windows": (b"clip,audio\r\na,1.flac\r\n", "t.csv", {}, [("a", "1.flac")]),
    "line ends of old Macs": (b"clip,audio\ra,1.flac\r", "t.csv", {}, [("a", "1.flac")]),
    "no line end at the end": (b"clip,audio\na,1.flac", "t.csv", {}, [("a", "1.flac")]),
    "blank lines": (b" \n\nclip,audio\n\t\na,1.flac\n\n", "t.csv", {}, [("a", "1.flac")]),
    "quotes": (
        b'clip,audio,transcript\na,1.flac,"so, ""yes"""\n',
        "t.csv",
        {},
        [("a", "1.flac", 'so, "yes"')],
    ),
    "a quote within a cell": (
        b'clip,audio,transcript\na,1.flac,5" wide\n',
        "t.csv",
        {},
        [("a", "1.flac", '5" wide')],
    ),
    "quotes as text": (
        b'clip\taudio\ttranscript\na\t1.mp3\t"Oh," he said.\nb\t2.mp3\t"Oh no\n',
        "t.tsv",
        {"quoting": "none"},
        [("a", "1.mp3", '"Oh," he said.'), ("b", "2.mp3", '"Oh no')],
    ),
    "columns without a name or a cell": (
        b"clip,audio,,\na,1.flac,,\n",
        "t.csv",
        {},
        [("a", "1.flac")],
    ),
    "words for nothing": (
        b'clip,transcript,speaker\na,NA,nan\nb,None,<NA>\nc,"null",N/A\nd, NaN ,NULL\ne,n/a,#N/A\n',
        "t.csv",
        {},
        [(key, None, None) for key in "abcde"],
    ),
    "words that only begin so": (
        b"clip,transcript,speaker\na,None of it,Nan\nb,nana,NATO\n",
        "t.csv",
        {},
        [("a", "None of it", "Nan"), ("b", "nana", "NATO")],
    ),
    "words of one's own": (
        b"clip,transcript,speaker\na,-,NA\n",
        "t.csv",
        {"null_values": ("-",)},
        [("a", None, "NA")],
    ),
    "every word meant": (
        b"clip,transcript,speaker\na,None,\n",
        "t.csv",
        {"null_values": ()},
        [("a", "None", None)],
    ),
    "a carriage return within quotes": (
        b'clip,audio,transcript\na,1.flac,"oh\rno"\n',
        "t.csv",
        {},
        [("a", "1.flac", "oh\rno")],
    ),
    "cells over two lines, meant": (
        TWO_LINES,
        "t.csv",
        {"multiline_cells": True},
        [("a", "1.flac", "oh\nno"), ("b", "2.flac", "yes")],
    ),
    "JSON lines": (
        '{"clip": "2024-01-01", "transcript": "NA"}\n\n{"clip": "b", "speaker": "Zoë"}\n'.encode(),
        "t.jsonl",
        {},
        [("2024-01-01", "NA", None), ("b", None, "Zoë")],
    ),
    "JSON lines in UTF-16": (
        '{"key": "a", "transcript": "Zoë"}\n'.encode("utf-16"),
        "t.ndjson",
        {},
        [("a", "Zoë")],
    ),
}


@pytest.mark.parametrize("case", READ)
def test_a_table_is_read_with_its_cells(tmp_path: Path, case: str) -> None:
    """Encoding, delimiter, quotes and words for nothing are understood, or named by an option."""
    content, name, options, expected = READ[case]
    (tmp_path / name).write_bytes(content)
    source = read_table(str(tmp_path / name), TextFormat(**options))
    assert source.unreadable == ()
    assert [tuple(row.values()) for row in source.rows.to_pylist()] == expected


# What the file holds, its name, the options, and what the error has to say.
REFUSED: dict[str, tuple[bytes, str, dict[str, Any], tuple[str, ...]]] = {
    "a lost quote": (LOST_QUOTE, "t.csv", {}, ("line 2:", "--multiline-cells", "--quoting none")),
    # The quote that would close the cell stands in front of `ok`, in the middle of line 4.
    "a lost quote among cells over lines": (
        LOST_QUOTE,
        "t.csv",
        {"multiline_cells": True},
        ("the row that begins", "line 2:", "mend its quotes"),
    ),
    "cells over two lines": (TWO_LINES, "t.csv", {}, ("line 2:", "--multiline-cells")),
    "a quote open at the end": (
        b'clip,audio,transcript\n\na,1.flac,"oh',
        "t.csv",
        {},
        ("line 3:", "close the quote"),
    ),
    "a quote open at the end, meant": (
        b'clip,audio,transcript\na,1.flac,"oh\n\n',
        "t.csv",
        {"multiline_cells": True},
        ("line 2:", "unexpected end", "mend its quotes"),
    ),
    "a header with a stray line end": (
        b"\nclip,au\rdio\na,1.flac\n",
        "t.csv",
        {},
        ("header", "line 2", "carriage return"),
    ),
    "a header over two lines": (
        b'clip,audio,"tran\nscript"\na,1.flac,oh\n',
        "t.csv",
        {},
        ("line 1:", "--multiline-cells"),
    ),
    "cp1252": (
        b"clip,audio,speaker\nb,2.flac,Bo\n" + NAMES.encode("cp1252").splitlines()[1],
        "t.csv",
        {},
        ("line 3", "0xeb", "--encoding cp1252"),
    ),
    "UTF-32 without a mark": (
        "clip,audio\n".encode("utf-32-le"),
        "t.csv",
        {},
        ("NUL", "--encoding utf-16"),
    ),
    "half of UTF-16": (NAMES.encode("utf-16")[:-1], "t.csv", {}, ("not utf-16", "--encoding")),
    "another delimiter": (b"clip|audio\na|1.flac\n", "t.csv", {}, ("clip|audio", "--delimiter")),
    "a file for another program": (b"PK\x03\x04....", "t.csv", {}, ("spreadsheet", "as CSV")),
    "gzip": (b"\x1f\x8b\x08\x00", "t.csv", {}, ("gzip", "unpack")),
    "an empty file": (b"", "t.csv", {}, ("empty", "header")),
    "blank lines only": (b"\n \n", "t.csv", {}, ("blank lines", "header")),
    "no key": (b"audio,speaker\n1.flac,a\n", "t.csv", {}, ("audio, speaker", "key or clip")),
    "no media": (b"clip;speaker\n1;a\n", "t.csv", {}, ("clip, speaker", "at least one of audio")),
    "one name twice": (b"clip,audio,audio\na,b,c\n", "t.csv", {}, ("share a name (audio)",)),
    "another kind": (b"clip,audio\n", "t.txt", {}, (".jsonl", ".parquet")),
    "a JSON list": (b'[\n{"clip": "a"}\n]\n', "t.ndjson", {}, ()),
    "no JSON": (b"clip,audio\na,b\n", "t.jsonl", {}, ("line 1", "a JSON object in each line")),
    "a JSON column of two types": (
        b'{"clip": "a", "audio": "b"}\n{"clip": 7, "audio": "c"}\n',
        "t.jsonl",
        {},
        ("clip", "no type in common", "quotes"),
    ),
    "an encoding that reads nothing": (
        NAMES.encode(),
        "t.csv",
        {"encoding": "undefined"},
        ("not undefined", "--encoding"),
    ),
    "no Parquet": (b"clip,audio\na,b\n", "t.parquet", {}, ("Parquet", "save it as CSV")),
    "half of Parquet": (b"PAR1" + bytes(40) + b"PAR1", "t.parquet", {}, ("Parquet",)),
    "an empty Parquet file": (b"", "t.parquet", {}, ("Parquet",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_cannot_be_read_says_what_helps(tmp_path: Path, case: str) -> None:
    """The error names the file, what is wrong, where, and the remedy; it is never a traceback."""
    content, name, options, said = REFUSED[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        read_table(str(tmp_path / name), TextFormat(**options))
    message = str(refused.value)
    assert name in message
    assert [part for part in said if part not in message] == []
    assert "\n" not in message


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    """A folder with the name of a table is refused like a file that is none."""
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(ConfigError, match="got a folder"):
        read_table(str(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"b,2.flac", "2 cells, expected 3: b,2.flac"),
        (b'b,2.flac,"he" said', "line 3: text follows the quote that closes a cell"),
        (b"b,2.flac,x\ry", "line 3: a carriage return stands outside of quotes"),
        (b"b,2.flac," + b"x" * 200_000, "line 3: field larger than field limit"),
    ],
)
def test_a_row_that_cannot_be_read_costs_no_other(tmp_path: Path, line: bytes, said: str) -> None:
    """The row keeps its place in the file and its reason."""
    table = tmp_path / "t.csv"
    table.write_bytes(b"clip,audio,transcript\na,1.flac,x\n" + line + b"\nc,3.flac,z\n")
    source = read_table(str(table))
    [(place, reason)] = source.unreadable
    assert place == 1
    assert reason.startswith("bad_row: ")
    assert said in reason
    assert source.rows["clip"].to_pylist() == ["a", "c"]
    assert source.places.tolist() == [0, 2]


def test_words_for_nothing_are_counted(tmp_path: Path) -> None:
    """How many cells of which column were taken for empty; cells that are empty do not count."""
    (tmp_path / "t.csv").write_bytes(b"clip,transcript,speaker\na,NA,\nb,nan,None\n")
    assert read_table(str(tmp_path / "t.csv")).null_cells == {"transcript": 2, "speaker": 1}


@pytest.mark.parametrize("bad", ["", "ab", '"', "\n"])
def test_a_delimiter_is_one_character(bad: str) -> None:
    """A quote or a line break separates no cells, and neither does a word."""
    with pytest.raises(ConfigError, match="--delimiter"):
        TextFormat(delimiter=bad)


@pytest.mark.parametrize("bad", ["klingon", "hex", "a\0b"])
def test_an_encoding_is_one_of_text(bad: str) -> None:
    """An encoding that Python does not know, or that makes no text, is refused by name."""
    with pytest.raises(ConfigError, match="--encoding"):
        TextFormat(encoding=bad)


CELLS = st.text(
    st.one_of(st.sampled_from(" \t\r\n,;\"'\\\0éß€\ufeff"), st.characters(codec="utf-8")),
    max_size=8,
)


@given(
    rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=6),
    delimiter=st.sampled_from(",;\t"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    is_multiline=st.booleans(),
)
def test_every_csv_is_read_as_it_was_written_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[str]],
    delimiter: str,
    quoting: Any,
    line_end: str,
    encoding: str,
    is_multiline: bool,
) -> None:
    """Whatever Python's csv module has written comes back cell by cell; a table is refused exactly
    when a cell holds a line end and --multiline-cells is not given.
    """
    # Early versions of the module put no quotes around a line end other than their own.
    if any({"\r", "\n"} & set(cell) for row in rows for cell in row):
        quoting = csv.QUOTE_ALL
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=line_end)
    writer.writerows([["clip", "audio", "note"], *rows])
    table = tmp_path_factory.mktemp("csv") / "t.csv"
    table.write_bytes(text.getvalue().encode(encoding))

    ends = {"\n", "\r"} if line_end == "\r" else {"\n"}
    has_line_breaks = any(ends & set(cell) for row in rows for cell in row)
    text_format = TextFormat(multiline_cells=is_multiline, null_values=())
    if has_line_breaks and not is_multiline:
        with pytest.raises(ConfigError, match="--multiline-cells"):
            read_table(str(table), text_format)
        return

    source = read_table(str(table), text_format)
    assert source.unreadable == ()
    read = [list(row.values()) for row in source.rows.to_pylist()]
    assert read == [
        [cell if cell.strip() else None for cell in (unicodedata.normalize("NFC", key), *others)]
        for key, *others in rows
    ]


JSON_CELLS = st.one_of(st.none(), st.text(max_size=8))


@given(
    rows=st.lists(st.fixed_dictionaries({"clip": JSON_CELLS, "audio": JSON_CELLS}), min_size=1),
    is_ascii=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_json_lines_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Any]],
    is_ascii: bool,
    line_end: str,
) -> None:
    """Whatever Python's json module has written comes back, and keys are composed."""
    table = tmp_path_factory.mktemp("json") / "t.jsonl"
    lines = [json.dumps(row, ensure_ascii=is_ascii) + line_end for row in rows]
    table.write_bytes("".join(lines).encode())
    composed = [
        row | {"clip": None if row["clip"] is None else unicodedata.normalize("NFC", row["clip"])}
        for row in rows
    ]
    assert read_table(str(table)).rows.to_pylist() == composed


@given(
    content=st.binary(max_size=200),
    begin=st.sampled_from([b"", b"\n", b"clip,audio\n", b"clip,audio\r", b"sep=;\nclip;audio\n"]),
    name=st.sampled_from(["t.csv", "t.tsv", "t.jsonl", "t.parquet"]),
)
def test_no_bytes_end_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, begin: bytes, name: str
) -> None:
    """Any file is a table, or refused by an error for people."""
    table = tmp_path_factory.mktemp("bytes") / name
    table.write_bytes(begin + content)
    try:
        source = read_table(str(table))
    except ConfigError:
        return
    assert source.num_rows == len(source.places) + len(source.unreadable)


def test_a_remote_table_is_read_like_a_local_one() -> None:
    """The table may lie in any storage that fsspec knows."""
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/odd/t.csv", NAMES.encode("utf-16"))
    assert read_table("memory://odd/t.csv").rows["speaker"].to_pylist() == ["Zoë"]
    filesystem.pipe("/odd/t.csv", NAMES.encode("cp1252"))
    with pytest.raises(ConfigError, match="line 2 holds the byte 0xeb"):
        read_table("memory://odd/t.csv")
