"""Twins: rows whose sound and video are the same bytes, often under the names of several speakers.

Few files of a corpus are twins, so few are read for this. Files of different sizes are not twins;
of those of one size the first and last kilobytes are compared, and only what agrees in these is
read as a whole, each file once.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import pyarrow as pa

from shards.errors import BadSample
from shards.importing.config import ImportConfig
from shards.importing.plan import PlannedRow, Rejected, RowFile, dictionaries, row_files
from shards.importing.table import MEDIA_COLUMNS, SourceTable
from shards.samples.keys import printable

_SKETCH_BYTES = 4096
_READ_BYTES = 1 << 20
_DIGEST_BYTES = 16
_BLOCK_ROWS = 10_000
# Two parts of one file are not twins, where the table says which part is meant.
_PART_COLUMNS = ("start", "end")
_SHOWN_TWINS = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinReport:
    """How many twins there are: groups of rows with the same sound and video, and rows in them.

    `num_under_several_speakers` counts the groups whose rows name more than one speaker. `example`
    has (key, speaker) of some rows of one group, if possible of one under several speakers.
    """

    num_groups: int
    num_rows: int
    num_under_several_speakers: int
    example: tuple[tuple[str, str | None], ...]


def groups_of_twins(digests: Iterable[tuple[T, Hashable]]) -> list[tuple[T, ...]]:
    """The rows that share a digest, of (row, digest) pairs; groups and rows in the given order."""
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for row, digest in digests:
        groups[digest].append(row)

    return [tuple(rows) for rows in groups.values() if len(rows) > 1]


def find_twins(
    rows: Sequence[PlannedRow], source: SourceTable, config: ImportConfig
) -> list[tuple[PlannedRow, ...]]:
    """The groups of rows with the same sound and video, each in table order."""
    sizes = Counter(row.media_size for row in rows)
    alike = [row for row in rows if row.media_size and sizes[row.media_size] > 1]

    with ThreadPoolExecutor(config.num_workers) as pool:
        sketched = groups_of_twins(_sketches(alike, source, config.root, pool))
        doubtful = [row for group in sketched for row in group]
        found = groups_of_twins(_digests(doubtful, source, config.root, pool))

    return sorted(found, key=lambda group: group[0].position)


def without_twins(
    rows: Sequence[PlannedRow], groups: Iterable[tuple[PlannedRow, ...]], source: SourceTable
) -> tuple[list[PlannedRow], list[Rejected]]:
    """The rows without all but the first of each group, and these others with their reason."""
    first_of = {twin.position: group[0] for group in groups for twin in group[1:]}
    rejected = []

    for row in rows:
        if row.position in first_of:
            first = first_of[row.position]
            reason = (
                f"duplicate_media: the same sound and video as '{printable(first.key)}' in row "
                f"{source.places[first.position]}"
            )
            rejected.append(Rejected(int(source.places[row.position]), row.key, reason))

    return [row for row in rows if row.position not in first_of], rejected


def report_on_twins(groups: Sequence[tuple[PlannedRow, ...]], source: SourceTable) -> TwinReport:
    """What the report of an import says of its twins."""
    speakers = _speakers([row for group in groups for row in group], source)
    under_several = [
        group for group in groups if len({speakers[row.position] for row in group} - {None}) > 1
    ]
    example = next(iter(under_several or groups), ())

    return TwinReport(
        num_groups=len(groups),
        num_rows=sum(len(group) for group in groups),
        num_under_several_speakers=len(under_several),
        example=tuple((row.key, speakers[row.position]) for row in example[:_SHOWN_TWINS]),
    )


@dataclass(frozen=True, slots=True)
class _Media:
    """The sound and video of a row, and which part of them the row is about."""

    row: PlannedRow
    files: tuple[RowFile, ...]
    part: tuple[str, ...]


def _media(rows: Sequence[PlannedRow], source: SourceTable, root: str) -> Iterator[_Media]:
    table = source.rows.take(pa.array([row.position for row in rows], pa.int64()))

    for row, cells in zip(rows, dictionaries(table), strict=True):
        try:
            files = row_files(cells, root)
        except BadSample:
            # The file has gone since the plan was made. Whoever writes the row's shard finds that
            # out too, and rejects the row with its reason.
            continue
        media = tuple(file for file in files if file.column in MEDIA_COLUMNS)
        yield _Media(row, media, tuple(str(cells.get(name)) for name in _PART_COLUMNS))


def _sketches(
    rows: Sequence[PlannedRow], source: SourceTable, root: str, pool: ThreadPoolExecutor
) -> Iterator[tuple[PlannedRow, Hashable]]:
    """(row, sketch) of each row whose files could be read; twins have the same sketch."""
    everything = _media(rows, source, root)

    while block := list(islice(everything, _BLOCK_ROWS)):
        for item, sketch in zip(block, pool.map(_sketch, block), strict=True):
            if sketch is not None:
                yield item.row, sketch


def _sketch(item: _Media) -> Hashable | None:
    """The sizes and the ends of a row's files; None when one of them cannot be read."""
    try:
        ends = tuple((file.column, file.size, _ends(file)) for file in item.files)
    except OSError:
        return None
    return item.part, ends


def _ends(file: RowFile) -> bytes:
    if file.embedded is not None:
        return file.modified_ns.to_bytes(_DIGEST_BYTES, "big")

    with open(file.path, "rb", buffering=0) as stream:
        begin = stream.read(_SKETCH_BYTES)
        stream.seek(max(0, file.size - _SKETCH_BYTES))
        return hashlib.blake2b(begin + stream.read(_SKETCH_BYTES), digest_size=16).digest()


def _digests(
    rows: Sequence[PlannedRow], source: SourceTable, root: str, pool: ThreadPoolExecutor
) -> Iterator[tuple[PlannedRow, Hashable]]:
    """(row, digest) of each row whose files could be read; only twins have the same digest."""
    everything = list(_media(rows, source, root))
    files = {(file.path, file.modified_ns): file for item in everything for file in item.files}
    digests: Mapping[tuple[str, int], bytes | None] = dict(
        zip(files, pool.map(_digest, files.values()), strict=True)
    )

    for item in everything:
        found = [(file.column, digests[file.path, file.modified_ns]) for file in item.files]
        if all(digest is not None for _, digest in found):
            yield item.row, (item.part, tuple(found))


def _digest(file: RowFile) -> bytes | None:
    """The digest of a file's bytes; None when they cannot be read."""
    if file.embedded is not None:
        return file.modified_ns.to_bytes(_DIGEST_BYTES, "big")

    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    try:
        with open(file.path, "rb", buffering=0) as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()


def _speakers(rows: Sequence[PlannedRow], source: SourceTable) -> dict[int, str | None]:
    """The speaker of each row, by the row's position; None where the table names none."""
    if "speaker" not in source.rows.schema.names:
        return dict.fromkeys((row.position for row in rows), None)

    positions = [row.position for row in rows]
    cells = source.rows["speaker"].take(pa.array(positions, pa.int64())).to_pylist()
    return {
        position: None if cell is None else str(cell).strip()
        for position, cell in zip(positions, cells, strict=True)
    }
