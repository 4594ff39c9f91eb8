"""Tables of the last release, which do not tell the contents that they were made from.

An import into a folder of the last release writes its shards anew, under new names. Before the old
shards go, `import` leaves the contents of their samples in a hidden file beside each, so that their
labels need not be made again: `label` adds the contents to the tables, which then are tables of
today. This file can go when no table of format 1 is left anywhere.
"""

import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from shards.storage.files import FileIdentity, atomic_write, exists
from shards.storage.parquet import METADATA_KEY, open_parquet
from shards.tables.earlier import CONTENT_COLUMN, CONTENT_TYPE
from shards.tables.predictions import (
    FIXED_COLUMNS,
    MODALITIES,
    OBJECTIVES,
    TableInfo,
)

_REMEDY = "remove it; its shard's labels are then made again"


def write_contents(
    shard: FileIdentity, keys: Sequence[str], offsets: Sequence[int], contents: Sequence[bytes]
) -> None:
    """Leave the contents of a shard's samples beside it; `offsets` are their places in the tar."""
    table = pa.table(
        {"key": list(keys), "offset": list(offsets), "content": pa.array(contents, CONTENT_TYPE)}
    ).replace_schema_metadata({METADATA_KEY: json.dumps([shard.size, shard.version])})
    with atomic_write(contents_url(shard.url)) as stream:
        pq.write_table(table, stream, compression="zstd", write_page_checksum=True)


def add_contents(url: str, info: TableInfo) -> None:
    """Make a table of format 1, at `url`, one of today, if the contents of its shard were left.

    Nothing is done if they were not, or if they are those of another version of the shard.
    """
    beside = contents_url(info.shard_url)
    if info.format_version != 1 or not exists(beside):
        return

    with open_parquet(beside, remedy=_REMEDY) as file:
        version = json.loads(file.schema_arrow.metadata[METADATA_KEY])
        rows = file.read().to_pydict()
    if version != [info.shard_size, info.shard_version]:
        return

    places = zip(rows["key"], rows["offset"], strict=True)
    known = dict(zip(places, rows["content"], strict=True))
    with open_parquet(url, remedy=_REMEDY) as file:
        _write(url, file.read(), known)


def contents_url(shard_url: str) -> str:
    """Where the contents of a shard lie."""
    folder, _, name = shard_url.rpartition("/")
    return f"{folder}/.{name}.contents.parquet"


def _write(url: str, table: pa.Table, known: dict[tuple[str, int], bytes]) -> None:
    names = [name for name in (*MODALITIES, *OBJECTIVES) if name in table.column_names]
    are_there = (table[name].is_valid().to_pylist() for name in names)
    has_result = [any(row) for row in zip(*are_there, strict=True)]
    places = zip(table["key"].to_pylist(), table["offset"].to_pylist(), strict=True)
    contents = [
        known.get(place) if has else None for place, has in zip(places, has_result, strict=True)
    ]

    footer = json.loads(table.schema.metadata[METADATA_KEY]) | {"format_version": 2}
    table = table.add_column(
        FIXED_COLUMNS.index(CONTENT_COLUMN), CONTENT_COLUMN, pa.array(contents, CONTENT_TYPE)
    ).replace_schema_metadata({METADATA_KEY: json.dumps(footer, sort_keys=True)})
    with atomic_write(url) as stream:
        pq.write_table(
            table, stream, compression="zstd", write_statistics=False, write_page_checksum=True
        )
