"""Twins: rows whose sound and video are the same bytes, often under the names of several speakers.

Few files of a corpus are twins, so few are read for this. Files of different sizes are not twins;
of those of one size a kilobyte in their middle is compared, where no header and seldom a silence
is; and only what agrees in it is read as a whole, each file once.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from shards.importing.config import ImportConfig
from shards.importing.plan import PlannedRow, Rejected
from shards.importing.table import SourceTable
from shards.samples.keys import printable

_SKETCH_BYTES = 1024
_READ_BYTES = 1 << 20
_DIGEST_BYTES = 16
# A thread takes so many rows at once; handing over each alone would cost more than its sketch.
_BLOCK_ROWS = 256
# Two parts of one file are not twins, where the table says which part is meant.
_PART_COLUMNS = ("start", "end")
_SHOWN_TWINS = 4

T = TypeVar("T")
R = TypeVar("R")


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
    alike = [row for row in rows if row.media and sizes[row.media_size] > 1]
    parts = _parts(alike, source)

    with ThreadPoolExecutor(config.num_workers) as pool:
        sketches = _in_blocks(_sketch, alike, pool)
        doubtful = groups_of_twins(
            ((row, part), (row.media_size, part, sketch))
            for row, part, sketch in zip(alike, parts, sketches, strict=True)
            if sketch is not None
        )
        digests = _digests([row for group in doubtful for row, _ in group], pool)

    found = groups_of_twins(
        (row, (part, row_digests))
        for group in doubtful
        for row, part in group
        if None not in (row_digests := tuple(digests[name] for name in row.media))
    )
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
    rows = [row for group in groups for row in group]
    speakers = dict(zip(rows, _cells("speaker", rows, source), strict=True))
    under_several = [
        group for group in groups if len({speakers[row] for row in group} - {None}) > 1
    ]
    example = next(iter(under_several or groups), ())

    return TwinReport(
        num_groups=len(groups),
        num_rows=sum(len(group) for group in groups),
        num_under_several_speakers=len(under_several),
        example=tuple((row.key, speakers[row]) for row in example[:_SHOWN_TWINS]),
    )


def _parts(rows: Sequence[PlannedRow], source: SourceTable) -> list[tuple[str | None, ...]]:
    """Which part of its media each row is about."""
    columns = [_cells(name, rows, source) for name in _PART_COLUMNS]
    return list(zip(*columns, strict=True))


def _in_blocks(
    function: Callable[[T], R], items: Sequence[T], pool: ThreadPoolExecutor
) -> Iterator[R]:
    """`function` of each item in order, by the threads of `pool`."""
    blocks = [items[first : first + _BLOCK_ROWS] for first in range(0, len(items), _BLOCK_ROWS)]
    for results in pool.map(lambda block: [function(item) for item in block], blocks):
        yield from results


def _sketch(row: PlannedRow) -> Hashable | None:
    """Some bytes of each file of a row; None when one of them cannot be read.

    Such a file has gone since the plan was made. Whoever writes the row's shard finds that out too,
    and rejects the row with its reason.
    """
    # The middle of a row's only file; of two files it may be that of neither, or behind its end.
    middle = row.media_size // (2 * len(row.media))
    try:
        return tuple(
            name if isinstance(name, int) else hash(_read_at(name, middle)) for name in row.media
        )
    except OSError:
        return None


def _read_at(path: str, offset: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, _SKETCH_BYTES, offset)
    finally:
        os.close(descriptor)


def _digests(
    rows: Sequence[PlannedRow], pool: ThreadPoolExecutor
) -> dict[str | int, bytes | int | None]:
    """The digest of each file of `rows`; None for a file that cannot be read."""
    names = list(dict.fromkeys(name for row in rows for name in row.media))
    return dict(zip(names, pool.map(_digest, names), strict=True))


def _digest(name: str | int) -> bytes | int | None:
    if isinstance(name, int):
        return name

    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    try:
        with open(name, "rb", buffering=0) as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()


def _cells(column: str, rows: Sequence[PlannedRow], source: SourceTable) -> list[str | None]:
    """The cells of `rows` in `column` as text; None where there is none."""
    if column not in source.rows.schema.names:
        return [None] * len(rows)

    positions = pa.array([row.position for row in rows], pa.int64())
    cells = source.rows[column].take(positions).to_pylist()
    return [None if cell is None else str(cell).strip() for cell in cells]
