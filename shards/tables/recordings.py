"""What `emostream predict` writes: one row a recording or window, as a file or as tables of shards.

Columns: `key`, `speaker`, `start`, `end` (seconds within the recording), for classes `label` (the
likeliest), one column `score_NAME` for each class or value, and `error` (why the others are empty).
A table of one shard has two more: `shard`, because a key is unique only within its shard, and
`features` where predictions will be calibrated, because a speaker's utterances may lie in several
shards and only all of them together say whom the speaker sounds like.

Shapes: W classes or values, D width.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.storage.files import atomic_write
from shards.storage.parquet import METADATA_KEY, open_parquet

FORMAT_VERSION = 2
READABLE_FORMATS = (2,)
KIND = "recordings"
REMEDY = "remove it and run `emostream predict` again"
FEATURES_COLUMN, SCORE_PREFIX = "features", "score_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The answer to one recording or window: `scores` [W] and `features` [D], or an `error`.

    Seconds count from the beginning of the file.
    """

    key: str
    speaker: str | None
    start_seconds: float | None
    end_seconds: float | None
    scores: NDArray[np.float32] | None
    features: NDArray[np.float32] | None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingsInfo:
    """The footer of a shard's table: what made it, from which shard, and its counts.

    `personalization` says what the recognizer hears together, `none` for a plain one. `rejected`
    counts the rows without a prediction by the code of their reason. `shard_error` says what is
    wrong with the shard, None where nothing is.
    """

    maker: str
    personalization: str
    shard: str
    shard_url: str
    shard_size: int
    shard_version: str
    shard_error: str | None
    num_rows: int
    num_utterances: int
    seconds_of_audio: float
    rejected: Mapping[str, int]
    kind: str = KIND
    format_version: int = FORMAT_VERSION


def prediction_table(
    predictions: Sequence[Prediction], names: Sequence[str], *, is_values: bool
) -> pa.Table:
    """The predictions as a table; `names` are the classes, or the values with `is_values`."""
    columns: dict[str, pa.Array] = {
        "key": pa.array([one.key for one in predictions], pa.string()),
        "speaker": pa.array([one.speaker for one in predictions], pa.string()),
        "start": pa.array([one.start_seconds for one in predictions], pa.float64()),
        "end": pa.array([one.end_seconds for one in predictions], pa.float64()),
    }

    if not is_values:
        labels = [None if one.scores is None else names[_best(one.scores)] for one in predictions]
        columns["label"] = pa.array(labels, pa.string())
    for place, name in enumerate(names):
        scores = [None if one.scores is None else float(one.scores[place]) for one in predictions]
        columns[f"{SCORE_PREFIX}{name}"] = pa.array(scores, pa.float32())

    columns["error"] = pa.array([one.error for one in predictions], pa.string())
    return pa.table(columns)


def write_shard_table(
    url: str,
    predictions: Sequence[Prediction],
    names: Sequence[str],
    info: RecordingsInfo,
    *,
    is_values: bool,
    with_features: bool,
) -> None:
    """Write the table of one shard. It appears whole or not at all; same rows give same bytes."""
    table = prediction_table(predictions, names, is_values=is_values)
    table = table.add_column(1, "shard", pa.array([info.shard] * len(table), pa.string()))

    if with_features:
        # A table without any prediction needs a width, too: 1 stands in.
        width = next((len(one.features) for one in predictions if one.features is not None), 1)
        vectors = pa.array([one.features for one in predictions], pa.list_(pa.float32(), width))
        table = table.append_column(FEATURES_COLUMN, vectors)

    footer = {METADATA_KEY: json.dumps(asdict(info), sort_keys=True)}
    with atomic_write(url) as stream:
        pq.write_table(
            table.replace_schema_metadata(footer),
            stream,
            compression="zstd",
            write_statistics=False,
            write_page_checksum=True,
        )


def read_recordings_info(url: str) -> RecordingsInfo:
    """The footer of a shard's table. Raises ConfigError when it is no such table."""
    with open_parquet(url, remedy=REMEDY) as file:
        return _info(file, url)


def read_recordings(url: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a shard's table, all columns or those asked for; without the footer."""
    with open_parquet(url, remedy=REMEDY) as file:
        _info(file, url)
        table = file.read(columns=None if columns is None else list(columns), use_threads=False)

    return table.replace_schema_metadata(None).combine_chunks()


def score_columns(table: pa.Table) -> list[str]:
    """The columns of the classes or values, in their order."""
    return [name for name in table.column_names if name.startswith(SCORE_PREFIX)]


def scores_of(table: pa.Table) -> NDArray[np.float32]:
    """The scores [N, W]; NaN in a row without a prediction."""
    columns = [
        table[name].to_numpy(zero_copy_only=False).astype(np.float32)
        for name in score_columns(table)
    ]
    return np.stack(columns, axis=1)


def _info(file: pq.ParquetFile, url: str) -> RecordingsInfo:
    values = json.loads((file.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}"))
    if values.get("kind") != KIND:
        raise ConfigError(
            f"{url}: not a table of `emostream predict`; keep other Parquet files out of this "
            "folder"
        )

    if values.get("format_version") not in READABLE_FORMATS:
        raise ConfigError(
            f"{url}: got table format {values.get('format_version')}, expected "
            f"{' or '.join(map(str, READABLE_FORMATS))}; {REMEDY}"
        )

    # A ValueError becomes the error of a damaged table in `open_parquet`, with the remedy.
    if values.keys() != {item.name for item in fields(RecordingsInfo)}:
        raise ValueError(f"its footer does not fit table format {FORMAT_VERSION}")

    return RecordingsInfo(**values)


def _best(scores: NDArray[np.float32]) -> int:
    return int(scores.argmax())


def about_file(about: Mapping[str, Any]) -> dict[bytes, str]:
    """The footer of a file for people: what made it."""
    return {METADATA_KEY: json.dumps({"kind": KIND, "format_version": FORMAT_VERSION, **about})}
