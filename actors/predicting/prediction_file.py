"""The file that `emostream predict` writes: one row a recording or window, in three formats.

Columns: `key`, `speaker`, `start`, `end` (seconds within the file), for classes `label` (the
likeliest), one column `score_NAME` for each class or value, and `error` (why the others are empty).
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from actors.predicting.predicting import Prediction
from shards.storage.files import atomic_write
from shards.storage.parquet import METADATA_KEY

FORMAT_VERSION = 1
KIND = "recordings"


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
        columns[f"score_{name}"] = pa.array(scores, pa.float32())

    columns["error"] = pa.array([one.error for one in predictions], pa.string())
    return pa.table(columns)


def write_predictions(url: str, table: pa.Table, about: Mapping[str, Any]) -> None:
    """Write the table in the format that `url` ends with; it appears whole or not at all.

    `about` says what made it, and is kept in the footer of a Parquet file.
    """
    with atomic_write(url) as stream:
        if url.endswith(".csv"):
            pyarrow.csv.write_csv(table, stream)
        elif url.endswith(".jsonl"):
            stream.write(_json_lines(table))
        else:
            footer = {"kind": KIND, "format_version": FORMAT_VERSION, **about}
            described = table.replace_schema_metadata({METADATA_KEY: json.dumps(footer)})
            pq.write_table(described, stream, compression="zstd", write_page_checksum=True)


def _best(scores: NDArray[np.float32]) -> int:
    return int(scores.argmax())


def _json_lines(table: pa.Table) -> bytes:
    text = io.StringIO()
    for row in table.to_pylist():
        text.write(json.dumps(row, ensure_ascii=False) + "\n")
    return text.getvalue().encode()
