"""Options of `emostream import`."""

import io
import os
from dataclasses import dataclass
from typing import Literal

from shards.config import ConfigError, inlined, option, require_positive

MIB = 2**20
NULL_WORDS = ("NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None")
Check = Literal["none", "header", "decode"]
Quoting = Literal["double", "none"]

# A tab is awkward to type on a command line, so it has a name, and the others have one too.
_DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFormat:
    """How the text of a CSV, TSV or JSON lines table is read; Parquet needs none of this."""

    encoding: str | None = option(
        default=None,
        help="Encoding of a table that is text, such as cp1252, latin-1 or utf-16-le. By default, "
        "UTF-8, or UTF-16 or UTF-32 where the beginning of the file shows it.",
    )
    delimiter: str | None = option(
        default=None,
        help="Character between the cells of a CSV or TSV table: comma, semicolon, tab, or the "
        "character itself. By default, the one of these three that separates the header.",
    )
    quoting: Quoting = option(
        default="double",
        help='Quotes in a CSV or TSV table. double: a cell may stand in double quotes ("yes, no"); '
        "none: quotes are a part of the text, as in the TSV files of Common Voice.",
    )
    multiline_cells: bool = option(
        default=False,
        help="Read cells of a CSV or TSV table that go on over several lines. Otherwise such a "
        "table is refused, because a lost quote makes one cell of many rows.",
    )
    null_values: tuple[str, ...] = option(
        default=NULL_WORDS,
        help='Words that stand for an empty cell in a CSV or TSV table. --null-values "" reads '
        "every word as it is.",
    )

    def __post_init__(self) -> None:
        self._check_encoding()
        delimiter = self.delimiter_character
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
            raise ConfigError(
                f"--delimiter: got {self.delimiter!r}, expected comma, semicolon, tab or one "
                "character other than a quote or a line break"
            )

    @property
    def delimiter_character(self) -> str | None:
        """The character between cells; None when the header is to tell it."""
        return None if self.delimiter is None else _DELIMITERS.get(self.delimiter, self.delimiter)

    def _check_encoding(self) -> None:
        if self.encoding is None:
            return
        try:
            io.TextIOWrapper(io.BytesIO(), encoding=self.encoding)
        except (LookupError, ValueError) as error:
            raise ConfigError(
                f"--encoding: got {self.encoding!r}, expected an encoding of text that Python "
                "knows, such as cp1252, latin-1, utf-16-le or shift_jis"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportConfig:
    """Options of `emostream import`."""

    table: str = option(
        positional=True,
        help="Table with one row for each utterance: .csv, .tsv, .jsonl, .ndjson or .parquet.",
    )
    root: str = option(help="Folder that the paths in the table are relative to.")
    out: str = option(help="Folder for the shards, local or remote.")
    ratings: str | None = option(
        default=None,
        help="Table of people's votes, joined to the utterances by their keys, as `ratings` in the "
        "json. It has the columns key, stimulus (voice, face or audiovisual), label and votes, or "
        "is CREMA-D's tabulatedVotes.csv.",
    )
    speakers: str | None = option(
        default=None,
        help="Table with a row for each speaker, joined to the utterances by the column speaker "
        "(or ActorID, as in CREMA-D's VideoDemographics.csv); its other columns, such as sex and "
        "age, become `demographics` in the json.",
    )
    shard_size_mb: int = option(default=256, help="Target size of a shard, in MiB.")
    num_workers: int = option(default=4, help="Number of shards that are written at the same time.")
    check: Check = option(
        default="header",
        help="How sound and video files are checked. header: a file opens, has a track of a known "
        "codec, and is as long as it states; decode: sound files are also decoded completely; "
        "none: no check, and no length is measured.",
    )

    audio_track: int | None = option(
        default=None,
        help="Which sound track of a file with several is imported, counted from 1. By default a "
        "file keeps all of them, and the one that it marks as its default is heard.",
    )
    deduplicate: bool = option(
        default=False,
        help="Of rows whose sound and video are the same bytes, import only the first; the others "
        "are rejected as duplicate_media. Without it they are only counted.",
    )
    dry_run: bool = option(
        default=False,
        help="Say what would be imported and rejected, and write nothing. The files are read as "
        "--check says; with --check none only their names and sizes are looked at.",
    )
    text_format: TextFormat = inlined(TextFormat)

    def __post_init__(self) -> None:
        require_positive(self, "--shard-size-mb", "--num-workers")
        if self.audio_track is not None and self.audio_track < 1:
            raise ConfigError(f"--audio-track: got {self.audio_track}, expected 1 or more")
        if not os.path.isdir(self.root):
            raise ConfigError(f"--root: got {self.root!r}, expected an existing folder")
