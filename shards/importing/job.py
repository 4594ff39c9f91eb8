"""`emostream import`: a table of recordings and the folder they lie in become shards of a target
size.

Every row ends in a shard or in import-rejected.parquet with its reason. The plan (which row goes
into which shard) is made from the table and the files' sizes alone, so the same input gives the
same bytes whatever the number of workers, and a shard is named after what goes into it: an import
that was killed goes on at the first shard that is missing, and one of a longer table writes only
the shards that have changed. What turned out to be unusable while a shard was written is noted
beside it, in a hidden file, for as long as the shard is there.

Rows with other fields than their neighbors (no transcript, another sound format) get shards of
their own, because loaders demand identical fields within one. Threads do the work: copying is bound
by the disk, and a header check costs microseconds beside it.
"""

import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards.config import ConfigError
from shards.errors import reason_code
from shards.importing.config import ImportConfig
from shards.importing.plan import Rejected, ShardOfRows, plan_rows, plan_shards
from shards.importing.table import SourceTable, read_table
from shards.importing.writing import notes_name, write_shard
from shards.progress import OnProgress, unseen
from shards.storage.documents import read_json
from shards.storage.files import atomic_write
from shards.storage.folder import Folder

SUMMARY_NAME = "import-summary.json"
CONFIG_NAME = "import.yaml"
REJECTED_NAME = "import-rejected.parquet"


_REJECTED_SCHEMA = pa.schema([("row", pa.int64()), ("key", pa.string()), ("reason", pa.string())])
_SHARD_NAME = re.compile(r"shard-\d{6}-[0-9a-f]{12}\.tar")
_NOTES_NAME = re.compile(r"\.shard-\d{6}-[0-9a-f]{12}\.tar\.rejected\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What became of the table's rows: imported + rejected = rows."""

    num_rows: int
    num_imported: int
    num_rejected: int
    rejected: dict[str, int]
    num_shards: int
    num_written: int
    shards: tuple[str, ...]


def import_table(config: ImportConfig, on_progress: OnProgress = unseen) -> ImportReport:
    """Import `config.table`; progress is counted in shards.

    Raises ConfigError when the table cannot be used, or when OUT holds shards of something else.
    """
    source = read_table(config.table)
    rows, rejected = plan_rows(source, config.root)
    shards = plan_shards(rows, config)

    folder = Folder(url=config.out, summary_name=SUMMARY_NAME, config_name=CONFIG_NAME)
    folder.make()
    present = set(folder.names())
    _refuse_foreign_shards(config.out, present, shards, folder.last_summary())
    todo = [shard for shard in shards if shard.name not in present]
    folder.reopen()
    folder.discard(
        present & {notes_name(shard) for shard in todo}
    )  # of shards that were not finished

    with ThreadPoolExecutor(config.num_workers) as pool:
        running = [pool.submit(write_shard, shard, source, config) for shard in todo]
        for number, done in enumerate(as_completed(running), start=1):
            done.result()
            on_progress(number, len(todo))
    return _finish(config, folder, source, shards, rejected, num_written=len(todo))


def _refuse_foreign_shards(
    out: str, present: set[str], shards: Sequence[ShardOfRows], earlier: dict[str, Any] | None
) -> None:
    """Shards of an older table are removed at the end; anything else would be labeled along
    unnoticed.
    """
    mine = {shard.name for shard in shards} | set(earlier["shards"] if earlier else ())
    foreign = sorted(
        name
        for name in present
        if name.endswith(".tar") and not name.startswith(".") and name not in mine
    )
    foreign = [name for name in foreign if earlier is None or not _SHARD_NAME.fullmatch(name)]
    if foreign:
        raise ConfigError(
            f"--out {out}: holds {len(foreign)} shards of something else, such as {foreign[0]}; "
            "give another folder, or remove them"
        )


def _belongs(name: str) -> bool:
    """Whether a file is a shard of some import, or a note beside one."""
    return bool(_SHARD_NAME.fullmatch(name) or _NOTES_NAME.fullmatch(name))


def _finish(
    config: ImportConfig,
    folder: Folder,
    source: SourceTable,
    shards: Sequence[ShardOfRows],
    rejected: Sequence[Rejected],
    *,
    num_written: int,
) -> ImportReport:
    """Gather the notes, drop shards of an older table and what killed imports left, and write the
    report last.
    """
    everything = list(rejected)
    present = set(folder.names())
    for shard in shards:
        if notes_name(shard) in present:
            reasons = read_json(folder.place(notes_name(shard)))
            places = {row.key: int(source.places[row.position]) for row in shard.rows}
            everything.extend(Rejected(places[key], key, reason) for key, reason in reasons.items())
    everything.sort(key=lambda item: item.row)
    wanted = {name for shard in shards for name in (shard.name, notes_name(shard))}
    folder.discard(filter(_belongs, present - wanted))
    folder.sweep(lambda name: _belongs(name) or name == REJECTED_NAME)

    counts = Counter(reason_code(item.reason) for item in everything)
    report = ImportReport(
        num_rows=source.num_rows,
        num_imported=source.num_rows - len(everything),
        num_rejected=len(everything),
        rejected=dict(sorted(counts.items())),
        num_shards=len(shards),
        num_written=num_written,
        shards=tuple(shard.name for shard in shards),
    )
    with atomic_write(folder.place(REJECTED_NAME)) as stream:
        pq.write_table(
            pa.Table.from_pylist([asdict(item) for item in everything], _REJECTED_SCHEMA), stream
        )
    folder.finish(config, asdict(report))
    return report
