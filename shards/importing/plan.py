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
from shards.importing.table import (
    FILE_COLUMNS,
    TRANSCRIPT_COLUMN,
    SourceTable,
    metadata_of,
    text_cell,
)
from shards.samples.keys import key_problem, printable
from shards.samples.sample import (
    AUDIO_EXTENSIONS,
    FACE_EXTENSION,
    TRANSCRIPT_EXTENSION,
    VIDEO_EXTENSIONS,
)

PLAN_BATCH_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class RowFile:
    """One media file of a row."""

    extension: str
    path: str
    # The path below the root, which is part of the row's identity.
    relative: str
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A row that passed the first look, with what is needed to cut the rows into shards.

    `position` counts the readable rows of the table from 0. `fields` are the extensions that the
    row's sample will have, and `identity` is a digest of all that the sample is made from; of its
    files, of their paths, sizes and modification times.
    """

    position: int
    key: str
    fields: tuple[str, ...]
    size: int
    identity: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was not imported. `row` is its place in the file, counted from 0."""

    row: int
    key: str
    reason: str


def plan_rows(source: SourceTable, root: str) -> tuple[list[PlannedRow], list[Rejected]]:
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
            planned.append(_plan_row(position, key, row, source, root))
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
    """The files that a row names, with their sizes.

    Raises BadSample for a file that is missing or empty, lies outside `root`, or has an unknown
    extension.
    """
    return [
        _row_file(column, path, root)
        for column in FILE_COLUMNS
        if (path := text_cell(row, column)) is not None
    ]


def _row_file(column: str, relative: str, root: str) -> RowFile:
    root = os.path.abspath(root)
    path = os.path.normpath(os.path.join(root, relative))
    # Checked by the path alone, before anything is opened. Links below the root may lead outside:
    # a corpus assembled from links is ordinary.
    if os.path.isabs(relative) or path == root or os.path.commonpath([root, path]) != root:
        raise BadSample(
            "path_outside_root",
            f"{column} is '{printable(relative)}', expected a path below --root",
        )

    known = {"audio": AUDIO_EXTENSIONS, "video": VIDEO_EXTENSIONS, "face": frozenset({"npy"})}[
        column
    ]
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
        extension=FACE_EXTENSION if column == "face" else extension,
        path=path,
        relative=os.path.relpath(path, root),
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
    )


def _plan_row(
    position: int, key: str, row: dict[str, Any], source: SourceTable, root: str
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
    metadata = metadata_of(row, source.key_column, key, is_text=source.is_text)
    versions = [[file.extension, file.relative, file.size, file.modified_ns] for file in files]
    identity = [key, transcript, str(metadata), versions]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    return PlannedRow(
        position, key, tuple(sorted(fields)), sum(file.size for file in files), digest
    )


def _rows(source: SourceTable) -> Iterator[tuple[int, dict[str, Any]]]:
    yield from enumerate(dictionaries(source.rows))


def dictionaries(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=PLAN_BATCH_ROWS):
        yield from batch.to_pylist()
