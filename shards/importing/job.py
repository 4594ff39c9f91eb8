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
from shards.importing.joining.joined import Joined
from shards.importing.joining.tables import REJECTED_NAMES, join_tables
from shards.importing.plan import Rejected, plan_rows
from shards.importing.reading import read_table
from shards.importing.rehearsal import rehearse
from shards.importing.remarks import Remarks, remarks_on
from shards.importing.table import SourceTable
from shards.importing.twins import find_twins, report_on_twins, without_twins
from shards.importing.writing import PLACEHOLDER, settle_shard
from shards.progress import OnProgress, unseen
from shards.storage.files import atomic_write, exists
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

    `rejected` counts the rejected rows by the code of their reason, and `examples` has the first
    row of each code. `num_written` counts the shards that this run wrote, and `shards` names all of
    them. Of a dry run, it is what would become of the rows, and no shard was written.
    """

    num_rows: int
    num_imported: int
    num_rejected: int
    rejected: dict[str, int]
    examples: dict[str, Rejected]
    remarks: Remarks
    num_shards: int
    num_written: int
    shards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be imported, and what is known of the table before any file is opened."""

    source: SourceTable
    shards: tuple[ShardOfRows, ...]
    rejected: tuple[Rejected, ...]
    joined: tuple[Joined, ...]
    remarks: Remarks


def import_table(config: ImportConfig, on_progress: OnProgress = unseen) -> ImportReport:
    """Import `config.table`; progress is counted in shards. A dry run writes nothing.

    Raises ConfigError when the table cannot be used, or when `config.out` holds shards that no
    import into this folder has written.
    """
    plan = _plan(config)
    folder = Folder(url=config.out, summary_name=SUMMARY_NAME, config_name=CONFIG_NAME)
    present = set(folder.names()) if exists(config.out) else set()
    facts = read_all_facts(config.out, present)
    _refuse_foreign_shards(config.out, present, facts.values(), folder.last_summary())

    if config.dry_run:
        settled = rehearse(plan.shards, plan.source, config, on_progress)
        return _report(plan, settled, _rejected(plan, settled), num_written=0)

    folder.make()
    folder.reopen()
    settled, num_written = _settle(config, plan, facts, present, on_progress)
    return _finish(config, folder, plan, settled, num_written=num_written)


def _plan(config: ImportConfig) -> _Plan:
    source = read_table(config.table, config.text_format)
    if not source.num_rows:
        raise ConfigError(
            f"{config.table}: got a table without rows, expected one row for each utterance; look "
            "whether whatever made the table found the recordings"
        )

    source, joined = join_tables(source, config)
    rows, rejected = plan_rows(source, config.root, config.audio_track)
    twins = find_twins(rows, source, config)

    if config.deduplicate:
        rows, left_out = without_twins(rows, twins, source)
        rejected += left_out

    return _Plan(
        source,
        tuple(cut_rows(rows, config)),
        tuple(rejected),
        joined,
        remarks_on(source, report_on_twins(twins, source), tuple(one.report for one in joined)),
    )


def _settle(
    config: ImportConfig,
    plan: _Plan,
    facts: dict[str, ShardFacts],
    present: set[str],
    on_progress: OnProgress,
) -> tuple[list[ShardFacts], int]:
    """See that all shards are there; the facts of each, and how many shards were written.

    `facts` are those that are in the folder already, by the name of their file.
    """
    # Facts are written before their shard, so a killed import can leave facts without a shard.
    todo = [
        shard for shard in plan.shards if not _is_settled(facts.get(facts_name(shard)), present)
    ]
    known = known_rows(facts.values(), todo)
    settled, num_written = dict(facts), 0

    with ThreadPoolExecutor(config.num_workers) as pool:
        running = {
            pool.submit(settle_shard, shard, plan.source, config, known, present): shard
            for shard in todo
        }
        for number, done in enumerate(as_completed(running), start=1):
            settled[facts_name(running[done])], is_written = done.result()
            num_written += is_written
            on_progress(number, len(todo))

    return [settled[facts_name(shard)] for shard in plan.shards], num_written


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
    plan: _Plan,
    settled: Sequence[ShardFacts],
    *,
    num_written: int,
) -> ImportReport:
    """Remove shards of an older table and leftovers of killed imports, and write the report last.

    `settled` has the facts of each of the shards.
    """
    wanted = {*_names(settled), *map(facts_name, plan.shards)}
    present = set(folder.names())
    unwanted = set(filter(_belongs, present)) - wanted
    # A table that is joined no more leaves no list.
    unwanted |= present & (
        {*REJECTED_NAMES.values()} - {REJECTED_NAMES[one.report.field] for one in plan.joined}
    )
    former = sorted(filter(_FORMER_NAME.fullmatch, unwanted))
    keep_contents([folder.place(name) for name in former], config.num_workers)
    folder.discard(unwanted)
    lists = (REJECTED_NAME, *REJECTED_NAMES.values())
    folder.sweep(lambda name: _belongs(name) or name in (*lists, PLACEHOLDER))

    rejected = _rejected(plan, settled)
    _write_rejected(folder, REJECTED_NAME, rejected)
    for one in plan.joined:
        _write_rejected(folder, REJECTED_NAMES[one.report.field], one.rejected)

    report = _report(plan, settled, rejected, num_written=num_written)
    folder.finish(config, asdict(report))
    return report


def _write_rejected(folder: Folder, name: str, rejected: Sequence[Rejected]) -> None:
    with atomic_write(folder.place(name)) as stream:
        pq.write_table(
            pa.Table.from_pylist([asdict(item) for item in rejected], _REJECTED_SCHEMA), stream
        )


def _names(settled: Sequence[ShardFacts]) -> tuple[str, ...]:
    return tuple(facts.shard for facts in settled if facts.shard is not None)


def _rejected(plan: _Plan, settled: Sequence[ShardFacts]) -> list[Rejected]:
    """The rejected rows, by row: those of the plan, and those that gave no sample."""
    rejected = list(plan.rejected)
    for shard, facts in zip(plan.shards, settled, strict=False):
        places = {row.key: int(plan.source.places[row.position]) for row in shard.rows}
        rejected.extend(Rejected(places[key], key, reason) for key, reason in facts.rejected())

    return sorted(rejected, key=lambda item: item.row)


def _report(
    plan: _Plan, settled: Sequence[ShardFacts], rejected: Sequence[Rejected], *, num_written: int
) -> ImportReport:
    """The report on an import whose rejected rows are `rejected`, by row.

    Where no file was opened, `settled` is empty, and the shards have no names yet.
    """
    counts = Counter(reason_code(item.reason) for item in rejected)
    # Of the rows with one code, the first is put in last, and stays.
    examples = {reason_code(item.reason): item for item in reversed(rejected)}

    return ImportReport(
        num_rows=plan.source.num_rows,
        num_imported=plan.source.num_rows - len(rejected),
        num_rejected=len(rejected),
        rejected=dict(sorted(counts.items())),
        examples=dict(sorted(examples.items())),
        remarks=plan.remarks,
        num_shards=len(_names(settled)) if settled else len(plan.shards),
        num_written=num_written,
        shards=_names(settled),
    )
