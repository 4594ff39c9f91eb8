"""Writing one shard of an import: the files of its rows are read, checked and put into a tar."""

from typing import Any

import pyarrow as pa

from shards.errors import BadSample
from shards.importing.config import ImportConfig
from shards.importing.plan import ShardOfRows, dictionaries, row_files
from shards.importing.preparing import prepared_file, remarks_of
from shards.importing.table import TRANSCRIPT_COLUMN, SourceTable, metadata_of, text_cell
from shards.samples.metadata import METADATA_EXTENSION, encode_metadata
from shards.samples.sample import TRANSCRIPT_EXTENSION, parse_sample
from shards.storage.documents import write_json
from shards.storage.files import atomic_write, join
from shards.tar.reader import TarWriter


def write_shard(shard: ShardOfRows, source: SourceTable, config: ImportConfig) -> None:
    """Write one shard, and before it a note with the reasons of rows that cannot be used."""
    reasons: dict[str, str] = {}
    positions = {row.position: row for row in shard.rows}
    table = source.rows.take(pa.array(list(positions), pa.int64()))

    with atomic_write(join(config.out, shard.name)) as stream, TarWriter(stream) as writer:
        for planned, row in zip(shard.rows, dictionaries(table), strict=True):
            try:
                writer.add(planned.key, read_members(planned.key, row, source, config))
            except BadSample as bad:
                reasons[planned.key] = bad.reason

        # The shard appears when the block ends. Its note is written before that, because a shard
        # that is there is never written again: a note lost between the two would stay lost.
        if reasons:
            write_json(join(config.out, notes_name(shard)), reasons)


def read_members(
    key: str, row: dict[str, Any], source: SourceTable, config: ImportConfig
) -> dict[str, bytes]:
    """The sample of a row, as extension -> payload, checked as far as `config.check` says.

    Raises BadSample when the row cannot be used.
    """
    members: dict[str, bytes] = {}
    remarks: dict[str, object] = {}
    for file in row_files(row, config.root):
        prepared = prepared_file(file, source, config)
        members[file.extension] = prepared.payload
        remarks |= remarks_of(file, prepared)

    transcript = text_cell(row, TRANSCRIPT_COLUMN)
    if transcript is not None:
        members[TRANSCRIPT_EXTENSION] = transcript.encode()

    metadata = metadata_of(row, source.key_column, key, is_text=source.is_text) | remarks
    try:
        members[METADATA_EXTENSION] = encode_metadata(metadata)
    except (ValueError, UnicodeEncodeError) as error:
        raise BadSample("bad_metadata", str(error)) from error

    parse_sample(key, members)
    return members


def notes_name(shard: ShardOfRows) -> str:
    return f".{shard.name}.rejected.json"
