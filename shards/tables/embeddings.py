"""Embedding tables: the vector and the json of every utterance of one shard.

Like prediction tables, embedding tables are one Parquet file for each input shard. An embedding
costs a pass of the encoder; a speaker table, of whichever speakers, labels and splits, is a pure
function of the embedding tables. So new utterances update a speaker exactly, without the old sound,
and a speaker table with other labels costs seconds.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.storage.files import atomic_write
from shards.storage.parquet import METADATA_KEY, open_parquet
from shards.tables.earlier import CONTENT_COLUMN, CONTENT_TYPE

FORMAT_VERSION = 2
# The newest first. Tables of format 1 have no contents, so nothing is taken over from them.
READABLE_FORMATS = (2, 1)
KIND = "embeddings"
REMEDY = "remove it and run `emostream embed` again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """One utterance: who speaks, its vector [D], and its json in canonical form (`metadata`).

    `vector` is None exactly when `error` says why there is no vector. `content` is the digest of
    what the encoder heard (`Seen`); it is None where there is no vector to take over.
    """

    key: str
    speaker: str | None
    duration_seconds: float | None
    vector: NDArray[np.float32] | None
    metadata: str | None
    error: str | None
    content: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingInfo:
    """The footer of a table: the encoder and the shard that the table was made from.

    `shard_error` says what is wrong with the shard, None where nothing is.
    """

    encoder: str
    fingerprint: str
    shard: str
    shard_url: str
    shard_size: int
    shard_version: str
    shard_error: str | None
    num_rows: int
    kind: str = KIND
    format_version: int = FORMAT_VERSION


def write_embeddings(url: str, rows: Sequence[Embedding], info: EmbeddingInfo) -> None:
    """Write one table. It appears whole or not at all, and the same rows give the same bytes."""
    # A table without any vector needs a width, too: 1 stands in.
    width = next((len(row.vector) for row in rows if row.vector is not None), 1)

    table = pa.table(
        {
            "key": pa.array([row.key for row in rows], pa.string()),
            "speaker": pa.array([row.speaker for row in rows], pa.string()),
            "duration_seconds": pa.array([row.duration_seconds for row in rows], pa.float64()),
            "vector": pa.array([row.vector for row in rows], pa.list_(pa.float32(), width)),
            "metadata": pa.array([row.metadata for row in rows], pa.string()),
            "error": pa.array([row.error for row in rows], pa.string()),
            CONTENT_COLUMN: pa.array([row.content for row in rows], CONTENT_TYPE),
        }
    ).replace_schema_metadata({METADATA_KEY: json.dumps(asdict(info), sort_keys=True)})

    with atomic_write(url) as stream:
        pq.write_table(
            table, stream, compression="zstd", write_statistics=False, write_page_checksum=True
        )


def read_embedding_info(url: str) -> EmbeddingInfo:
    """The footer of a table. Raises ConfigError when it is no embedding table of this format."""
    with open_parquet(url, remedy=REMEDY) as file:
        return _info(file, url)


def read_embeddings(
    url: str, columns: Sequence[str] = ("key", "speaker", "vector", "metadata")
) -> pa.Table:
    """The `columns` of the usable rows of a table: those with a vector."""
    with open_parquet(url, remedy=REMEDY) as file:
        _info(file, url)
        rows = file.read(columns=[*columns, "error"], use_threads=False)

    return rows.filter(rows["error"].is_null()).drop_columns(["error"]).combine_chunks()


def vectors_of(rows: pa.Table) -> NDArray[np.float32]:
    """The vectors [N, D] of usable rows."""
    column = rows["vector"].combine_chunks()
    found: NDArray[np.float32] = (
        column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    )
    return found


def _info(file: pq.ParquetFile, url: str) -> EmbeddingInfo:
    values = json.loads((file.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}"))
    if values.get("kind") != KIND:
        raise ConfigError(
            f"{url}: not an embedding table; keep other Parquet files out of this folder"
        )

    if values.get("format_version") not in READABLE_FORMATS:
        raise ConfigError(
            f"{url}: got table format {values.get('format_version')}, expected "
            f"{' or '.join(map(str, sorted(READABLE_FORMATS)))}; {REMEDY}"
        )

    # A ValueError becomes the error of a damaged table in `open_parquet`, with the remedy.
    if values.keys() != {item.name for item in fields(EmbeddingInfo)}:
        raise ValueError(f"its footer does not fit embedding table format {FORMAT_VERSION}")

    return EmbeddingInfo(**values)
