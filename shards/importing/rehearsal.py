"""`emostream import --dry-run`: what an import would reject, found out without writing anything.

Every row goes through the same code as in an import, so both reject the same rows. For that all
files are read. With `--check none` they are not opened, and only what the table and the file system
say is known.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import pyarrow as pa

from shards.errors import BadSample
from shards.importing.config import ImportConfig
from shards.importing.plan import Rejected, ShardOfRows, dictionaries
from shards.importing.table import SourceTable
from shards.importing.writing import read_members
from shards.progress import OnProgress


def rehearse(
    shards: Sequence[ShardOfRows],
    source: SourceTable,
    config: ImportConfig,
    on_progress: OnProgress,
) -> list[Rejected]:
    """The rows of `shards` that writing them would reject; progress is counted in shards."""
    if config.check == "none":
        return []

    rejected: list[Rejected] = []
    with ThreadPoolExecutor(config.num_workers) as pool:
        running = [pool.submit(_rejected_rows, shard, source, config) for shard in shards]
        for number, done in enumerate(as_completed(running), start=1):
            rejected.extend(done.result())
            on_progress(number, len(shards))

    return rejected


def _rejected_rows(shard: ShardOfRows, source: SourceTable, config: ImportConfig) -> list[Rejected]:
    rejected = []
    table = source.rows.take(pa.array([row.position for row in shard.rows], pa.int64()))

    for planned, row in zip(shard.rows, dictionaries(table), strict=True):
        try:
            read_members(planned.key, row, source, config)
        except BadSample as bad:
            place = int(source.places[planned.position])
            rejected.append(Rejected(place, planned.key, bad.reason))

    return rejected
