"""Prediction tables: what each labeler predicts for every utterance of one shard, kept or not.

A table is one small Parquet file for each input shard. It holds predictions and no decisions, so
that a selection is a pure function of tables and costs no GPU. The footer names the panel, the
weights and the version of the shard that the table was made from, so a table is recognized without
reading a row. Arrow writes the same bytes for the same rows, so labeling a shard twice does no
harm.

Only the columns that are asked for are read: embeddings are hundreds of times as large as the
distributions beside them. `pyarrow.dataset` was left out: it reads tables of different panels as
one and does not say so, drops the footers of all tables but one, and gives the rows in no fixed
order.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.emotions import NUM_EMOTIONS
from shards.storage.documents import read_json
from shards.storage.files import atomic_write, exists, join
from shards.storage.names import list_names
from shards.storage.parquet import METADATA_KEY, open_parquet
from shards.tables.earlier import CONTENT_COLUMN, CONTENT_TYPE
from shards.tables.names import is_table_name

FORMAT_VERSION = 2
# The newest first. Tables of format 1 have no contents, so nothing is taken over from them.
READABLE_FORMATS = (2, 1)
MODALITIES = ("audio", "vision", "text")
OBJECTIVES = ("acoustics", "egemaps", "sentiment", "face_embedding", "speaker_vector")
METADATA_COLUMN = "metadata"  # the sample's json
# Columns that tables of the last release do not have; they are null there.
_LATER_COLUMNS = {CONTENT_COLUMN: CONTENT_TYPE, METADATA_COLUMN: pa.string()}
SUMMARY_NAME = "label-summary.json"  # the labeling job writes it last, beside the tables
READ_THREADS = 16
REMEDY = "remove it and run `emostream label` again"

DISTRIBUTION = pa.list_(pa.float32(), NUM_EMOTIONS)
_FIXED_FIELDS = (
    pa.field("key", pa.string(), nullable=False),
    pa.field("shard", pa.string(), nullable=False),
    pa.field("offset", pa.int64(), nullable=False),
    pa.field("size", pa.int64(), nullable=False),
    pa.field("speaker", pa.string()),
    pa.field("duration_seconds", pa.float64()),
    *(pa.field(modality, DISTRIBUTION) for modality in MODALITIES),
    pa.field("transcript", pa.string()),
    pa.field("emotion", pa.string()),
    pa.field("error", pa.string()),
    pa.field(CONTENT_COLUMN, CONTENT_TYPE),
)
FIXED_COLUMNS = tuple(column.name for column in _FIXED_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One row: an utterance, its place in its shard, and what each labeler predicts for it.

    `audio`, `vision` and `text` are [7] float32 distributions in the order of `EMOTIONS`; None is
    no prediction, and `error` says why. `emotion` is the true emotion, which a sample may carry; it
    is used only to measure. `metadata` is the json of the sample, as text. `content` is the digest
    of what the labelers saw (`Seen`); it is None where their results must not be taken over by
    another table.
    """

    key: str
    shard: str
    offset: int
    size: int
    speaker: str | None = None
    duration_seconds: float | None = None
    audio: NDArray[np.float32] | None = None
    vision: NDArray[np.float32] | None = None
    text: NDArray[np.float32] | None = None
    transcript: str | None = None
    emotion: str | None = None
    metadata: str | None = None
    objectives: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    error: str | None = None
    content: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableInfo:
    """The footer of a table: the panel and the shard that the table was made from.

    `shard_error` says what is wrong with the shard, None where nothing is.
    """

    panel_digest: str
    panel: Mapping[str, Any]
    labelers: Mapping[str, Mapping[str, str]]
    shard: str
    shard_url: str
    shard_size: int
    shard_version: str
    shard_error: str | None
    num_rows: int
    format_version: int = FORMAT_VERSION


def write_predictions(url: str, rows: Sequence[Prediction], info: TableInfo) -> None:
    """Write one table. It appears whole or not at all, and the same rows give the same bytes."""
    table = build_table(rows).replace_schema_metadata(
        {METADATA_KEY: json.dumps(asdict(info), sort_keys=True)}
    )

    with atomic_write(url) as stream:
        pq.write_table(
            table, stream, compression="zstd", write_statistics=False, write_page_checksum=True
        )


def build_table(rows: Sequence[Prediction]) -> pa.Table:
    """The rows as an Arrow table.

    The metadata and each objective are columns only where at least one row has them.
    """
    columns = {name: [_plain(getattr(row, name)) for row in rows] for name in FIXED_COLUMNS}
    schema = list(_FIXED_FIELDS)

    if any(row.metadata is not None for row in rows):
        schema.append(pa.field(METADATA_COLUMN, pa.string()))
        columns[METADATA_COLUMN] = [row.metadata for row in rows]

    for name in OBJECTIVES:
        values = [row.objectives.get(name) for row in rows]
        width = next((len(value) for value in values if value is not None), None)
        if width is not None:
            schema.append(pa.field(name, pa.list_(pa.float32(), width)))
            columns[name] = [_plain(value) for value in values]

    return pa.table(columns, schema=pa.schema(schema))


def read_info(url: str) -> TableInfo:
    """The footer of a table. Raises ConfigError when it is no prediction table of this format."""
    with open_parquet(url, remedy=REMEDY) as file:
        return _info(file, url)


def read_objectives(url: str, names: Iterable[str]) -> pa.Table:
    """The offset of each row of a table, and those of the objectives `names` that the table has."""
    with open_parquet(url, remedy=REMEDY) as file:
        _info(file, url)
        present = [name for name in names if name in file.schema_arrow.names]
        return file.read(columns=["offset", *present]).combine_chunks()


def list_predictions(directory: str) -> dict[str, TableInfo]:
    """The footer of each table of a predictions folder, by the URL of the table.

    Raises ConfigError as `load_predictions` does.
    """
    urls = _table_urls(directory)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        infos = list(pool.map(read_info, urls))

    _require_one_table_a_shard(directory, infos)
    _require_one_panel(directory, infos)
    return dict(zip(urls, infos, strict=True))


def load_predictions(
    directory: str, columns: Iterable[str] = FIXED_COLUMNS
) -> tuple[pa.Table, list[TableInfo]]:
    """All tables of a predictions folder as one, sorted by shard and offset, and their footers.

    `columns` is a choice of FIXED_COLUMNS and METADATA_COLUMN; what a table of the last release
    does not have is null. Raises ConfigError when the folder holds no table, two tables of one
    shard, tables of different panels, or a Parquet file that is no prediction table.
    """
    urls = _table_urls(directory)

    # A table's name holds only the last part of its shard's path, so tables sorted by their names
    # are not in the order of their shards.
    wanted = list(columns)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        loaded = sorted(
            pool.map(lambda url: _load(url, wanted), urls), key=lambda pair: pair[0].shard
        )

    infos = [info for info, _ in loaded]
    _require_one_table_a_shard(directory, infos)
    _require_one_panel(directory, infos)
    return pa.concat_tables([table for _, table in loaded]).combine_chunks(), infos


def unfinished_labeling(directory: str) -> str | None:
    """Why tables may be missing from a predictions folder; None when the job made all of them.

    Tables are missing while the labeling job is at work, after it was stopped, and where it gave up
    shards.
    """
    url = join(directory, SUMMARY_NAME)
    if not exists(url):
        return (
            f"there is no {SUMMARY_NAME} beside the tables: the labeling job is still at work or "
            "was stopped"
        )

    try:
        failed = [str(shard["name"]) for shard in read_json(url)["failed"]]
    except (ValueError, KeyError, TypeError) as error:
        return f"{SUMMARY_NAME} cannot be read ({error!r})"
    if not failed:
        return None

    shown = ", ".join(failed[:3]) + (", ..." if len(failed) > 3 else "")
    return f"the labeling job gave up {len(failed)} shards ({shown})"


def distributions(table: pa.Table, modality: str) -> NDArray[np.float64]:
    """A modality's column as [N, 7] float64; a row without a prediction is NaN."""
    column = table[modality].combine_chunks()

    values = np.full((len(column), NUM_EMOTIONS), math.nan)
    present = np.asarray(column.is_valid())
    values[present] = (
        column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, NUM_EMOTIONS)
    )

    return values


def _table_urls(directory: str) -> list[str]:
    urls = [join(directory, name) for name in list_names(directory) if is_table_name(name)]
    if not urls:
        raise ConfigError(
            f"{directory}: the folder holds no prediction tables; run `emostream label --out "
            f"{directory}` first"
        )
    return urls


def _load(url: str, columns: list[str]) -> tuple[TableInfo, pa.Table]:
    with open_parquet(url, remedy=REMEDY) as file:
        info = _info(file, url)
        # Arrow starts no threads of its own, because whole tables are already read in parallel.
        present = file.schema_arrow.names
        rows = file.read(columns=[name for name in columns if name in present], use_threads=False)
        for name, kind in _LATER_COLUMNS.items():
            if name in columns and name not in present:
                rows = rows.append_column(name, pa.nulls(len(rows), kind))

        # Tables are joined later, so their columns must come in one order.
        return info, rows.select(columns).replace_schema_metadata(None).sort_by("offset")


def _info(file: pq.ParquetFile, url: str) -> TableInfo:
    metadata = file.schema_arrow.metadata or {}
    if METADATA_KEY not in metadata:
        raise ConfigError(
            f"{url}: not a prediction table; keep other Parquet files out of the predictions folder"
        )

    values = json.loads(metadata[METADATA_KEY])
    version = values.get("format_version")
    if version not in READABLE_FORMATS:
        remedy = "label again into a new folder, or use the release that wrote it"
        expected = " or ".join(map(str, sorted(READABLE_FORMATS)))
        raise ConfigError(f"{url}: got table format {version}, expected {expected}; {remedy}")

    # A ValueError becomes the error of a damaged table in `open_parquet`, with the remedy.
    expected_fields = _FIXED_FIELDS if version > 1 else _FIXED_FIELDS[:-1]
    columns = tuple(file.schema_arrow)[: len(expected_fields)]
    if columns != expected_fields or values.keys() != {column.name for column in fields(TableInfo)}:
        raise ValueError(f"its footer or columns do not fit table format {version}")

    return TableInfo(**values)


def _require_one_table_a_shard(directory: str, infos: Sequence[TableInfo]) -> None:
    # A shard may have been labeled under two names, such as `a.tar` in its own folder and
    # `part-7/a.tar` in the folder above, so URLs are counted, too.
    counts = Counter(info.shard for info in infos)
    counts.update(info.shard_url for info in infos)

    for shard, number in counts.items():
        if number > 1:
            remedy = (
                "run `emostream label` again, which removes the tables that it has replaced when "
                "it finishes"
            )
            raise ConfigError(
                f"{directory}: got {number} tables of shard {shard!r}, expected one; {remedy}"
            )


def _require_one_panel(directory: str, infos: Sequence[TableInfo]) -> None:
    panels = Counter(info.panel_digest for info in infos)
    if len(panels) > 1:
        shares = ", ".join(f"{number} by {digest[:12]}" for digest, number in panels.most_common())
        remedy = "run `emostream label` over all shards with one panel"
        raise ConfigError(
            f"{directory}: got tables of {len(panels)} panels ({shares}), expected one; {remedy}"
        )


def _plain(value: Any) -> Any:
    return value.astype(np.float32) if isinstance(value, np.ndarray) else value
