"""`emostream import`: a table of recordings and their folder become shards of a target size.

Every row ends in a shard, or in import-rejected.parquet with its reason. The plan (which row goes
into which shard) is made from the table and the files' sizes and times alone, so the same input
gives the same bytes with any number of workers. A shard is named after the samples in it. What the
rows gave is kept in a hidden file beside the shard, so that an import that was killed goes on with
the shards that are missing, an import of a longer table writes only the shards that have changed,
and files that were only touched change no shard (see `facts.py`).

Rows with other fields than their neighbors (no transcript, another sound format) get shards of
their own, because loaders demand that all samples of a shard have the same fields. The shards are
written by threads: copying is bound by the disk, and a header check costs only microseconds.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards.config import ConfigError
from shards.errors import reason_code
from shards.importing.config import ImportConfig
from shards.importing.cutting import ShardOfRows, cut_rows
from shards.importing.facts import FACTS_NAME, ShardFacts, facts_name, known_rows, read_all_facts
from shards.importing.former import keep_contents
from shards.importing.plan import Rejected, plan_rows
from shards.importing.table import SourceTable, read_table
from shards.importing.writing import PLACEHOLDER, settle_shard
from shards.progress import OnProgress, unseen
from shards.storage.files import atomic_write
from shards.storage.folder import Folder

SUMMARY_NAME = "import-summary.json"
CONFIG_NAME = "import.yaml"
REJECTED_NAME = "import-rejected.parquet"

_REJECTED_SCHEMA = pa.schema([("row", pa.int64()), ("key", pa.string()), ("reason", pa.string())])
_SHARD_NAME = re.compile(r"shard-(?:[0-9a-f]{16}|\d{6}-[0-9a-f]{12})\.tar")
# The shards of the last release, and the notes beside them.
_FORMER_NAME = re.compile(r"shard-\d{6}-[0-9a-f]{12}\.tar")
_NOTES_NAME = re.compile(r"\.shard-\d{6}-[0-9a-f]{12}\.tar\.rejected\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What became of the rows of the table; every row was either imported or rejected.

    `rejected` counts the rejected rows by the code of their reason. `num_written` counts the shards
    that this run wrote, and `shards` names all of them.
    """

    num_rows: int
    num_imported: int
    num_rejected: int
    rejected: dict[str, int]
    num_shards: int
    num_written: int
    shards: tuple[str, ...]


def import_table(config: ImportConfig, on_progress: OnProgress = unseen) -> ImportReport:
    """Import `config.table`; progress is counted in shards.

    Raises ConfigError when the table cannot be used, or when `config.out` holds shards that no
    import into this folder has written.
    """
    source = read_table(config.table)
    rows, rejected = plan_rows(source, config.root)
    shards = cut_rows(rows, config)

    folder = Folder(url=config.out, summary_name=SUMMARY_NAME, config_name=CONFIG_NAME)
    folder.make()
    present = set(folder.names())
    facts = read_all_facts(config.out, present)
    _refuse_foreign_shards(config.out, present, facts.values(), folder.last_summary())

    # Facts are written before their shard, so a killed import can leave facts without a shard.
    todo = [shard for shard in shards if not _is_settled(facts.get(facts_name(shard)), present)]
    known = known_rows(facts.values(), todo)
    folder.reopen()
    num_written = 0

    with ThreadPoolExecutor(config.num_workers) as pool:
        running = {
            pool.submit(settle_shard, shard, source, config, known, present): facts_name(shard)
            for shard in todo
        }
        for number, done in enumerate(as_completed(running), start=1):
            facts[running[done]], is_written = done.result()
            num_written += is_written
            on_progress(number, len(todo))

    settled = [facts[facts_name(shard)] for shard in shards]
    return _finish(config, folder, source, shards, settled, rejected, num_written=num_written)


def _is_settled(facts: ShardFacts | None, present: set[str]) -> bool:
    if facts is None or not facts.is_final:
        return False
    return facts.shard is None or facts.shard in present


def _refuse_foreign_shards(
    out: str, present: set[str], facts: Iterable[ShardFacts], earlier: dict[str, Any] | None
) -> None:
    """Raise ConfigError when the folder holds shards that no import into it has written.

    Shards of an older table are removed at the end of an import. All other shards would stay, and
    nobody would notice that they are labeled together with those of the import.
    """
    mine = {each.shard for each in facts} | set(earlier["shards"] if earlier else ())
    foreign = sorted(
        name
        for name in present
        if name.endswith(".tar") and not name.startswith(".") and name not in mine
    )

    # A shard named like an import's comes from an older table, but only in a folder where an import
    # has finished before; in any other folder it may be anybody's.
    foreign = [name for name in foreign if earlier is None or not _SHARD_NAME.fullmatch(name)]
    if foreign:
        raise ConfigError(
            f"--out {out}: the folder holds {len(foreign)} shards of something else, such as "
            f"{foreign[0]}; give another folder, or remove these shards"
        )


def _belongs(name: str) -> bool:
    """Whether a file is, by its name, a shard that an import wrote, or what is kept beside one."""
    patterns = (_SHARD_NAME, FACTS_NAME, _NOTES_NAME)
    return any(pattern.fullmatch(name) for pattern in patterns)


def _finish(
    config: ImportConfig,
    folder: Folder,
    source: SourceTable,
    shards: Sequence[ShardOfRows],
    settled: Sequence[ShardFacts],
    rejected: Sequence[Rejected],
    *,
    num_written: int,
) -> ImportReport:
    """Remove shards of an older table and leftovers of killed imports, and write the report last.

    The rejected rows of the report are those of the plan and those in the facts of the shards.
    `settled` has the facts of each of `shards`.
    """
    everything = list(rejected)
    for shard, facts in zip(shards, settled, strict=True):
        places = {row.key: int(source.places[row.position]) for row in shard.rows}
        everything.extend(Rejected(places[key], key, reason) for key, reason in facts.rejected())
    everything.sort(key=lambda item: item.row)

    names = tuple(facts.shard for facts in settled if facts.shard is not None)
    wanted = {*names, *map(facts_name, shards)}
    unwanted = set(filter(_belongs, folder.names())) - wanted
    former = sorted(filter(_FORMER_NAME.fullmatch, unwanted))
    keep_contents([folder.place(name) for name in former], config.num_workers)
    folder.discard(unwanted)
    folder.sweep(lambda name: _belongs(name) or name in (REJECTED_NAME, PLACEHOLDER))

    counts = Counter(reason_code(item.reason) for item in everything)
    report = ImportReport(
        num_rows=source.num_rows,
        num_imported=source.num_rows - len(everything),
        num_rejected=len(everything),
        rejected=dict(sorted(counts.items())),
        num_shards=len(names),
        num_written=num_written,
        shards=names,
    )
    with atomic_write(folder.place(REJECTED_NAME)) as stream:
        pq.write_table(
            pa.Table.from_pylist([asdict(item) for item in everything], _REJECTED_SCHEMA), stream
        )

    folder.finish(config, asdict(report))
    return report
