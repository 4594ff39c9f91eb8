"""Which row goes into which shard: cut points that survive insertions and deletions.

The rows stay in the order of the table. A shard ends before the row whose key has the smallest hash
among the rows that would give it an allowed size. So a cut belongs to a key, not to a count: after
a row was inserted or deleted, the next cuts fall on the keys they fell on before, mostly already
the first of them. Filling each shard up to the target size lost: one deleted row moved every cut
behind it, and all shards were written and labeled again. Hashing each row to a shard lost too: it
tears speakers apart, and a corpus that doubles must be cut anew.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shards.importing.config import MIB, Check, ImportConfig
from shards.importing.plan import PlannedRow

# Raise the number when the same rows give other samples, for example another json. An option that
# changes the samples is part of the tokens, as `--check` is.
FORMAT_VERSION = 3

# The allowed sizes of a shard, in parts of the target size. The last shard may be smaller.
_SMALLEST, _LARGEST = 0.5, 1.5
_NAME_DIGITS = 16


@dataclass(frozen=True, slots=True)
class ShardOfRows:
    """The rows that go into one shard.

    `name` is a digest of what the rows are before any file is opened; `tokens` has the same of each
    row, [16] bytes. The shard itself is named by its content, which is known only later.
    """

    name: str
    rows: tuple[PlannedRow, ...]
    tokens: tuple[bytes, ...]


def cut_rows(rows: Sequence[PlannedRow], config: ImportConfig) -> list[ShardOfRows]:
    """Cut the rows into shards of 0.5 to 1.5 times the target size, in table order.

    The rows of a shard have the same fields; for example, rows without a transcript get shards of
    their own.
    """
    by_fields: dict[tuple[str, ...], list[PlannedRow]] = defaultdict(list)
    for row in rows:
        by_fields[row.fields].append(row)

    return [
        _shard_of(part, config.check)
        for _, group in sorted(by_fields.items())
        for part in _cut(group, config.shard_size_mb * MIB)
    ]


def _cut(rows: Sequence[PlannedRow], target: int) -> Iterator[Sequence[PlannedRow]]:
    # ends[i] is the size of the first i rows.
    ends = np.concatenate([[0], np.cumsum([row.size for row in rows])])
    hashes = np.array([_hash(row.key) for row in rows], np.uint64)
    begin = 0

    while begin + 1 < len(rows) and ends[-1] - ends[begin] > _LARGEST * target:
        # The first and the last row before which the shard may end.
        first = int(np.searchsorted(ends, ends[begin] + _SMALLEST * target, "left"))
        last = int(np.searchsorted(ends, ends[begin] + _LARGEST * target, "right")) - 1
        # A row that is larger than a shard gets one of its own.
        last = max(last, begin + 1)
        first = min(max(first, begin + 1), last)

        cut = first + int(np.argmin(hashes[first : last + 1]))
        yield rows[begin:cut]
        begin = cut

    yield rows[begin:]


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


def _shard_of(rows: Sequence[PlannedRow], check: Check) -> ShardOfRows:
    tokens = tuple(
        hashlib.sha256(f"{FORMAT_VERSION} {check} {row.identity}".encode()).digest()[:16]
        for row in rows
    )
    name = hashlib.sha256(b"".join(tokens)).hexdigest()[:_NAME_DIGITS]
    return ShardOfRows(name, tuple(rows), tokens)
