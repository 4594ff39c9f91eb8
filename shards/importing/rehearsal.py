"""`emostream import --dry-run`: what an import would make, found out without writing anything.

Every row goes through the same code as in an import, so both reject the same rows. For that all
files are read. With `--check none` they are not opened, and only what the table and the file system
say is known.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from shards.importing.config import ImportConfig
from shards.importing.cutting import ShardOfRows
from shards.importing.facts import ShardFacts, make_facts
from shards.importing.table import SourceTable
from shards.importing.writing import fact_of, rows_of
from shards.progress import OnProgress


def rehearse(
    shards: Sequence[ShardOfRows],
    source: SourceTable,
    config: ImportConfig,
    on_progress: OnProgress,
) -> list[ShardFacts]:
    """The facts that each of `shards` would have; none where files are not to be opened.

    Progress is counted in shards.
    """
    if config.check == "none":
        return []

    with ThreadPoolExecutor(config.num_workers) as pool:
        running = [pool.submit(_facts_of, shard, source, config) for shard in shards]
        for number, done in enumerate(as_completed(running), start=1):
            done.result()
            on_progress(number, len(shards))

    return [done.result() for done in running]


def _facts_of(shard: ShardOfRows, source: SourceTable, config: ImportConfig) -> ShardFacts:
    rows = rows_of(shard.rows, source)
    return make_facts(shard, [fact_of(planned.key, row, source, config) for planned, row in rows])
