"""What each row of the table will become, decided before any file is opened.

The plan follows from the table and from what the file system says of its files: their paths, sizes
and modification times.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from shards.errors import BadSample
from shards.importing.cuts import Cut, cut_of
from shards.importing.embedded import media_extension
from shards.importing.sources import BECOMES, expected_size
from shards.importing.table import (
    FILE_COLUMNS,
    MEDIA_COLUMNS,
    TRANSCRIPT_COLUMN,
    SourceTable,
    metadata_of,
    text_cell,
)
from shards.samples.keys import key_problem, printable
from shards.samples.sample import TRANSCRIPT_EXTENSION

PLAN_BATCH_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class RowFile:
    """One media file of a row.

    `extension` is what the file has in a shard, `source_extension` what it has now. `cut` is the
    part of a recording that the row is. `embedded` is the row of the table that holds the file
    itself; None for a file on a disk.
    """

    column: str
    extension: str
    source_extension: str
    cut: Cut | None
    path: str
    # The path below the root, which is part of the row's identity.
    relative: str
    size: int
    modified_ns: int
    embedded: int | None = None

    @property
    def expected_size(self) -> int:
        """About how many bytes the file will have in a shard."""
        return expected_size(self.column, self.source_extension, self.size, self.cut)


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A row that passed the first look, with what is needed to cut the rows into shards.

    `position` counts the readable rows of the table from 0. `fields` are the extensions that the
    row's sample will have, and `identity` is a digest of all that the sample is made from; of its
    files, of their paths, sizes and modification times. `media` names the files of sound and video:
    by path, or by digest where they lie in the table. Of the `size` of all files, `media_size` is
    theirs.
    """

    position: int
    key: str
    fields: tuple[str, ...]
    size: int
    media: tuple[str | int, ...]
    media_size: int
    identity: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was not imported. `row` is its place in the file, counted from 0."""

    row: int
    key: str
    reason: str


def plan_rows(
    source: SourceTable, root: str, audio_track: int | None = None
) -> tuple[list[PlannedRow], list[Rejected]]:
    """Look at the key and the files of every row once; rows that cannot be used are rejected."""
    planned: list[PlannedRow] = []
    rejected = [Rejected(place, "", reason) for place, reason in source.unreadable]
    seen: set[str] = set()

    for position, row in _rows(source):
        place = int(source.places[position])
        shown = printable(str(row.get(source.key_column) or ""))
        try:
            key = tar_key(text_cell(row, source.key_column))
            if key in seen:
                raise BadSample("duplicate_key", f"'{printable(key)}' is the key of an earlier row")
            planned.append(_plan_row(position, key, row, source, root, audio_track))
            # Only now: a rejected row does not take its key away from a later one.
            seen.add(key)
        except BadSample as bad:
            rejected.append(Rejected(place, shown, bad.reason))

    return planned, rejected


def tar_key(name: str | None) -> str:
    """A row's name as a sample's key: dots and other characters a key cannot hold become "_".

    For example, "a/b.c" becomes "a/b_c". Raises BadSample when there is no name, or when no usable
    key is left of it.
    """
    if name is None:
        raise BadSample("no_key", "the row has no key")

    # Readers skip samples whose names begin with "__"; an "x" in front prevents that.
    key = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\\.]", "_", name.strip("/"))
    key = "/".join("x" + part if part.startswith("__") else part for part in key.split("/"))

    problem = key_problem(key)
    if problem is not None:
        raise BadSample(*problem)
    return key


def row_files(row: dict[str, Any], root: str) -> list[RowFile]:
    """The files that a row names or holds, with their sizes.

    Raises BadSample for a file that is missing or empty, lies outside `root`, or has an unknown
    extension, and for a part of a recording that cannot be cut.
    """
    cut = cut_of(row)
    if cut is not None and row.get("video") not in (None, ""):
        raise BadSample(
            "cannot_cut_video",
            "the row has a start or an end, which cut sound only; cut the video first, or rename "
            "the columns if it is cut already",
        )

    files = []
    for column in FILE_COLUMNS:
        cell = row.get(column)
        if isinstance(cell, dict) and cell.get("row") is not None:
            files.append(_embedded_file(column, cell, cut))
            continue
        # A reference without a row has only a path.
        named = {column: cell["path"]} if isinstance(cell, dict) and "path" in cell else row
        if (path := text_cell(named, column)) is not None:
            files.append(_row_file(column, path, root, cut))

    return files


def _embedded_file(column: str, reference: dict[str, Any], cut: Cut | None) -> RowFile:
    """The file that lies in the table; its digest takes the place of a time of modification."""
    if reference["size"] == 0:
        raise BadSample("empty_file", f"{column} lies in the table and has no bytes")
    extension = media_extension(column, reference)

    return RowFile(
        column=column,
        **_formats(column, extension, cut),
        path="",
        relative="",
        size=reference["size"],
        modified_ns=int(reference["digest"], 16),
        embedded=reference["row"],
    )


def _formats(column: str, extension: str, cut: Cut | None) -> dict[str, Any]:
    """The formats of a file, and the part of it that is wanted: only sound is cut."""
    cut = cut if column == "audio" else None
    return {
        "extension": BECOMES[column][extension] if cut is None else "flac",
        "source_extension": extension,
        "cut": cut,
    }


def _row_file(column: str, relative: str, root: str, cut: Cut | None) -> RowFile:
    base = os.path.abspath(root)
    path = os.path.normpath(os.path.join(base, relative))
    # Checked by the path alone, before anything is opened. Links below the root may lead outside:
    # a corpus assembled from links is ordinary. The root may be a link too, which a full path in
    # the table has followed.
    if not _lies_below(base, path) and os.path.isabs(relative):
        base = os.path.realpath(root)
    if not _lies_below(base, path):
        raise BadSample(
            "path_outside_root",
            f"{column} is '{printable(relative)}', expected a path below --root",
        )

    known = BECOMES[column]
    extension = os.path.splitext(path)[1].lstrip(".").lower()
    if extension not in known:
        raise BadSample(
            "unknown_extension",
            f"{column} is '{printable(relative)}', expected one of the extensions "
            f"{', '.join(sorted(known))}",
        )

    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise BadSample("missing_file", f"{column} '{printable(relative)}': {error}") from error
    if status.st_size == 0:
        raise BadSample("empty_file", f"{column} '{printable(relative)}' has no bytes")

    return RowFile(
        column=column,
        **_formats(column, extension, cut),
        path=path,
        relative=path[len(base.rstrip(os.sep)) + 1 :],
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
    )


def _lies_below(folder: str, path: str) -> bool:
    """Whether `path` lies in `folder`; both are absolute, without `.` and `..`."""
    return path != folder and path.startswith(folder.rstrip(os.sep) + os.sep)


def _plan_row(
    position: int,
    key: str,
    row: dict[str, Any],
    source: SourceTable,
    root: str,
    audio_track: int | None,
) -> PlannedRow:
    files = row_files(row, root)
    transcript = text_cell(row, TRANSCRIPT_COLUMN)
    fields = [file.extension for file in files] + (
        [TRANSCRIPT_EXTENSION] if transcript is not None else []
    )
    if not fields:
        raise BadSample(
            "no_media", "the row has no audio, no video, no face features and no transcript"
        )

    # The paths are part of the identity: clips that were unpacked together have the same size and
    # time, and a table that names other files must give another shard.
    metadata = metadata_of(row, source, key)
    versions = [[file.extension, file.relative, file.size, file.modified_ns] for file in files]
    identity: list[object] = [key, transcript, str(metadata), versions]
    # These came later. Rows that have none of them keep the identity that they had before.
    cuts = [[file.cut.start, file.cut.end] for file in files if file.cut is not None]
    if cuts or audio_track is not None:
        identity.append([cuts, audio_track])
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    media = [file for file in files if file.column in MEDIA_COLUMNS]
    return PlannedRow(
        position=position,
        key=key,
        fields=tuple(sorted(fields)),
        size=sum(file.expected_size for file in files),
        media=tuple(file.path if file.embedded is None else file.modified_ns for file in media),
        media_size=sum(file.size for file in media),
        identity=digest,
    )


def _rows(source: SourceTable) -> Iterator[tuple[int, dict[str, Any]]]:
    yield from enumerate(dictionaries(source.rows))


def dictionaries(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=PLAN_BATCH_ROWS):
        yield from batch.to_pylist()
