"""Writing one shard of an import: the files of its rows are read, checked and put into a tar."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa

from shards.errors import BadSample
from shards.importing.config import ImportConfig
from shards.importing.cutting import ShardOfRows
from shards.importing.facts import (
    KnownRows,
    RowFact,
    ShardFacts,
    make_facts,
    sample_digest,
    write_facts,
)
from shards.importing.lengths import DURATION, measured_length
from shards.importing.plan import PlannedRow, dictionaries, row_files
from shards.importing.preparing import prepared_file, remarks_of
from shards.importing.table import TRANSCRIPT_COLUMN, SourceTable, metadata_of, text_cell
from shards.samples.metadata import METADATA_EXTENSION, encode_metadata
from shards.samples.sample import TRANSCRIPT_EXTENSION, parse_sample
from shards.storage.files import name_later
from shards.tar.reader import TarWriter

# What the temporary file of a shard is called after, as its own name is not known yet.
PLACEHOLDER = "shard.tar"


def settle_shard(
    shard: ShardOfRows,
    source: SourceTable,
    config: ImportConfig,
    known: KnownRows,
    present: Collection[str],
) -> tuple[ShardFacts, bool]:
    """See that a shard and its facts are there; the facts, and whether the shard was written.

    `present` are the names of the files that are there. The shard may come out as one of these:
    rows that are not known are read first, to see, as long as they give samples that are there.
    """
    looked = _look(shard, source, config, known)
    if looked is not None:
        facts = make_facts(shard, looked)
        if facts.shard is None or facts.shard in present:
            write_facts(config.out, shard, facts)
            return facts, False

    return _write_shard(shard, source, config, present)


def _look(
    shard: ShardOfRows, source: SourceTable, config: ImportConfig, known: KnownRows
) -> list[RowFact] | None:
    """The facts of all rows, for which only the files of rows that are not known are read.

    None as soon as a row gives a sample that is in no shard yet: the shard must be written.
    """
    # A first import knows no samples, and reads nothing twice.
    if not known.samples:
        return None

    facts = [known.facts.get(token) for token in shard.tokens]
    unknown = [place for place, fact in enumerate(facts) if fact is None]
    rows = rows_of([shard.rows[place] for place in unknown], source)
    for place, (planned, row) in zip(unknown, rows, strict=True):
        fact = fact_of(planned.key, row, source, config)
        if fact.sample is not None and fact.sample not in known.samples:
            return None
        facts[place] = fact

    return [fact for fact in facts if fact is not None]


def fact_of(key: str, row: dict[str, Any], source: SourceTable, config: ImportConfig) -> RowFact:
    """Read a row, and tell what became of it."""
    try:
        return RowFact(sample_digest(read_members(key, row, source, config)), None)
    except BadSample as bad:
        return RowFact(None, bad.reason)


def _write_shard(
    shard: ShardOfRows, source: SourceTable, config: ImportConfig, present: Collection[str]
) -> tuple[ShardFacts, bool]:
    """Write a shard without knowing its name, which follows from what turns out to be in it."""
    found: list[RowFact] = []

    with name_later(config.out, PLACEHOLDER) as file, TarWriter(file.stream) as writer:
        for planned, row in rows_of(shard.rows, source):
            try:
                members = read_members(planned.key, row, source, config)
                writer.add(planned.key, members)
                found.append(RowFact(sample_digest(members), None))
            except BadSample as bad:
                found.append(RowFact(None, bad.reason))

        # The shard appears when the block ends. Its facts are written before that: a shard that
        # nothing tells of would look like somebody else's. A shard that is there already is not
        # replaced, because a new modification time is a new version to `label`.
        facts = make_facts(shard, found)
        write_facts(config.out, shard, facts)
        is_new = facts.shard is not None and facts.shard not in present
        file.name = facts.shard if is_new else None

    return facts, is_new


def rows_of(
    rows: Sequence[PlannedRow], source: SourceTable
) -> Iterator[tuple[PlannedRow, dict[str, Any]]]:
    """The planned rows, each with its cells."""
    table = source.rows.take(pa.array([row.position for row in rows], pa.int64()))
    return zip(rows, dictionaries(table), strict=True)


def read_members(
    key: str, row: dict[str, Any], source: SourceTable, config: ImportConfig
) -> dict[str, bytes]:
    """The sample of a row, as extension -> payload, checked as far as `config.check` says.

    Raises BadSample when the row cannot be used.
    """
    members: dict[str, bytes] = {}
    remarks: dict[str, object] = {}
    metadata = metadata_of(row, source, key)
    for file in row_files(row, config.root):
        prepared = prepared_file(file, source, config)
        members[file.extension] = prepared.payload
        remarks |= remarks_of(file, prepared)

    transcript = text_cell(row, TRANSCRIPT_COLUMN)
    if transcript is not None:
        members[TRANSCRIPT_EXTENSION] = transcript.encode()

    metadata |= remarks
    if metadata.get(DURATION) is None and config.check != "none":
        metadata |= measured_length(members)

    try:
        members[METADATA_EXTENSION] = encode_metadata(metadata)
    except (ValueError, UnicodeEncodeError) as error:
        raise BadSample("bad_metadata", str(error)) from error

    parse_sample(key, members)
    return members
